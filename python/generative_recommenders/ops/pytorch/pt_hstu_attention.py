"""HSTU attention in plain PyTorch, over sequences padded to ``max_seq_len``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generative_recommenders.common import jagged_to_padded_dense, sequence_of_row, take_rows


def visible(
    rows: Tensor,
    columns: Tensor,
    lengths: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    min_full_attn_seq_len: int = 0,
) -> Tensor:
    """Which key each query sees, bool (batch, rows, columns).

    A position has an id: contextual positions have 0, history counts on, and all targets share one
    id behind the history. A query sees itself and what has a smaller id: within ``max_attn_len``
    if that is given, except that targets and the last ``min_full_attn_seq_len`` positions of the
    history see all of it. Contextual positions see the whole history.

    Args:
        rows: positions of queries, int64 (batch or 1, rows).
        columns: positions of keys, int64 (batch or 1, columns).
        lengths: of the sequences, int64 (batch,).
        num_targets: (batch,), or None.
    """
    end = lengths[:, None]

    def ids(place: Tensor, end: Tensor) -> Tensor:
        if contextual_seq_len > 0:
            place = (place - contextual_seq_len + 1).clamp(min=0)
        return place if num_targets is None else torch.minimum(place, end)

    if contextual_seq_len > 0:
        end = end - contextual_seq_len + 1
    if num_targets is not None:
        end = end - num_targets.to(end.dtype)[:, None]
    row, column, end = ids(rows, end)[:, :, None], ids(columns, end)[:, None, :], end[:, :, None]
    distance = row - column
    seen = distance > 0
    if max_attn_len > 0:
        near = distance <= max_attn_len
        if min_full_attn_seq_len > 0:
            near = near | (row >= end - min_full_attn_seq_len)
        seen = seen & near
    seen = seen | (rows[:, :, None] == columns[:, None, :])
    if contextual_seq_len > 0:
        seen = seen | ((row == 0) & (column < end))
    return seen


def _scores(q: Tensor, k: Tensor, alpha: float) -> Tensor:
    """silu(alpha q kᵀ) of (batch, rows, heads, dim) tensors, at least in float32."""
    exact = torch.promote_types(q.dtype, torch.float32)
    return F.silu(alpha * torch.einsum("bnhd,bmhd->bhnm", q.to(exact), k.to(exact)))


def _weighted(p: Tensor, v: Tensor) -> Tensor:
    """``p`` rounded to the dtype of ``v``, times ``v``: (batch, rows, heads, dim) in that dtype."""
    p = p.to(v.dtype).to(torch.promote_types(v.dtype, torch.float32))
    return torch.einsum("bhnm,bmhd->bnhd", p, v.to(p.dtype)).to(v.dtype)


def pytorch_hstu_mha(
    max_seq_len: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    causal: bool = True,
    dropout_pr: float = 0.0,
    training: bool = True,
    num_targets: Tensor | None = None,
    attn_scale: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    min_full_attn_seq_len: int = 0,
) -> Tensor:
    """``ops.hstu_attention.hstu_mha`` by PyTorch; the arguments are described there."""
    starts = seq_offsets.long()

    def padded(t: Tensor) -> Tensor:
        return jagged_to_padded_dense(t, [starts], [max_seq_len])

    p = _scores(padded(q), padded(k), alpha)
    if attn_scale is None:
        p = p / max_seq_len
    elif attn_scale.dim() == 0:
        p = p * attn_scale
    else:
        p = p * padded(attn_scale)[:, None, :, None]
    place = torch.arange(max_seq_len, device=q.device)[None]
    lengths = starts[1:] - starts[:-1]
    seen = visible(
        place,
        place,
        lengths,
        num_targets,
        max_attn_len,
        contextual_seq_len,
        min_full_attn_seq_len,
    )
    p = F.dropout(torch.where(seen[:, None], p, 0.0), dropout_pr, training)
    out = _weighted(p, padded(v))
    sequence, place = sequence_of_row(starts, q.shape[0])
    there = (sequence < lengths.shape[0]) & (place < max_seq_len)
    return take_rows(out.flatten(0, 1), sequence * max_seq_len + place, there)


def pytorch_cached_hstu_mha(
    max_seq_len: int,
    alpha: float,
    delta_q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
) -> Tensor:
    """``ops.hstu_attention.delta_hstu_mha`` by PyTorch; the arguments are described there."""
    starts = seq_offsets.long()
    lengths = starts[1:] - starts[:-1]
    batch = lengths.shape[0]
    delta = delta_q.shape[0] // batch if batch else 0
    q = delta_q.reshape(batch, delta, *delta_q.shape[1:])
    keys, values = (jagged_to_padded_dense(t, [starts], [max_seq_len]) for t in (k, v))
    rows = lengths[:, None] - delta + torch.arange(delta, device=k.device)[None]
    columns = torch.arange(max_seq_len, device=k.device)[None]
    seen = visible(rows, columns, lengths, num_targets, max_attn_len, contextual_seq_len)
    seen = seen & (rows >= 0)[:, :, None] & (rows < max_seq_len)[:, :, None]
    p = torch.where(seen[:, None], _scores(q, keys, alpha) / max_seq_len, 0.0)
    return _weighted(p, values).flatten(0, 1)
