"""Zeros for what sequences have beyond a length."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._tile import zero_rows


@triton.jit
def _clear_tails(
    T, OFFSETS, N, stride, stride_h, total, D: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Grid (sequences, heads)."""
    z = tl.program_id(0)
    start = tl.load(OFFSETS + z).to(tl.int32)
    end = tl.load(OFFSETS + z + 1).to(tl.int32)
    if z == tl.num_programs(0) - 1:
        end = total
    low = start + tl.minimum(tl.load(OFFSETS + z + 1).to(tl.int32) - start, N)
    zero_rows(T + tl.program_id(1).to(tl.int64) * stride_h, low, end, stride, D, BLOCK_D)


@kernel_op("triton_clear_tails", written=("t",))
def triton_clear_tails(t: Tensor, seq_offsets: Tensor, N: int) -> None:
    """Zeros in place for the rows of each sequence from ``N`` on, and behind the last sequence.

    Args:
        t: (rows, heads, dim).
        seq_offsets: int32 or int64 (batch + 1,).
        N: rows of a sequence that stay.
    """
    _launch.on_gpu(t, "t")
    rows, heads, dim = t.shape
    batch = seq_offsets.shape[0] - 1
    if batch and t.numel():
        _clear_tails[(batch, heads)](
            t, seq_offsets, N, t.stride(0), t.stride(1), rows, D=dim,
            BLOCK_D=max(16, triton.next_power_of_2(dim)), num_warps=1,
        )  # fmt: skip


@triton_clear_tails.register_fake
def _(t: Tensor, seq_offsets: Tensor, N: int) -> None:
    return None
