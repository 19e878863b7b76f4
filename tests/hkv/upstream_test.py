"""The bill of materials names HierarchicalKV only where it is compiled in."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

if "UPSTREAM_SBOM" not in os.environ:
    pytest.skip("tools/bazel test builds what it looks at", allow_module_level=True)


def names(text: str | bytes) -> set[str]:
    return {package["name"] for package in json.loads(text)["packages"]}


def test_hierarchical_kv_is_named_only_where_it_is_compiled_in() -> None:
    upstream = names(Path(os.environ["UPSTREAM_SBOM"]).read_text())
    with zipfile.ZipFile(os.environ["WHEEL"]) as archive:
        (sbom,) = [name for name in archive.namelist() if name.endswith(".spdx.json")]
        native = names(archive.read(sbom))
    assert upstream - native == {"hierarchical-kv"} and upstream > native
