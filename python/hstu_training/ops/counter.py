"""Randomness as a function of numbers: the same draw for the same step, however it was reached.

On the CPU a draw is a hash of (seed, step, stream, token, column), so it does not depend on how a
batch is divided among processes either. On a GPU it is Philox of (seed, step, stream, rank).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MASK = 2**64 - 1
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_POSITIONS = 24  # bits of a token's place in its sequence


def _signed(x: int) -> int:
    x &= _MASK
    return x - 2**64 if x >= 2**63 else x


def mix(*numbers: int) -> int:
    """A 63-bit number of some integers (SplitMix64's finaliser, over and over)."""
    state = 0
    for number in numbers:
        state = (state + _ODD[0] + (number & _MASK)) & _MASK
        state = ((state ^ (state >> 30)) * _ODD[1]) & _MASK
        state = ((state ^ (state >> 27)) * _ODD[2]) & _MASK
        state ^= state >> 31
    return state & (2**63 - 1)


def mixed(x: Tensor) -> Tensor:
    """The same finaliser of int64 numbers, each for itself; results are >= 0."""
    x = x + _signed(_ODD[0])
    for shift, factor in ((30, _ODD[1]), (27, _ODD[2])):
        x ^= (x >> shift).bitwise_and_(2 ** (64 - shift) - 1)
        x *= _signed(factor)
    x ^= (x >> 31).bitwise_and_(2**33 - 1)
    return x.bitwise_and_(2**63 - 1)


def token_keys(slots: Tensor, positions: Tensor) -> Tensor:
    """A number for each token, from its sequence's place in the global batch and its own there."""
    return (slots.long() << _POSITIONS) + positions.long()


class Randomness(NamedTuple):
    """The draws of one step.

    Args:
        seed: of (seed of the run, step).
        rank: of the process; only draws on a GPU differ by it.
        rows: (tokens) ``token_keys`` of the batch.
    """

    seed: int
    rank: int
    rows: Tensor

    def stream(self, stream: int) -> int:
        """The seed of a GPU's generator for one use of a step, 31 bits."""
        return mix(self.seed, stream, self.rank) & (2**31 - 1)

    def _hashed(self, stream: int, rows: Tensor, columns: int) -> Tensor:
        of_rows = mixed(rows ^ mix(self.seed, stream))
        return mixed(of_rows[:, None] + torch.arange(columns, device=rows.device)[None])

    def _generator(self, stream: int, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(self.stream(stream))

    def keep(self, stream: int, ratio: float, columns: int, at: Tensor | None = None) -> Tensor:
        """(tokens, columns) bool, True with probability 1 - ratio; ``at``: of these tokens."""
        rows = self.rows if at is None else self.rows[at]
        if rows.is_cuda:
            drawn = torch.empty((len(rows), columns), dtype=torch.bool, device=rows.device)
            return drawn.bernoulli_(1 - ratio, generator=self._generator(stream, rows.device))
        return self._hashed(stream, rows, columns) >= int(ratio * 2**63)

    def integers(self, stream: int, rows: Tensor, columns: int, below: int) -> Tensor:
        """(len(rows), columns) int64 in [0, below)."""
        if rows.is_cuda:
            generator = self._generator(stream, rows.device)
            shape = (len(rows), columns)
            return torch.randint(0, below, shape, generator=generator, device=rows.device)
        return self._hashed(stream, rows, columns) % below


def dropout(x: Tensor, ratio: float, random: Randomness | None, stream: int) -> Tensor:
    """Dropout of (tokens, columns); None: evaluation, nothing is dropped."""
    if random is None or ratio == 0.0:
        return x
    return x * random.keep(stream, ratio, x.shape[1]) / (1 - ratio)
