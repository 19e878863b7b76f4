"""Objects of triton_library: equal bytes from another folder, how they are launched, their cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import triton

from tests.hstu_triton.cases import INTERPRETED  # noqa: F401 - Triton is imported as elsewhere

if "OBJECTS" not in os.environ:
    pytest.skip("tools/bazel test //tests/hstu_triton/... builds them", allow_module_level=True)

ROWS = sorted(Path(p) for p in os.environ["OBJECTS"].split() if p.endswith(".row.json"))
COMPILE = Path(os.environ["COMPILE"]).resolve()
STACK = 64  # bytes of each thread that may lie in local memory


def named(row: Path) -> str:
    return f"{row.parent.name} {row.name.removesuffix('.row.json')}"


def cubin(row: Path) -> Path:
    return row.with_name(row.name.replace(".row.json", ".cubin"))


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_another_folder_gives_equal_bytes(row: Path, tmp_path: Path) -> None:
    kernels = Path("python/generative_recommenders/ops/triton")
    shutil.copytree(kernels, tmp_path / "elsewhere" / kernels)
    site, out = tmp_path / "site.txt", tmp_path / "other.cubin"
    site.write_text(f"{Path(triton.__file__).parents[1]}\n")
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, COMPILE, site, tmp_path / "elsewhere/python", row.resolve(), out]
    subprocess.run(command, env=variables, cwd=tmp_path, check=True)
    for end in ("", ".json", ".ptx"):
        ours, theirs = (Path(f"{path}{end}").read_bytes() for path in (cubin(row), out))
        assert sha256(ours).hexdigest() == sha256(theirs).hexdigest(), end


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_an_object_says_how_it_is_launched_and_fits_the_gpu(row: Path) -> None:
    of = json.loads(Path(f"{cubin(row)}.json").read_text())
    memory = {"sm_80": 163, "sm_90": 227}[of["arch"]] * 1024
    assert of["shared"] <= memory and of["registers"] <= 255 and of["scratch"] == 0
    assert of["stack"] <= STACK, of
    assert of["num_warps"] in (4, 8) and of["parameters"]


def test_the_wheel_has_at_most_400_objects() -> None:
    assert len(ROWS) <= 400
