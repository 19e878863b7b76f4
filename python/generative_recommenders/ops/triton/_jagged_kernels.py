"""Kernels of jagged rows: put together, taken apart, times one matrix for each sequence."""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._tile import dot


@triton.jit
def _move_rows(
    A, B, BOTH, OFFSETS_A, OFFSETS_B, stride_a, stride_b, stride_both, prefix, dim, replace,
    BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, JOIN: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, blocks of rows of BOTH, blocks of columns). JOIN copies from A and B into
    BOTH, else the other way; with ``replace`` the rows of B stand where the last ones of A do."""
    z = tl.program_id(0)
    start_a = tl.load(OFFSETS_A + z).to(tl.int64)
    start_b = tl.load(OFFSETS_B + z).to(tl.int64)
    length_a = (tl.load(OFFSETS_A + z + 1) - start_a).to(tl.int32)
    length_b = (tl.load(OFFSETS_B + z + 1) - start_b).to(tl.int32)
    start = tl.where(replace != 0, start_a, start_a + start_b)
    length = tl.where(replace != 0, length_a, length_a + length_b)
    length_a = tl.where(replace != 0, length_a - length_b, length_a)
    first = tl.program_id(1) * BLOCK
    if first >= length:
        return
    column = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = first + tl.arange(0, BLOCK)
    behind = row - prefix
    in_a = (behind >= 0) & (behind < length_a)
    from_b = tl.where(behind < 0, row, row - length_a)
    inside = (row < length)[:, None] & (column < dim)[None, :]
    at_a = (start_a + behind)[:, None] * stride_a + column[None, :]
    at_b = (start_b + from_b)[:, None] * stride_b + column[None, :]
    at = (start + row)[:, None] * stride_both + column[None, :]
    if JOIN:
        a = tl.load(A + at_a, mask=inside & in_a[:, None], other=0.0)
        b = tl.load(B + at_b, mask=inside & (in_a[:, None] == 0), other=0.0)
        tl.store(BOTH + at, tl.where(in_a[:, None], a, b), mask=inside)
    else:
        both = tl.load(BOTH + at, mask=inside, other=0.0)
        tl.store(A + at_a, both, mask=inside & in_a[:, None])
        tl.store(B + at_b, both, mask=inside & (in_a[:, None] == 0))


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
