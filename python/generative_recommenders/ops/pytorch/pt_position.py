"""Embeddings of place and time added to rows, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders.common import sequence_of_row


def pytorch_add_timestamp_positional_embeddings(
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
    """``ops.position.add_timestamp_positional_embeddings`` in PyTorch."""
    seq_embeddings = seq_embeddings * alpha
    rows = seq_embeddings.shape[0]
    if rows == 0:
        return seq_embeddings
    starts = seq_offsets.long()
    batch = starts.shape[0] - 1
    sequence, place = sequence_of_row(starts, rows)
    inside = (sequence < batch) & (place < max_seq_len)
    sequence = sequence.clamp(max=batch - 1)
    high = seq_lengths.long()
    if num_targets is not None:
        high = high - num_targets.long() * (2 if interleave_targets else 1)
    high = high[sequence]
    back = high - torch.minimum(place, high) + max_contextual_seq_len
    position = torch.where(place < max_contextual_seq_len, place, back)
    position = position.clamp(max=pos_embeddings.shape[0] - 1)
    last = (starts[1:] - 1).clamp(min=0)[sequence]
    age = (timestamps[last] - timestamps).to(torch.float32).clamp(min=1e-6) / 60.0
    bucket = torch.sqrt(age) if time_bucket_fn == "sqrt" else torch.log(age)
    bucket = bucket.to(torch.int64).clamp(0, ts_embeddings.shape[0] - 1)
    added = (pos_embeddings[position] + ts_embeddings[bucket]).to(seq_embeddings.dtype)
    return seq_embeddings + torch.where(inside[:, None], added, 0.0)
