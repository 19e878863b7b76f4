"""Kernels of jagged rows times one matrix for each sequence, and of their gradients."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._jagged_kernels import (
    _jagged_bmm,
    _jagged_outer,
    _jagged_sum,
)
from generative_recommenders.ops.triton._op import kernel_op


def _blocks(k: int, n: int) -> dict[str, int]:
    most = 32 if _launch.INTERPRETED else 64
    return {
        "BLOCK_M": most,
        "BLOCK_N": max(16, min(most, triton.next_power_of_2(n))),
        "BLOCK_K": max(16, min(32, triton.next_power_of_2(k))),
    }


@kernel_op("triton_jagged_bmm")
def jagged_bmm(
    longest: int, offsets: Tensor, jagged: Tensor, dense: Tensor, bias: Tensor | None, kind: str
) -> Tensor:
    """(rows, k), (batch, k, n) -> (rows, n), plus ``bias`` (batch, n) or (rows, n) by ``kind``."""
    _launch.on_gpu(jagged, "jagged")
    jagged = switch_to_contiguous_if_needed(jagged)
    batch, k, n = dense.shape
    rows = jagged.shape[0]
    out = torch.empty((rows, n), dtype=jagged.dtype, device=jagged.device)
    if batch == 0 or rows == 0 or n == 0:
        return out.zero_()
    blocks = _blocks(k, n)
    _jagged_bmm[(batch, cdiv(longest, blocks["BLOCK_M"]), cdiv(n, blocks["BLOCK_N"]))](
        jagged, dense, bias, out, offsets, jagged.stride(0), *dense.stride(),
        0 if bias is None else bias.stride(0), out.stride(0), longest, batch, rows, k, n,
        BIAS_KIND=kind, UPCAST=_launch.upcast(jagged), PRECISION=_launch.precision(jagged),
        **blocks,
    )  # fmt: skip
    return out


@jagged_bmm.register_fake
def _(
    longest: int, offsets: Tensor, jagged: Tensor, dense: Tensor, bias: Tensor | None, kind: str
) -> Tensor:
    return jagged.new_empty((jagged.shape[0], dense.shape[2]))


@kernel_op("triton_jagged_outer")
def jagged_outer(longest: int, offsets: Tensor, jagged: Tensor, grad: Tensor) -> Tensor:
    """Each sequence's rows transposed times those of ``grad``: (batch, k, n)."""
    jagged, grad = switch_to_contiguous_if_needed(jagged), switch_to_contiguous_if_needed(grad)
    batch, k, n = offsets.shape[0] - 1, jagged.shape[1], grad.shape[1]
    out = torch.empty((batch, k, n), dtype=jagged.dtype, device=jagged.device)
    if out.numel():
        blocks = _blocks(k, n)
        _jagged_outer[(batch, cdiv(k, blocks["BLOCK_K"]), cdiv(n, blocks["BLOCK_N"]))](
            jagged, grad, out, offsets, jagged.stride(0), grad.stride(0), out.stride(0),
            out.stride(1), longest, k, n, UPCAST=_launch.upcast(jagged),
            PRECISION=_launch.precision(jagged), **blocks,
        )  # fmt: skip
    return out


@jagged_outer.register_fake
def _(longest: int, offsets: Tensor, jagged: Tensor, grad: Tensor) -> Tensor:
    return jagged.new_empty((offsets.shape[0] - 1, jagged.shape[1], grad.shape[1]))


@kernel_op("triton_jagged_sum")
def jagged_sum(longest: int, offsets: Tensor, grad: Tensor) -> Tensor:
    """The sum of each sequence's rows: (batch, n)."""
    _launch.on_gpu(grad, "grad")
    grad = switch_to_contiguous_if_needed(grad)
    batch, n = offsets.shape[0] - 1, grad.shape[1]
    out = torch.empty((batch, n), dtype=grad.dtype, device=grad.device)
    if out.numel():
        block_n = max(16, min(128, triton.next_power_of_2(n)))
        _jagged_sum[(batch, cdiv(n, block_n))](
            grad, out, offsets, grad.stride(0), out.stride(0), longest, n, BLOCK_M=32,
            BLOCK_N=block_n,
        )  # fmt: skip
    return out


@jagged_sum.register_fake
def _(longest: int, offsets: Tensor, grad: Tensor) -> Tensor:
    return grad.new_empty((offsets.shape[0] - 1, grad.shape[1]))
