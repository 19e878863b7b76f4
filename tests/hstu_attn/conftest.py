"""What the tests of hstu_attn share: the device fixture, hypothesis settings, the case builder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # hstu_cases, in every import mode of pytest

torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
settings.register_profile("hstu_attn", deadline=None, derandomize=True, database=None)
settings.load_profile("hstu_attn")

NO_GPU = "needs a CUDA GPU of compute capability 8.0 or newer"


def has_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Runs a test on the CPU and, where there is one, on the GPU."""
    if request.param == "cuda" and not has_gpu():
        pytest.skip(NO_GPU)
    return str(request.param)


@pytest.fixture
def gpu() -> str:
    """For tests that only mean something on a GPU."""
    if not has_gpu():
        pytest.skip(NO_GPU)
    return "cuda"
