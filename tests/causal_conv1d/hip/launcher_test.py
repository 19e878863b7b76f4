"""The launcher for AMD GPUs, end to end against a stand-in for ROCm's runtime that has no GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.common.bazel import variable

LAUNCHES = Path(variable("LAUNCHES")).resolve()
STAND_IN = Path(variable("STAND_IN")).resolve()
TORCH_HIP = Path(variable("TORCH_HIP")).resolve()
GPUS = ["gfx90a", "gfx942", "gfx1100", "gfx1201"]


def launches(*arguments: str, runtime: bool = True, **variables: str) -> str:
    """What the program says."""
    env = dict(variables)
    if runtime:
        env["LD_LIBRARY_PATH"] = str(STAND_IN.parent)
    done = subprocess.run(
        [LAUNCHES, *arguments], env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("arch", [*GPUS, "gfx90a:sramecc+:xnack-"])
def test_every_gpu_gets_its_code_and_the_right_results(arch: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert launches(STAND_IN_GPU=arch, STAND_IN_LOG=str(log)) == "right"
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 3 * 2 * 2 * 3  # types, layouts, widths; forward, backward, its sum
    names = {name for name, _, _, _ in lines}
    assert {
        f"conv1d_forward_{s}_{t}_w4" for s in ("first", "last") for t in ("fp16", "bf16")
    } < names
    assert {stream for _, _, _, stream in lines} == {"0x5eed"}
    assert {threads for _, _, threads, _ in lines} == {"128", "256"}


def test_without_the_runtime_the_error_names_it() -> None:
    assert launches(runtime=False) == (
        "causal_conv1d: an AMD GPU needs ROCm's runtime, and none of libamdhip64.so, .so.7, .so.6 "
        "is found: install it, or name its folder in LD_LIBRARY_PATH"
    )


def test_a_gpu_without_code_is_named_with_those_built_in_and_the_flag() -> None:
    assert launches(STAND_IN_GPU="gfx1030") == (
        f"causal_conv1d: this GPU is gfx1030, and this build has code for {', '.join(GPUS)}: "
        "build it with --//tools/hip:archs=gfx1030"
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("hipGetDevice", "hipGetDevice failed: invalid argument (hipError_t 1)"),
        (
            "hipGetDevicePropertiesR0600",
            "hipGetDevicePropertiesR0600 failed: invalid argument (hipError_t 1)",
        ),
        (
            "hipModuleLoadData",
            "hipModuleLoadData of conv1d_forward_fp32 failed: device kernel image is invalid "
            "(hipError_t 200)",
        ),
        (
            "hipModuleGetFunction",
            "hipModuleGetFunction of conv1d_forward_first_fp32_w4 failed: named symbol not found "
            "(hipError_t 500)",
        ),
        (
            "hipModuleLaunchKernel",
            "hipModuleLaunchKernel of conv1d_forward_first_fp32_w4 failed: invalid argument "
            "(hipError_t 1)",
        ),
    ],
)
def test_a_call_that_fails_is_named_with_its_reason(call: str, said: str) -> None:
    assert launches(STAND_IN_FAILS=call) == f"causal_conv1d: {said}"


def test_more_threads_than_hip_counts_are_an_error() -> None:
    said = launches("--many-blocks")
    assert "would need 1073741824 blocks of 128 threads" in said


def test_rocm_is_where_its_pytorch_is_loaded() -> None:
    assert launches("--where") == "not ROCm"
    assert launches("--where", str(TORCH_HIP)) == "ROCm"
