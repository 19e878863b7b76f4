"""Sums of rows by their number, where one number may have most of the rows: in pieces of equal
length, one after the other, so that two runs give equal bits."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 256  # rows


def in_pieces(index: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Divides rows that are ordered by their numbers.

    Args:
        index: int32 (rows): the number of each; those from ``count`` on are left out.
        count: of numbers.

    Returns:
        the order, int64 (rows); where in it each piece begins and the last one ends, int64
        (pieces + 1), as many pieces as there may be at most, the last ones empty; where the pieces
        of each number begin, and those of the last one end, int64 (count + 1).
    """
    ordered, order = torch.sort(index, stable=True)
    numbers = torch.arange(count + 1, device=index.device, dtype=index.dtype)
    starts = torch.searchsorted(ordered, numbers)
    pieces = (starts.diff() + PIECE - 1) // PIECE
    ends = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    every = torch.arange(count + index.shape[0] // PIECE + 1, device=index.device)
    of = torch.searchsorted(ends, every, right=True) - 1  # the number of each piece
    begins = starts[of] + (every - ends[of]) * PIECE
    return order, torch.where(of < count, begins, starts[-1]), ends


def of_pieces(sums: Tensor, ends: Tensor) -> Tensor:
    """(count, columns): the sums of the pieces (pieces, columns), float32, of each number."""
    total: Tensor = torch.segment_reduce(sums, "sum", offsets=ends, axis=0, unsafe=True)
    return total
