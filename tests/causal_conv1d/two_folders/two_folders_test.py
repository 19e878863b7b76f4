"""The three steps of hip_library give the same bytes in every folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.common.bazel import variable
from tools.lint import tree

ARCH = "gfx942"
SOURCES = [Path(path).resolve() for path in variable("SOURCES").split()]
BUILT = {path.name: path for path in map(Path, variable("OBJECTS").split())}
SHORT = ["conv1d_forward_bf16", "conv1d_update_fp32"]  # the others take minutes


def compiler() -> Path:
    """The folder of the C++ toolchain's repository."""
    base, found, _ = os.getcwd().partition("/execroot/")
    if not found:
        pytest.skip("only bazel test runs this: it takes the compiler of the build")
    return (Path(base) / "external" / os.environ["CC_REPOSITORY"]).resolve()


def code_object(folder: Path, source: Path) -> bytes:
    """Compiles a copy of the source and of the headers in the folder."""
    shutil.copytree(tree.root() / "csrc", folder / "csrc")
    shutil.copy(source, folder / source.name)
    zig = compiler() / "ziglang/zig"
    bitcode = tree.root() / "tools/hip/bitcode.sh"
    flags = {step: os.environ[step] for step in ("BITCODE", "OBJECT", "LINK")}
    for command in (
        f"{bitcode} {zig} {flags['BITCODE']} --offload-arch={ARCH} -iquote . {source.name} -o a.bc",
        f"{zig} {flags['OBJECT']} -target-cpu {ARCH} -emit-obj a.bc -o a.o",
        f"{zig} {flags['LINK']} a.o -o a.hsaco",
    ):
        subprocess.run(command.split(), cwd=folder, env={"PATH": os.environ["PATH"]}, check=True)
    return (folder / "a.hsaco").read_bytes()


@pytest.mark.parametrize("name", SHORT)
def test_a_code_object_has_the_same_bytes_from_two_folders(name: str, tmp_path: Path) -> None:
    (source,) = [path for path in SOURCES if path.stem == name]
    here = code_object(tmp_path / "here", source)
    there = code_object(tmp_path / "another/folder/deep below", source)
    assert here == there == BUILT[f"{name}.{ARCH}.hsaco"].read_bytes()
