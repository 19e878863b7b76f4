"""A library that cannot be loaded is one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from python.accel_core import library, report


def test_a_missing_library_names_the_wheel(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"^my_ops: the op library lib.so is missing .* my-ops"):
        library.load("my_ops", tmp_path / "lib.so", (2, 10))


def test_a_broken_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"not a shared object")
    with pytest.raises(ImportError, match=r"^my_ops: the op library .*lib.so cannot be loaded"):
        library.load("my_ops", tmp_path / "lib.so", (2, 10))


def test_an_old_torch_is_named_with_the_least(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"^my_ops needs PyTorch >= 99\.1, but this is 2\."):
        library.load("my_ops", tmp_path / "lib.so", (99, 1))


@pytest.mark.parametrize(
    ("capability", "arch"),
    [((7, 5), None), ((8, 0), "sm_80"), ((8, 6), "sm_80"), ((9, 0), None), ((10, 0), "compute_90")],
)
def test_machine_code_serves_its_major_and_ptx_what_is_newer(
    capability: tuple[int, int], arch: str | None
) -> None:
    archs = ["sm_80", "sm_90a", "compute_90"] if capability[0] != 9 else ["sm_80", "sm_90a"]
    assert report.served_by(capability, archs) == arch


def test_the_report_names_torch_and_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    version, gpu = report.torch_lines(lambda name, capability: name)
    assert torch.__version__ in version and report.NO_GPU in gpu


def test_the_report_describes_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda index: f"card {index}",
        "get_device_capability": lambda index: (8, index),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    _, *gpus = report.torch_lines(lambda name, capability: f"{name} of {capability}")
    assert gpus == ["GPU 0      card 0 of (8, 0)", "GPU 1      card 1 of (8, 1)"]
