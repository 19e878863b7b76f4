"""Every wheel of a release is whole by itself: it has its own copy of what the packages share."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

if "CORE" not in os.environ:
    pytest.skip("$CORE and $WHEELS name what is compared: run by Bazel", allow_module_level=True)

CORE = {Path(path).name: Path(path).read_bytes() for path in os.environ["CORE"].split()}
WHEELS = [Path(path) for path in os.environ["WHEELS"].split()]


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.name.split("-")[0])
def test_the_wheel_has_a_copy_of_the_core(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        copied = {
            Path(name).name: archive.read(name) for name in archive.namelist() if "/_core/" in name
        }
    assert copied == CORE and "checks.py" in copied
