"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def prefix_sums(lengths: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """int32 (len(lengths) + 1,): where each sequence begins, and the end of the last one."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)


def draw_lengths(
    generator: torch.Generator,
    batch: int,
    bounds: Sequence[tuple[int, int]],
    *,
    full: bool = False,
    empties: bool = False,
) -> list[list[int]]:
    """For each sequence one number inside each of the bounds, ends included.

    ``full`` takes every upper end; ``empties`` makes every third sequence all zeros.
    """

    def draw(low: int, high: int) -> int:
        return high if full else int(torch.randint(low, high + 1, (1,), generator=generator))

    drawn = [[draw(*ends) for ends in bounds] for _ in range(batch)]
    return [[0] * len(bounds) if empties and b % 3 == 1 else row for b, row in enumerate(drawn)]
