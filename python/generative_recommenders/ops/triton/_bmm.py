"""Kernels of jagged rows times one matrix for each sequence, and of their gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._tile import dot


@triton.jit
def _jagged_bmm(
    J, W, BIAS, Out, OFFSETS, stride_j, stride_wb, stride_wk, stride_wn, stride_b, stride_o,
    longest, batch, total, K, N,
    BIAS_KIND: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, blocks of rows, blocks of columns). BIAS_KIND: "none", "sequence", "row"."""
    z = tl.program_id(0)
    start = tl.load(OFFSETS + z).to(tl.int64)
    length = (tl.load(OFFSETS + z + 1) - start).to(tl.int32)
    first = tl.program_id(1) * BLOCK_M
    m = first + tl.arange(0, BLOCK_M)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    limit = tl.minimum(length, longest)
    if tl.program_id(1) == 0:  # rows beyond the longest, and behind the last sequence
        until = length
        if z == batch - 1:
            until = (total - start).to(tl.int32)
        for row in range(limit, until, BLOCK_M):
            rows = row + tl.arange(0, BLOCK_M)
            there = (rows < until)[:, None] & (n < N)[None, :]
            out = Out + (start + rows)[:, None] * stride_o + n[None, :]
            tl.store(out, tl.zeros((BLOCK_M, BLOCK_N), Out.dtype.element_ty), mask=there)
    if first >= limit:
        return
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, K, BLOCK_K):
        inner = k + step
        j = J + (start + m)[:, None] * stride_j + inner[None, :]
        w = W + z.to(tl.int64) * stride_wb + inner[:, None] * stride_wk + n[None, :] * stride_wn
        a = tl.load(j, mask=(m < limit)[:, None] & (inner < K)[None, :], other=0.0)
        b = tl.load(w, mask=(inner < K)[:, None] & (n < N)[None, :], other=0.0)
        acc += dot(a, b, UPCAST, PRECISION)
    there = (m < limit)[:, None] & (n < N)[None, :]
    if BIAS_KIND == "sequence":
        acc += tl.load(BIAS + z * stride_b + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    elif BIAS_KIND == "row":
        bias = BIAS + (start + m)[:, None] * stride_b + n[None, :]
        acc += tl.load(bias, mask=there, other=0.0).to(tl.float32)
    out = Out + (start + m)[:, None] * stride_o + n[None, :]
    tl.store(out, acc.to(Out.dtype.element_ty), mask=there)


@triton.jit
def _jagged_outer(
    J, G, Out, OFFSETS, stride_j, stride_g, stride_ob, stride_o, longest, K, N,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, blocks of K, blocks of N): each sequence's Jᵀ G."""
    z = tl.program_id(0)
    start = tl.load(OFFSETS + z).to(tl.int64)
    limit = tl.minimum((tl.load(OFFSETS + z + 1) - start).to(tl.int32), longest)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    for first in range(0, limit, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        j = J + (start + m)[:, None] * stride_j + k[None, :]
        g = G + (start + m)[:, None] * stride_g + n[None, :]
        a = tl.load(j, mask=(m < limit)[:, None] & (k < K)[None, :], other=0.0)
        b = tl.load(g, mask=(m < limit)[:, None] & (n < N)[None, :], other=0.0)
        acc += dot(tl.trans(a), b, UPCAST, PRECISION)
    out = Out + z.to(tl.int64) * stride_ob + k[:, None] * stride_o + n[None, :]
    tl.store(out, acc.to(Out.dtype.element_ty), mask=(k < K)[:, None] & (n < N)[None, :])


@triton.jit
def _jagged_sum(
    G, Out, OFFSETS, stride_g, stride_o, longest, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Grid (sequences, blocks of N): the sum of each sequence's rows."""
    z = tl.program_id(0)
    start = tl.load(OFFSETS + z).to(tl.int64)
    limit = tl.minimum((tl.load(OFFSETS + z + 1) - start).to(tl.int32), longest)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, limit, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        g = G + (start + m)[:, None] * stride_g + n[None, :]
        there = (m < limit)[:, None] & (n < N)[None, :]
        acc += tl.sum(tl.load(g, mask=there, other=0.0).to(tl.float32), 0)
    tl.store(Out + z * stride_o + n, acc.to(Out.dtype.element_ty), mask=n < N)


def _blocks(k: int, n: int) -> dict[str, int]:
    most = 32 if _launch.INTERPRETED else 64
    return {
        "BLOCK_M": most,
        "BLOCK_N": max(16, min(most, triton.next_power_of_2(n))),
        "BLOCK_K": max(16, min(32, triton.next_power_of_2(k))),
    }


@torch.library.custom_op("generative_recommenders::triton_jagged_bmm", mutates_args=())
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


@torch.library.custom_op("generative_recommenders::triton_jagged_outer", mutates_args=())
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


@torch.library.custom_op("generative_recommenders::triton_jagged_sum", mutates_args=())
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
