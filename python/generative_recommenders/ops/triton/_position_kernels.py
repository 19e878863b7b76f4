"""Kernels of embeddings of place and time, and of the gradients of their tables."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add_embeddings(
    X, OFFSETS, LENGTHS, TARGETS, POS, TS, TIMES, Out, PLACES, BUCKETS,
    stride_x, stride_pos, stride_ts, stride_o, batch, total, longest, contextual, n_pos, n_ts,
    dim, rows_a_target, alpha, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
    HAS_TARGETS: tl.constexpr, SQRT: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, blocks of rows, blocks of columns). PLACES and BUCKETS are the numbers of
    the rows that were added; n_pos and n_ts where none was."""
    z = tl.program_id(0)
    start = tl.load(OFFSETS + z).to(tl.int64)
    length = (tl.load(OFFSETS + z + 1) - start).to(tl.int32)
    until = (total - start).to(tl.int32) if z == batch - 1 else length
    limit = tl.minimum(length, longest)
    high = tl.load(LENGTHS + z).to(tl.int32)
    if HAS_TARGETS:
        high -= tl.load(TARGETS + z).to(tl.int32) * rows_a_target
    first_column = tl.program_id(2) * BLOCK_D
    column = first_column + tl.arange(0, BLOCK_D)
    last = tl.load(TIMES + start + tl.maximum(length - 1, 0), mask=length > 0, other=0)
    for first in range(tl.program_id(1) * BLOCK, until, tl.num_programs(1) * BLOCK):
        row = first + tl.arange(0, BLOCK)
        there = row < until
        added = row < limit
        back = high - tl.minimum(row, high) + contextual
        place = tl.minimum(tl.where(row < contextual, row, back), n_pos - 1)
        now = tl.load(TIMES + start + row, mask=added, other=0)
        age = tl.maximum((last - now).to(tl.float32), 1e-6) / 60.0
        bucket = (tl.sqrt(age) if SQRT else tl.log(age)).to(tl.int32)
        bucket = tl.minimum(tl.maximum(bucket, 0), n_ts - 1)
        inside = there[:, None] & (column < dim)[None, :]
        both = added[:, None] & (column < dim)[None, :]
        pos = tl.load(POS + place[:, None] * stride_pos + column[None, :], mask=both, other=0.0)
        ts = tl.load(TS + bucket[:, None] * stride_ts + column[None, :], mask=both, other=0.0)
        x = tl.load(X + (start + row)[:, None] * stride_x + column[None, :], mask=inside, other=0.0)
        sum_ = (pos.to(tl.float32) + ts.to(tl.float32)).to(x.dtype)
        x = (x.to(tl.float32) * alpha).to(x.dtype)
        out = Out + (start + row)[:, None] * stride_o + column[None, :]
        tl.store(out, x + sum_, mask=inside)
        if first_column == 0:
            tl.store(PLACES + start + row, tl.where(added, place, n_pos), mask=there)
            tl.store(BUCKETS + start + row, tl.where(added, bucket, n_ts), mask=there)


@triton.jit
def _sum_of_rows(
    G, ORDER, STARTS, Out, stride_g, stride_o, dim, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Grid (rows of a table, blocks of columns): the sum of the rows of G that ORDER names from
    STARTS[i] to STARTS[i + 1]."""
    i = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = tl.load(STARTS + i)
    until = tl.load(STARTS + i + 1)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for at in range(begin, until, BLOCK):
        places = at + tl.arange(0, BLOCK)
        row = tl.load(ORDER + places, mask=places < until, other=0)
        inside = (places < until)[:, None] & (column < dim)[None, :]
        g = tl.load(G + row[:, None] * stride_g + column[None, :], mask=inside, other=0.0)
        acc += tl.sum(g.to(tl.float32), 0)
    tl.store(Out + i * stride_o + column, acc.to(Out.dtype.element_ty), mask=column < dim)
