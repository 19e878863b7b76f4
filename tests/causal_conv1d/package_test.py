"""The package itself: its report, its names, and what it says when it cannot be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import causal_conv1d
import torch
from causal_conv1d.ops import LIBRARY, build_info

from tests.common.processes import python


def copy_of_the_package(tmp_path: Path, library: bytes | None) -> Path:
    target = tmp_path / "causal_conv1d"
    shutil.copytree(LIBRARY.parent, target, ignore=shutil.ignore_patterns("*.so"))
    if library is not None:
        (target / LIBRARY.name).write_bytes(library)
    return tmp_path


def test_the_public_names() -> None:
    assert set(causal_conv1d.__all__) == {
        "__version__",
        "causal_conv1d_fn",
        "causal_conv1d_packed",
        "causal_conv1d_update",
    }
    assert causal_conv1d.__version__ == build_info()["version"]


def test_the_report_says_what_there_is_and_tests_it() -> None:
    done = python("-m", "causal_conv1d")
    assert done.returncode == 0, done.stderr
    for word in ("causal-conv1d-hip", torch.__version__, build_info()["archs"], "cpu: right"):
        assert word in done.stdout, done.stdout


def test_the_kernels_for_amd_gpus_are_listed() -> None:
    done = python("-m", "causal_conv1d", "--objects")
    assert done.returncode == 0, done.stderr
    for gpu in ("gfx90a", "gfx942", "gfx1100", "gfx1201"):
        assert f"amdgcn-amd-amdhsa--{gpu}: 12 code objects, 61 kernels" in done.stdout
    assert done.stdout.count("conv1d_forward_last_seq_bf16_w4\n") == 4


def test_a_missing_library_is_one_sentence(tmp_path: Path) -> None:
    done = python("-c", "import causal_conv1d", first=copy_of_the_package(tmp_path, None))
    last = done.stderr.strip().splitlines()[-1]
    assert "the op library libcausal_conv1d.so is missing from" in last
    assert "install the causal-conv1d-hip wheel" in last


def test_a_broken_library_is_one_sentence(tmp_path: Path) -> None:
    broken = copy_of_the_package(tmp_path, b"not a shared object")
    done = python("-c", "import causal_conv1d", first=broken)
    last = done.stderr.strip().splitlines()[-1]
    assert "ImportError: causal_conv1d: the op library" in last and "cannot be loaded" in last


def test_it_refuses_to_lie_in_one_folder_with_the_peer(tmp_path: Path) -> None:
    ours = copy_of_the_package(tmp_path, LIBRARY.read_bytes())
    info = ours / "causal_conv1d_hip-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: causal-conv1d-hip\nVersion: 1\n")
    files = [p.relative_to(ours) for p in (ours / "causal_conv1d").rglob("*") if p.is_file()]
    (info / "RECORD").write_text("".join(f"{p},,\n" for p in files))
    assert python("-c", "import causal_conv1d", first=ours).returncode == 0
    (ours / "causal_conv1d/causal_conv1d_cuda.py").write_text("")
    done = python("-c", "import causal_conv1d", first=ours)
    last = done.stderr.strip().splitlines()[-1]
    assert "causal_conv1d_cuda.py is not of causal-conv1d-hip but of" in last
