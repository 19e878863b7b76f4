"""Sequences of two jagged tensors put together and taken apart, in plain PyTorch.

A missing tensor of offsets stands for a dense one: ``max_len`` rows for each sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders.common import sequence_of_row


def dense_offsets(max_len: int, batch: int, device: torch.device) -> Tensor:
    """The offsets of ``batch`` sequences of ``max_len`` rows."""
    return torch.arange(batch + 1, device=device) * max_len


def both_offsets(
    offsets_left: Tensor | None,
    offsets_right: Tensor | None,
    max_len_left: int | None,
    max_len_right: int | None,
    device: torch.device,
    batch: int,
) -> tuple[Tensor, Tensor]:
    if offsets_left is None:
        offsets_left = dense_offsets(max_len_left or 0, batch, device)
    if offsets_right is None:
        offsets_right = dense_offsets(max_len_right or 0, batch, device)
    return offsets_left.long(), offsets_right.long()


def pytorch_concat_2D_jagged(
    values_left: Tensor,
    values_right: Tensor,
    offsets_left: Tensor,
    offsets_right: Tensor,
    n_prefix_from_right: int = 0,
) -> Tensor:
    """For each sequence the first ``n_prefix_from_right`` rows of its right part, its left part,
    the rest of its right part; (left rows + right rows, dim)."""
    left, right = values_left.shape[0], values_right.shape[0]
    sequence, place = sequence_of_row(offsets_left + offsets_right, left + right)
    sequence = sequence.clamp(max=offsets_left.shape[0] - 2)
    length = (offsets_left[1:] - offsets_left[:-1])[sequence]
    behind = place - n_prefix_from_right
    from_left = (behind >= 0) & (behind < length)
    at_right = torch.where(behind < 0, place, place - length)
    index = torch.where(
        from_left, offsets_left[sequence] + behind, left + offsets_right[sequence] + at_right
    )
    return torch.cat([values_left, values_right]).index_select(0, index)


def pytorch_split_2D_jagged(
    values: Tensor,
    left: int,
    right: int,
    offsets_left: Tensor,
    offsets_right: Tensor,
    n_prefix_to_right: int = 0,
) -> tuple[Tensor, Tensor]:
    """The inverse of ``pytorch_concat_2D_jagged``: (left, dim) and (right, dim)."""
    both = offsets_left + offsets_right
    sequence, place = sequence_of_row(offsets_left, left)
    at_left = both[sequence] + n_prefix_to_right + place
    sequence, place = sequence_of_row(offsets_right, right)
    length = (offsets_left[1:] - offsets_left[:-1])[sequence.clamp(max=both.shape[0] - 2)]
    at_right = both[sequence] + torch.where(place < n_prefix_to_right, place, place + length)
    return values.index_select(0, at_left), values.index_select(0, at_right)


def pytorch_replace_last_n_with_jagged(
    max_seq_len_left: int,
    offsets_left: Tensor,
    values_left: Tensor,
    offsets_right: Tensor,
    values_right: Tensor,
) -> Tensor:
    """``values_left`` with the last rows of each sequence replaced by all rows of its right
    part."""
    left = values_left.shape[0]
    sequence, place = sequence_of_row(offsets_left, left)
    lengths = (offsets_left[1:] - offsets_left[:-1]) - (offsets_right[1:] - offsets_right[:-1])
    kept = lengths[sequence.clamp(max=lengths.shape[0] - 1)]
    index = torch.where(
        place < kept,
        torch.arange(left, device=values_left.device),
        left + offsets_right[sequence] + place - kept,
    )
    return torch.cat([values_left, values_right]).index_select(0, index)
