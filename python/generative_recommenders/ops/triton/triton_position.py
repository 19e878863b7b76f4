"""Embeddings of place and time added to rows, in Triton.

The backward reads the gradient once, and once more the rows whose ages change too often; there are
no atomics, two runs give equal bits.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.pieces import in_pieces, of_pieces
from generative_recommenders.ops.places import ROWS, Tiles
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._place_kernels import _sum_of_items, _sums_by_place
from generative_recommenders.ops.triton._position_kernels import _add_embeddings


@kernel_op("triton_add_embeddings")
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
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _launch.on_gpu(x, "seq_embeddings")
    rows, dim = x.shape
    out = torch.empty((rows, dim), dtype=x.dtype, device=x.device)
    places = torch.empty((rows,), dtype=torch.int32, device=x.device)
    buckets = torch.empty_like(places)
    batch = seq_offsets.shape[0] - 1
    if rows and batch:
        block_d = min(256, triton.next_power_of_2(dim))
        block = 4
        _add_embeddings[(batch, cdiv(longest, 4 * block), cdiv(dim, block_d))](
            x, seq_offsets, seq_lengths, num_targets, pos, ts, timestamps, out, places, buckets,
            x.stride(0), pos.stride(0), ts.stride(0), out.stride(0), batch, rows, longest,
            contextual, pos.shape[0], ts.shape[0], dim, rows_a_target, alpha, BLOCK_D=block_d,
            BLOCK=block, HAS_TARGETS=num_targets is not None, SQRT=sqrt, num_warps=4,
        )  # fmt: skip
    else:
        out.copy_(x * alpha)
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
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    places = x.new_empty((x.shape[0],), dtype=torch.int32)
    return x.new_empty(x.shape), places, torch.empty_like(places)


@kernel_op("triton_add_embeddings_bwd")
def _bwd_op(
    grad: Tensor,
    seq_offsets: Tensor,
    highs: Tensor,
    buckets: Tensor,
    places: int,
    ages: int,
    longest: int,
    contextual: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows, and float32 of both tables."""
    grad = switch_to_contiguous_if_needed(grad)
    rows, dim = grad.shape
    batch = seq_offsets.shape[0] - 1
    if rows == 0 or batch == 0 or dim == 0:
        pos, ts = (grad.new_zeros((n, dim), dtype=torch.float32) for n in (places, ages))
        return grad * alpha, pos, ts
    tiles = Tiles.of(places, contextual, longest, batch)
    dx = torch.empty((rows, dim), dtype=grad.dtype, device=grad.device)
    new = functools.partial(torch.empty, device=grad.device)
    sums = new((tiles.shares, tiles.every, ROWS, dim), dtype=torch.float32)
    of_ages = new((rows // ROWS + 2 * batch + 1, dim), dtype=torch.float32)
    keys, items = (new((rows,), dtype=torch.int32) for _ in range(2))
    block_d = min(128, triton.next_power_of_2(dim))
    _sums_by_place[(cdiv(dim, block_d), tiles.every, tiles.shares)](
        grad, dx, seq_offsets, highs, buckets, sums, of_ages, keys, items, grad.stride(0), batch,
        rows, cdiv(batch, tiles.shares), longest, contextual, ages, dim, tiles.down, tiles.others,
        alpha, BLOCK_D=block_d, ROWS=ROWS, num_warps=2,
    )  # fmt: skip
    order, starts, ends = in_pieces(keys, ages)
    pieces = starts.shape[0] - 1
    out = new((pieces, dim), dtype=torch.float32)
    _sum_of_items[(pieces, cdiv(dim, block_d))](
        grad, of_ages, order, items, starts, out, grad.stride(0), dim, BLOCK_D=block_d, BLOCK=32
    )
    return dx, tiles.table(sums, places, contextual), of_pieces(out, ends)


@_bwd_op.register_fake
def _(
    grad: Tensor,
    seq_offsets: Tensor,
    highs: Tensor,
    buckets: Tensor,
    places: int,
    ages: int,
    longest: int,
    contextual: int,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    pos, ts = (grad.new_empty((n, grad.shape[1]), dtype=torch.float32) for n in (places, ages))
    return grad.new_empty(grad.shape), pos, ts


class _AddEmbeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pos: Tensor, ts: Tensor, rest: tuple[Any, ...]) -> Tensor:
        seq_offsets, timestamps, *options = rest
        out, _, buckets = _fwd_op(x, seq_offsets, pos, ts, timestamps, *options)
        longest, contextual, seq_lengths, targets, rows_a_target, _, alpha = options
        ctx.save_for_backward(seq_offsets, seq_lengths, targets, buckets)
        ctx.rest = (rows_a_target, pos.shape[0], ts.shape[0], longest, contextual, alpha)
        ctx.dtypes = (pos.dtype, ts.dtype)
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        seq_offsets, highs, targets, buckets = ctx.saved_tensors
        rows_a_target, *rest = ctx.rest
        if targets is not None:
            highs = highs - targets * rows_a_target
        dx, *tables = _bwd_op(grad, seq_offsets, highs, buckets, *rest)
        return dx, *(t.to(dtype) for t, dtype in zip(tables, ctx.dtypes, strict=True)), None


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
    alpha: float = 1.0,
) -> Tensor:
    """``ops.position.add_timestamp_positional_embeddings`` by Triton."""
    x, pos, ts = (
        switch_to_contiguous_if_needed(t) for t in (seq_embeddings, pos_embeddings, ts_embeddings)
    )
    rest = (
        seq_offsets, timestamps.contiguous(), max_seq_len, max_contextual_seq_len, seq_lengths,
        num_targets, 2 if interleave_targets else 1, time_bucket_fn == "sqrt", float(alpha),
    )  # fmt: skip
    result: Tensor = _AddEmbeddings.apply(x, pos, ts, rest)
    return result
