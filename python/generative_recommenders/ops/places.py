"""The gradient of the table of places from sums by distance: places count down in each sequence, so
that rows of one place are found without a sort."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generative_recommenders.common import cdiv

ROWS = 16  # of a tile


class Tiles(NamedTuple):
    """Tiles of ROWS places in this order: those that count down from ``high``; ``others`` of rows
    behind it, which take its place; ``others`` of rows whose place is beyond the table; those of
    contextual rows, which count up. Each is added up by ``shares`` programs."""

    down: int
    others: int
    contextual: int
    shares: int

    @classmethod
    def of(cls, places: int, contextual: int, longest: int, batch: int) -> Tiles:
        down = max(1, cdiv(places - contextual, ROWS))
        others = min(32, cdiv(longest, ROWS))
        tiles = down + 2 * others + cdiv(contextual, ROWS)
        return cls(down, others, cdiv(contextual, ROWS), max(1, min(8, batch, 4096 // tiles)))

    @property
    def every(self) -> int:
        return self.down + 2 * self.others + self.contextual

    def table(self, sums: Tensor, places: int, contextual: int) -> Tensor:
        """(places, columns) from (shares, tiles, ROWS, columns)."""
        kinds = [self.down, self.others, self.others, self.contextual]
        parts = torch.split_with_sizes(sums.sum(0), kinds)
        down, behind, beyond, front = (part.flatten(0, 1) for part in parts)
        last = places - 1
        table = torch.zeros((places, sums.shape[3]), dtype=sums.dtype, device=sums.device)
        counted = max(last - contextual, 0)
        table[contextual : contextual + counted] = down[:counted]
        table[last] += down[counted:].sum(0) + beyond.sum(0)
        table[min(contextual, last)] += behind.sum(0)
        if contextual:
            own = min(contextual, last)
            table[:own] += front[:own]
            table[last] += front[own:].sum(0)
        return table
