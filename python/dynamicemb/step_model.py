"""What a step of many ranks moves and how long that takes: reckoned, from two measured rates.

A rank looks ``lookups`` keys of each table up, drawn by a power law, and trains with Adam. Of its
batch U keys are distinct; they and their rows cross, but for its own part of 1/W. As an owner it
reads and updates the distinct keys, D, that all ranks together ask it for.

    bytes in memory = row * (2 n / hot + 5 U + 7 D)  [n lookups; state beside weights counts in D]
    bytes on the link = (U keys * 8 + 2 U rows) * (W - 1) / W
    step = fixed + bytes in memory / memory rate + bytes on the link / link rate

``fixed`` is what a step of next to no keys takes: launches, and collectives that carry nothing. It
is measured, or left out where a step is long beside it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

BINS = 4000  # ranks of the power law are summed in so many groups of a common ratio


def _groups(rows: float, law: float) -> list[tuple[float, float]]:
    """(how many keys, probability of each) from the most frequent on."""
    exact = [float(rank) for rank in range(1, min(1000, int(rows)) + 1)]
    edges = [exact[-1] + 0.5]
    ratio = max(rows / edges[0], 1.0) ** (1 / BINS)
    if rows > len(exact):
        edges += [edges[0] * ratio**i for i in range(1, BINS + 1)]
    found = [(1.0, rank**-law) for rank in exact]
    found += [(b - a, ((a + b) / 2) ** -law) for a, b in itertools.pairwise(edges)]
    total = sum(count * weight for count, weight in found)
    return [(count, weight / total) for count, weight in found]


def distinct(lookups: float, rows: float, law: float, beyond: float = 0.0) -> float:
    """The distinct keys that so many lookups are expected to have; ``beyond``: of those that are
    not among the so many most frequent ones."""
    found, seen = 0.0, 0.0
    for count, chance in _groups(rows, law):
        seen += count
        if seen > beyond:
            part = min(count, seen - beyond)
            found += part * -math.expm1(lookups * math.log1p(-min(chance, 1 - 1e-12)))
    return found


@dataclass(frozen=True)
class Load:
    """What a rank looks up in a step.

    Args:
        features: one table each.
        lookups: of each, keys a rank.
        rows: of each table, all ranks together.
        dim: values of a row, float32 on the link.
        law: exponent of the power law.
        hot: lookups of a bag, of which one pooled row is written; 1: every row is.
    """

    features: int
    lookups: int
    rows: float
    dim: int
    law: float = 1.05
    hot: int = 1

    def unique(self, world: int = 1) -> float:
        """Distinct keys of ``world`` ranks' batches together."""
        return self.features * distinct(world * self.lookups, self.rows, self.law)

    def memory_bytes(self, world: int) -> float:
        n, own, asked = self.features * self.lookups, self.unique(), self.unique(world) / world
        return 4 * self.dim * (2 * n / self.hot + 5 * own + 7 * asked)

    def link_bytes(self, world: int) -> float:
        """What a rank hands over, keys, rows and gradients."""
        return self.unique() * (8 + 2 * 4 * self.dim) * (world - 1) / world


@dataclass(frozen=True)
class StepModel:
    """Rates in bytes a second: of a step's own work, and of what it hands over. ``fixed``: seconds
    of a step of next to no keys, of one rank and of several."""

    memory_rate: float
    link_rate: float
    fixed: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def fitted(
        cls, load: Load, alone: float, pair: float, fixed: tuple[float, float] = (0.0, 0.0)
    ) -> StepModel:
        """From the seconds of a step of one rank, and of each of two, at the same load. Where a
        pair takes no longer than its work in memory the link costs nothing."""
        for name, seconds, least in (("alone", alone, fixed[0]), ("pair", pair, fixed[1])):
            if not seconds > least:
                raise ValueError(f"dynamicemb: {name} must be seconds > {least:g}, got {seconds!r}")
        alone, pair = alone - fixed[0], pair - fixed[1]
        one, two, link = load.memory_bytes(1), load.memory_bytes(2), load.link_bytes(2)
        rest = pair - two * alone / one
        if rest > 0:
            return cls(one / alone, link / rest, fixed)
        rate = (one * one + two * two) / (one * alone + two * pair)
        return cls(rate, math.inf, fixed)

    def seconds(self, load: Load, world: int) -> float:
        work = load.memory_bytes(world) / self.memory_rate
        return self.fixed[world > 1] + work + load.link_bytes(world) / self.link_rate
