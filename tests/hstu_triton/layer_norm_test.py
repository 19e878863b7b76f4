"""Norms of rows: PyTorch against their formulas, Triton against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import layer_norm as ops
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, INTERPRETED, needs_triton

ROWS = [0, 1, 37] if INTERPRETED else [0, 1, 37, 10000]
NORMS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": lambda k, x, w, b: ops.layer_norm(x, w, b, 1e-5, k),
    "swish_layer_norm": lambda k, x, w, b: ops.swish_layer_norm(x, w, b, 1e-5, k),
    "rms_norm": lambda k, x, w, b: ops.rms_norm(x, w, 1e-5, False, k),
    "rms_norm silu": lambda k, x, w, b: ops.rms_norm(x, w, 1e-5, True, k),
}


def test_pytorch_is_the_formulas() -> None:
    x, w, b = cases.drawn(9, 20), cases.drawn(20, seed=1), cases.drawn(20, seed=2)
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * w + b
    rms = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * w
    expected = [normed, x * torch.sigmoid(normed), rms, rms * torch.sigmoid(rms)]
    for norm, value in zip(NORMS.values(), expected, strict=True):
        torch.testing.assert_close(norm(HammerKernel.PYTORCH, x, w, b), value)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dim", [16, 50, 512])
def test_triton_is_pytorch_with_gradients(norm: str, dim: int, dtype: torch.dtype) -> None:
    for rows in ROWS:
        inputs = [cases.drawn(rows, dim), cases.drawn(dim, seed=1), cases.drawn(dim, seed=2)]
        cases.assert_equal_results(NORMS[norm], [t.to(dtype) for t in inputs], scale=2)


@needs_triton
def test_rows_may_be_strided_and_of_any_rank() -> None:
    wide, w, b = cases.drawn(4, 5, 48), cases.drawn(16, seed=1), cases.drawn(16, seed=2)
    x = wide[..., 16:32]
    for norm in NORMS.values():
        expected = norm(HammerKernel.PYTORCH, x, w, b)
        got = norm(HammerKernel.TRITON, x, w, b)
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


@needs_triton
@pytest.mark.parametrize("module", ["LayerNorm", "RMSNorm", "RMSNormSilu", "SwishLayerNorm"])
def test_modules_run_the_kernel_that_they_are_set_to(module: str) -> None:
    norm = getattr(ops, module)(16).to(DEVICE)
    x, outs = cases.drawn(7, 16), []
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        norm.set_hammer_kernel(kernel)
        outs.append(norm(x))
    torch.testing.assert_close(*outs, rtol=2e-5, atol=2e-5)


@needs_triton
def test_statistics_may_be_given() -> None:
    from generative_recommenders.ops.triton.triton_layer_norm import (
        triton_weighted_layer_norm_bwd,
        triton_weighted_layer_norm_fwd,
    )

    x, w, b = cases.drawn(9, 20), cases.drawn(20, seed=1), cases.drawn(20, seed=2)
    y, mean, rstd = triton_weighted_layer_norm_fwd(x, w, b, 1e-5)
    again, *_ = triton_weighted_layer_norm_fwd(x, w, b, 1e-5, mean, rstd)
    assert torch.equal(y, again) and mean.dtype == rstd.dtype == torch.float32
    dx, dw, db = triton_weighted_layer_norm_bwd(y, x, w, b, mean, rstd, True, 1e-5, 32)
    leaf = x.clone().requires_grad_()
    NORMS["layer_norm"](HammerKernel.PYTORCH, leaf, w, b).backward(y)
    torch.testing.assert_close(dx, leaf.grad, rtol=1e-4, atol=1e-4)
    assert dw is not None and db is not None
    bare, *_ = triton_weighted_layer_norm_fwd(x, None, None, 1e-5)
    torch.testing.assert_close(bare, (y - b) / w, rtol=1e-3, atol=1e-3)
