"""Dropout that PYTORCH and TRITON draw alike: Philox 4x32-10 of (seed, place)."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_KEYS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = (0xD2511F53, 0xCD9E8D57)


def philox(seed: Tensor, place: Tensor, which: Tensor | int = 0) -> Tensor:
    """Numbers of 32 bits, int64 from 0: one of the four that Philox gives for each place.

    Args:
        seed: int64 of one number.
        place: int64 of any shape.
        which: 0 to 3, one for all places or for each.
    """
    c0, c1 = place & _LOW, (place >> 32) & _LOW
    c2 = c3 = torch.zeros_like(place)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        # Products of 32-bit numbers in int64: they wrap, but no bit is lost.
        a, b = c0 * _ROUNDS[0], c2 * _ROUNDS[1]
        c0, c2 = ((b >> 32) & _LOW) ^ c1 ^ k0, ((a >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = b & _LOW, a & _LOW
        k0, k1 = (k0 + _KEYS[0]) & _LOW, (k1 + _KEYS[1]) & _LOW
    which = torch.as_tensor(which, device=place.device)
    return torch.where(which < 2, torch.where(which == 0, c0, c1), torch.where(which == 2, c2, c3))


def drawn_seed(seed: int | None, offset: int, like: Tensor, used: bool) -> Tensor:
    """(seed, offset), int64 (2,) on the device of ``like``; drawn by PyTorch's generator for that
    device where dropout is used and no seed is given."""
    if seed is None and used:
        return torch.randint(0, 2**31 - 1, (2,), dtype=torch.int64, device=like.device)
    given = torch.full((2,), seed or 0, dtype=torch.int64, device=like.device)
    given[1:] = offset
    return given


def kept(seed: Tensor, shape: tuple[int, int], ratio: float, part: int | None = None) -> Tensor:
    """0, or 1 / (1 - ratio), for each place of a matrix, float32; a place is dropped if its number
    is below ``ratio``, in float32, of 2**32.

    Args:
        seed: what ``drawn_seed`` returns.
        shape: rows, columns; places count on from the offset, row by row.
        ratio: the probability of 0.
        part: of so many columns, all of them if None, each four from the first on share a draw.
    """
    column = torch.arange(shape[1], device=seed.device)
    which = column % (part or max(shape[1], 1)) % 4
    begin = torch.arange(shape[0], device=seed.device)[:, None] * shape[1] + seed[1]
    place = begin + column - which
    least = int(min(torch.tensor(ratio, dtype=torch.float32).item(), 1 - 2**-24) * 2**32)
    return torch.where(philox(seed[0], place, which) >= least, 1.0 / (1.0 - ratio), 0.0)
