"""Products and sums of jagged rows with one matrix or row for each sequence, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders.common import (
    jagged_to_padded_dense,
    sequence_of_row,
    take_rows,
)


def _of_row(values: Tensor, seq_offsets: Tensor, rows: int) -> Tensor:
    """For each row what its sequence has in ``values``; zeros behind the last sequence."""
    sequence, _ = sequence_of_row(seq_offsets, rows)
    return take_rows(values, sequence, sequence < values.shape[0])


def pytorch_jagged_dense_bmm(
    max_seq_len: int, seq_offsets: Tensor, jagged: Tensor, dense: Tensor
) -> Tensor:
    """Each sequence's rows times its matrix: (rows, k) and (batch, k, n) -> (rows, n); zeros for
    rows of a sequence beyond ``max_seq_len``."""
    padded = jagged_to_padded_dense(jagged, [seq_offsets], [max_seq_len])
    product = torch.bmm(padded, dense)
    sequence, place = sequence_of_row(seq_offsets, jagged.shape[0])
    there = (sequence < dense.shape[0]) & (place < max_seq_len)
    return take_rows(product.flatten(0, 1), sequence * max_seq_len + place, there)


def pytorch_jagged_dense_broadcast_add(
    max_seq_len: int, seq_offsets: Tensor, jagged: Tensor, dense: Tensor
) -> Tensor:
    """Each sequence's row of ``dense`` (batch, k) added to all its rows (rows, k)."""
    return jagged + _of_row(dense, seq_offsets, jagged.shape[0])


def pytorch_jagged_dense_bmm_add(
    max_seq_len: int,
    seq_offsets: Tensor,
    jagged: Tensor,
    dense: Tensor,
    bias: Tensor,
    elementwise: bool = False,
) -> Tensor:
    """The product, and then ``bias``: (batch, n) for each sequence, or with ``elementwise``
    (rows, n) for each row."""
    product = pytorch_jagged_dense_bmm(max_seq_len, seq_offsets, jagged, dense)
    return product + (bias if elementwise else _of_row(bias, seq_offsets, jagged.shape[0]))
