"""Embeddings of place and time added to rows, in Triton.

The backward adds up rows of each table in the order of their sorted numbers: no atomics, two runs
give equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.pieces import in_pieces, of_pieces
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._position_kernels import _add_embeddings, _sum_of_rows


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


@kernel_op("triton_sum_of_rows")
def _table_gradient(grad: Tensor, index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """(rows, dim): for each row of a table the sum of those of ``grad`` that took it."""
    grad = switch_to_contiguous_if_needed(grad)
    order, starts, ends = in_pieces(index, rows)
    pieces = starts.shape[0] - 1
    out = torch.empty((pieces, grad.shape[1]), dtype=torch.float32, device=grad.device)
    block_d = min(128, triton.next_power_of_2(max(grad.shape[1], 1)))
    if out.numel():
        _sum_of_rows[(pieces, cdiv(grad.shape[1], block_d))](
            grad, order, starts, out, grad.stride(0), out.stride(0), grad.shape[1],
            BLOCK_D=block_d, BLOCK=32,
        )  # fmt: skip
    return of_pieces(out, ends).to(dtype)


@_table_gradient.register_fake
def _(grad: Tensor, index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    return grad.new_empty((rows, grad.shape[1]), dtype=dtype)


class _AddEmbeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pos: Tensor, ts: Tensor, rest: tuple[Any, ...]) -> Tensor:
        seq_offsets, timestamps, *options = rest
        out, places, buckets = _fwd_op(x, seq_offsets, pos, ts, timestamps, *options)
        ctx.save_for_backward(places, buckets)
        ctx.alpha = options[-1]
        ctx.tables = [(t.shape[0], t.dtype) for t in (pos, ts)]
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.tables, strict=True)
        tables = [_table_gradient(grad, index, *table) for index, table in pairs]
        return grad if ctx.alpha == 1.0 else grad * ctx.alpha, *tables, None


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
