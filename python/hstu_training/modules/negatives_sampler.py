"""Which items a position is told apart from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hstu_training.checks import CHECKS
from hstu_training.ops.counter import Randomness

_STREAM = 1 << 17


class Negatives(NamedTuple):
    """Distinct items, and for each position which of them.

    Args:
        ids: (items) int64, distinct, ascending.
        positive: (positions) int64: where the position's own item stands in ``ids``.
        drawn: (positions, negatives) int64, places in ``ids``; None: all of ``ids``.
    """

    ids: Tensor
    positive: Tensor
    drawn: Tensor | None


class NegativesSampler:
    """Draws negatives, with replacement.

    Args:
        sampling: "uniform" from ``catalogue``, "in_batch" from the distinct items of the batch,
            "full": nothing is drawn, the whole catalogue stands against each positive.
        num_negatives: for each position; -1 with "in_batch": all of them.
        catalogue: (items) int64, distinct, ascending.
    """

    def __init__(self, sampling: str, num_negatives: int, catalogue: Tensor) -> None:
        if sampling not in ("uniform", "in_batch", "full"):
            CHECKS.fail(
                f"sampling must be one of ('in_batch', 'uniform', 'full'), got {sampling!r}"
            )
        if num_negatives != -1:
            CHECKS.integer(num_negatives, "num_negatives", 1)
        self.sampling, self.num_negatives, self.catalogue = sampling, num_negatives, catalogue

    def __call__(self, positives: Tensor, random: Randomness, batch_items: Tensor) -> Negatives:
        """For (positions) items; ``random.rows`` are those positions' keys, ``batch_items`` what
        "in_batch" draws from."""
        if self.sampling == "full":
            ids = torch.unique(torch.cat([self.catalogue, positives]))
            return Negatives(ids, torch.searchsorted(ids, positives), None)
        if self.sampling == "in_batch":
            ids = torch.unique(torch.cat([batch_items, positives]))
            place = torch.searchsorted(ids, positives)
            if self.num_negatives == -1:
                return Negatives(ids, place, None)
            drawn = random.integers(_STREAM, random.rows, self.num_negatives, len(ids))
            return Negatives(ids, place, drawn)
        at = random.integers(_STREAM, random.rows, self.num_negatives, len(self.catalogue))
        own = torch.searchsorted(self.catalogue, positives)
        used = torch.zeros_like(self.catalogue, dtype=torch.bool)
        used[at], used[own] = True, True
        place = used.cumsum(0) - 1
        return Negatives(self.catalogue[used], place[own], place[at])
