"""Learned positions: ``x * sqrt(hidden) + position``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hstu_training.modules.jagged import Sequences
from hstu_training.ops.counter import dropout

_STREAM = 1 << 16  # of dropout, apart from those of the layers


class PositionEncoder(nn.Module):
    """Positions of tokens; all candidates of a sequence have the one behind its history.

    Args:
        buckets: rows of the table; later positions share the last.
        hidden: width.
        ratio: of dropout on the result.
        dtype: of the parameters.
    """

    def __init__(self, buckets: int, hidden: int, ratio: float, dtype: torch.dtype) -> None:
        super().__init__()
        table = torch.empty(buckets, hidden, dtype=dtype)
        nn.init.trunc_normal_(table, std=hidden**-0.5, a=-2 * hidden**-0.5, b=2 * hidden**-0.5)
        self.table = nn.Parameter(table)
        self.ratio = ratio

    def forward(self, x: Tensor, sequences: Sequences) -> Tensor:
        """(tokens, hidden) of the same."""
        place = sequences.encoded
        if place is None:
            sequence, place = sequences.places(x.shape[0])
            if sequences.targets is not None:
                first = sequences.lengths() - sequences.targets
                place = torch.minimum(place, first[sequence])
        place = place.clamp(max=self.table.shape[0] - 1)
        positions = nn.functional.embedding(place, self.table)
        encoded = x * x.shape[1] ** 0.5 + positions.to(x.dtype)
        return dropout(encoded, self.ratio, sequences.random, _STREAM).to(x.dtype)
