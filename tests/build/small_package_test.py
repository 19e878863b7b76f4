"""The small package, imported from its unpacked wheel."""

from __future__ import annotations

import os
from importlib.metadata import version

import pytest
import torch

if "TEST_SRCDIR" not in os.environ:
    pytest.skip("only bazel test makes the small package", allow_module_level=True)

import accel_small


def test_the_cpu_ops_calculate() -> None:
    x = torch.randn(1000)
    torch.testing.assert_close(accel_small.scale(x, 3.0), 3 * x)
    torch.testing.assert_close(accel_small.shift(x, 3.0), x + 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_cuda_kernels_calculate() -> None:
    x = torch.randn(100_003, device="cuda")
    torch.testing.assert_close(accel_small.scale(x, 3.0), 3 * x)
    torch.testing.assert_close(accel_small.shift(x, 3.0), x + 3)


def test_the_op_compiles_whole() -> None:
    compiled = torch.compile(
        lambda x: accel_small.scale(x, 2.0) + 1, fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(torch.ones(4)), torch.full((4,), 3.0))


def test_an_error_of_the_op_reaches_python() -> None:
    with pytest.raises(RuntimeError, match="x must be contiguous"):
        accel_small.scale(torch.ones(4, 4).t(), 1.0)


def test_the_installed_version_is_known() -> None:
    assert version("accel-small")
