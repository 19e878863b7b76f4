"""Embeddings of place and time added to rows, in Triton.

The backward adds up rows of each table in the order of their sorted numbers: no atomics, two runs
give equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch


@triton.jit
def _add_embeddings(
    X, OFFSETS, LENGTHS, TARGETS, POS, TS, TIMES, Out, PLACES, BUCKETS,
    stride_x, stride_pos, stride_ts, stride_o, batch, total, longest, contextual, n_pos, n_ts,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, HAS_TARGETS: tl.constexpr,
    ROWS_A_TARGET: tl.constexpr, SQRT: tl.constexpr,
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
        high -= tl.load(TARGETS + z).to(tl.int32) * ROWS_A_TARGET
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
        inside = there[:, None] & (column < D)[None, :]
        both = added[:, None] & (column < D)[None, :]
        pos = tl.load(POS + place[:, None] * stride_pos + column[None, :], mask=both, other=0.0)
        ts = tl.load(TS + bucket[:, None] * stride_ts + column[None, :], mask=both, other=0.0)
        x = tl.load(X + (start + row)[:, None] * stride_x + column[None, :], mask=inside, other=0.0)
        sum_ = (pos.to(tl.float32) + ts.to(tl.float32)).to(x.dtype)
        out = Out + (start + row)[:, None] * stride_o + column[None, :]
        tl.store(out, x + sum_, mask=inside)
        if first_column == 0:
            tl.store(PLACES + start + row, tl.where(added, place, n_pos), mask=there)
            tl.store(BUCKETS + start + row, tl.where(added, bucket, n_ts), mask=there)


@triton.jit
def _sum_of_rows(
    G, ORDER, STARTS, Out, stride_g, stride_o, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
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
        inside = (places < until)[:, None] & (column < D)[None, :]
        g = tl.load(G + row[:, None] * stride_g + column[None, :], mask=inside, other=0.0)
        acc += tl.sum(g.to(tl.float32), 0)
    tl.store(Out + i * stride_o + column, acc.to(Out.dtype.element_ty), mask=column < D)


@torch.library.custom_op("generative_recommenders::triton_add_embeddings", mutates_args=())
def _fwd_op(
    x: Tensor,
    seq_offsets: Tensor,
    pos: Tensor,
    ts: Tensor,
    timestamps: Tensor,
    longest: int,
    contextual: int,
    seq_lengths: Tensor,
    num_targets: Tensor | None,
    rows_a_target: int,
    sqrt: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _launch.on_gpu(x, "seq_embeddings")
    rows, dim = x.shape
    out = torch.empty((rows, dim), dtype=x.dtype, device=x.device)
    places = torch.empty((rows,), dtype=torch.int32, device=x.device)
    buckets = torch.empty_like(places)
    batch = seq_offsets.shape[0] - 1
    if rows and batch:
        block_d = min(128, triton.next_power_of_2(dim))
        block = 16
        _add_embeddings[(batch, cdiv(longest, block), cdiv(dim, block_d))](
            x, seq_offsets, seq_lengths, num_targets, pos, ts, timestamps, out, places, buckets,
            x.stride(0), pos.stride(0), ts.stride(0), out.stride(0), batch, rows, longest,
            contextual, pos.shape[0], ts.shape[0], D=dim, BLOCK_D=block_d, BLOCK=block,
            HAS_TARGETS=num_targets is not None, ROWS_A_TARGET=rows_a_target, SQRT=sqrt,
        )  # fmt: skip
    else:
        out.copy_(x)
        places.fill_(pos.shape[0])
        buckets.fill_(ts.shape[0])
    return out, places, buckets


@_fwd_op.register_fake
def _(
    x: Tensor,
    seq_offsets: Tensor,
    pos: Tensor,
    ts: Tensor,
    timestamps: Tensor,
    longest: int,
    contextual: int,
    seq_lengths: Tensor,
    num_targets: Tensor | None,
    rows_a_target: int,
    sqrt: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    places = x.new_empty((x.shape[0],), dtype=torch.int32)
    return x.new_empty(x.shape), places, torch.empty_like(places)


@torch.library.custom_op("generative_recommenders::triton_sum_of_rows", mutates_args=())
def _table_gradient(grad: Tensor, index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """(rows, dim): for each row of a table the sum of those of ``grad`` that took it."""
    grad = switch_to_contiguous_if_needed(grad)
    out = torch.empty((rows, grad.shape[1]), dtype=dtype, device=grad.device)
    ordered, order = torch.sort(index, stable=True)
    starts = torch.searchsorted(
        ordered, torch.arange(rows + 1, device=grad.device, dtype=index.dtype)
    )
    block_d = min(128, triton.next_power_of_2(max(grad.shape[1], 1)))
    if out.numel():
        _sum_of_rows[(rows, cdiv(grad.shape[1], block_d))](
            grad, order, starts, out, grad.stride(0), out.stride(0), D=grad.shape[1],
            BLOCK_D=block_d, BLOCK=32,
        )  # fmt: skip
    return out


@_table_gradient.register_fake
def _(grad: Tensor, index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    return grad.new_empty((rows, grad.shape[1]), dtype=dtype)


class _AddEmbeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pos: Tensor, ts: Tensor, rest: tuple[Any, ...]) -> Tensor:
        seq_offsets, timestamps, *options = rest
        out, places, buckets = _fwd_op(x, seq_offsets, pos, ts, timestamps, *options)
        ctx.save_for_backward(places, buckets)
        ctx.tables = [(t.shape[0], t.dtype) for t in (pos, ts)]
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.tables, strict=True)
        tables = [_table_gradient(grad, index, *table) for index, table in pairs]
        return grad, *tables, None


def triton_add_timestamp_positional_embeddings(
    seq_embeddings: Tensor,
    seq_offsets: Tensor,
    pos_embeddings: Tensor,
    ts_embeddings: Tensor,
    timestamps: Tensor,
    max_seq_len: int,
    max_contextual_seq_len: int,
    seq_lengths: Tensor,
    num_targets: Tensor | None,
    interleave_targets: bool,
    time_bucket_fn: str,
) -> Tensor:
    """``ops.position.add_timestamp_positional_embeddings`` by Triton, without its ``alpha``."""
    x, pos, ts = (
        switch_to_contiguous_if_needed(t) for t in (seq_embeddings, pos_embeddings, ts_embeddings)
    )
    rest = (
        seq_offsets, timestamps.contiguous(), max_seq_len, max_contextual_seq_len, seq_lengths,
        num_targets, 2 if interleave_targets else 1, time_bucket_fn == "sqrt",
    )  # fmt: skip
    result: Tensor = _AddEmbeddings.apply(x, pos, ts, rest)
    return result
