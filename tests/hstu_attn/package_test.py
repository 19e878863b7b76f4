"""The package itself: its report, its version, and what it says when it cannot be loaded."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import hstu_attn
import pytest
import torch
from hstu_attn.__main__ import gpu_line, served_by
from hstu_attn._core.library import load
from hstu_attn.ops import LIBRARY, MINIMUM_TORCH, build_info
from packaging.requirements import Requirement

from tests.common.processes import python
from tests.hstu_attn.cases import make_case, run

ARCHS = ["sm_80", "sm_90", "compute_80"]
SWITCHES = (
    "BACKWARD DETERMINISTIC LOCAL CAUSAL CONTEXT TARGET ARBITRARY RAB DRAB BF16 FP16 HDIM32 HDIM64 "
    "HDIM128 HDIM256 86OR89"
).split()


def copy_of_the_package(tmp_path: Path, library: bytes | None) -> Path:
    target = tmp_path / "hstu_attn"
    shutil.copytree(LIBRARY.parent, target, ignore=shutil.ignore_patterns("*.so"))
    if library is not None:
        (target / LIBRARY.name).write_bytes(library)
    return tmp_path


def test_every_switch_is_either_in_the_build_or_left_out() -> None:
    info = build_info()
    assert sorted(info["enabled"] + info["disabled"]) == sorted(SWITCHES)
    assert info["version"] and info["archs"] and info["cuda"].split(".")[0].isdigit()


def test_the_public_names() -> None:
    assert hstu_attn.__version__
    assert set(hstu_attn.__all__) == {
        "__version__",
        "hstu_attn_qkvpacked_func",
        "hstu_attn_varlen_func",
    }


def test_the_report_says_what_there_is() -> None:
    done = python("-m", "hstu_attn")
    assert done.returncode == 0, done.stderr
    for word in (hstu_attn.__version__, torch.__version__, "BF16", "GPU", build_info()["archs"]):
        assert word in done.stdout, done.stdout


def test_a_missing_library_is_one_sentence(tmp_path: Path) -> None:
    done = python("-c", "import hstu_attn", first=copy_of_the_package(tmp_path, None))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "ImportError: hstu_attn: the op library libhstu_attn.so is missing from" in last
    assert "install" in last


def test_a_broken_library_is_one_sentence(tmp_path: Path) -> None:
    done = python(
        "-c", "import hstu_attn", first=copy_of_the_package(tmp_path, b"not a shared object")
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "ImportError: hstu_attn: the op library" in last and "cannot be loaded" in last


def test_an_old_torch_is_one_sentence(tmp_path: Path) -> None:
    old = "import torch; torch.__version__ = '2.9.1+cu128'; import hstu_attn"
    done = python("-c", old, first=copy_of_the_package(tmp_path, None))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "ImportError: hstu_attn needs PyTorch >= 2.10, but this is 2.9.1+cu128" in last


@pytest.mark.parametrize(
    ("version", "serves"),
    [
        ("2.9.1", False),
        ("2.9.2a0+git", False),
        ("2.10.0.dev20251201+cu130", True),
        ("2.10.0a0+df82bd6", True),
        ("2.10.0rc3", True),
        ("2.10.0", True),
        ("2.13.0+cpu", True),
        ("3.0.0", True),
    ],
)
def test_pip_and_the_import_admit_the_same_torch(
    version: str, serves: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    every = [Requirement(text) for text in metadata.requires("hstu-attn") or []]
    (wanted,) = (r.specifier for r in every if r.name == "torch")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError) as error:
        load("hstu_attn", tmp_path / "absent.so", MINIMUM_TORCH)
    assert wanted.contains(version) == serves == ("is missing from" in str(error.value))


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((7, 5), None),
        ((8, 0), "sm_80"),
        ((8, 6), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 0), "compute_80"),
        ((12, 0), "compute_80"),
    ],
)
def test_which_machine_code_serves_a_gpu(capability: tuple[int, int], arch: str | None) -> None:
    assert served_by(capability, ARCHS) == arch


def test_an_unserved_gpu_is_named_with_the_way_out() -> None:
    info: dict[str, object] = {"archs": ",".join(ARCHS), "disabled": []}
    line = gpu_line("Tesla T4", (7, 5), info)
    assert "Tesla T4" in line and "NOT SERVED" in line and "8.0 or newer" in line
    assert "NOT SERVED" not in gpu_line("A100", (8, 0), info)
    info["disabled"] = ["86OR89"]
    assert "HSTU_DISABLE_86OR89" in gpu_line("L4", (8, 9), info)
    assert "NOT SERVED" not in gpu_line("A100", (8, 0), info)


USES: dict[str, dict[str, Any]] = {
    "BACKWARD": {},
    "DETERMINISTIC": {},
    "LOCAL": {"window": (3, 2)},
    "CAUSAL": {"window": (-1, 0)},
    "CONTEXT": {"window": (-1, 0), "contexts": 3},
    "TARGET": {"window": (-1, 0), "targets": 3},
    "ARBITRARY": {"n_func": 3},
    "RAB": {"rab_heads": 1},
    "DRAB": {"rab_heads": 1},
    "BF16": {"dtype": torch.bfloat16},
    "FP16": {"dtype": torch.float16},
    "HDIM32": {"dim": 32},
    "HDIM64": {"dim": 64},
    "HDIM128": {"dim": 128},
    "HDIM256": {"dim": 256},
}


@pytest.mark.parametrize("switch", USES)
def test_what_was_left_out_says_so(gpu: str, switch: str) -> None:
    if switch in build_info()["enabled"]:
        pytest.skip(f"{switch} is in this build")
    case = make_case(device=gpu, **USES[switch])
    with pytest.raises(RuntimeError, match=rf"is not in this build \(HSTU_DISABLE_{switch}\)"):
        run(case, deterministic=switch == "DETERMINISTIC")


def test_this_gpu_is_served(gpu: str) -> None:
    archs = build_info()["archs"].split(",")
    assert served_by(torch.cuda.get_device_capability(), archs) is not None
    assert torch.isfinite(run(make_case(device=gpu))["out"]).all()
