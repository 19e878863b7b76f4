"""First values of ``dynamicemb_extensions``: rows of a buffer, chosen by their numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CurandStateContext:
    """Where random numbers come from: torch's generators, one a device, all of one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._made: dict[torch.device, torch.Generator] = {}

    def uniform(self, like: Tensor, rows: int) -> Tensor:
        """(rows, dim) float64 in [0, 1)."""
        if like.device not in self._made:
            self._made[like.device] = torch.Generator(like.device).manual_seed(self.seed)
        shape, draw = (rows, like.shape[1]), self._made[like.device]
        return torch.rand(shape, generator=draw, device=like.device, dtype=torch.float64)


def _normal(numbers: Tensor, mean: float, deviation: float) -> Tensor:
    """By the inverse of the distribution."""
    drawn: Tensor = torch.special.ndtri(numbers.clamp(2.0**-54, 1 - 2.0**-53))
    return mean + deviation * drawn


def normal_init(
    buffer: Tensor, indices: Tensor, curand_state_context: CurandStateContext, mean: float,
    std_dev: float,
) -> None:  # fmt: skip
    numbers = curand_state_context.uniform(buffer, len(indices))
    buffer[indices.long()] = _normal(numbers, mean, std_dev).to(buffer.dtype)


def truncated_normal_init(
    buffer: Tensor, indices: Tensor, curand_state_context: CurandStateContext, mean: float,
    std_dev: float, lower: float, upper: float,
) -> None:  # fmt: skip
    """Normal numbers from ``lower`` to ``upper``."""
    if not (std_dev > 0 and lower < upper):
        raise ValueError(
            f"dynamicemb: std_dev must be > 0 and lower < upper, got {std_dev}, {lower}, {upper}"
        )
    low, high = (
        (1 + math.erf((bound - mean) / std_dev / math.sqrt(2))) / 2 for bound in (lower, upper)
    )
    numbers = curand_state_context.uniform(buffer, len(indices))
    drawn = _normal(low + (high - low) * numbers, mean, std_dev)
    buffer[indices.long()] = drawn.clamp(lower, upper).to(buffer.dtype)


def uniform_init(
    buffer: Tensor, indices: Tensor, curand_state_context: CurandStateContext, lower: float,
    upper: float,
) -> None:  # fmt: skip
    numbers = curand_state_context.uniform(buffer, len(indices))
    buffer[indices.long()] = (lower + (upper - lower) * numbers).to(buffer.dtype)


def const_init(buffer: Tensor, indices: Tensor, value: float) -> None:
    buffer[indices.long()] = value


def debug_init(buffer: Tensor, indices: Tensor, keys: Tensor) -> None:
    """Each value is the key mod 100000; ``keys``: of every row of the buffer."""
    some = (keys[indices.long()] % 100000).to(buffer.dtype)
    buffer[indices.long()] = some[:, None].expand(-1, buffer.shape[1])
