"""HSTU attention from its formula, in loops of float64: one query and one key at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sees(
    i: int, j: int, length: int, targets: int, window: int, contextual: int, full: int
) -> bool:
    """Whether position ``i`` of a sequence sees position ``j``."""
    history = length - targets

    def identity(p: int) -> int:
        own = p if contextual == 0 else max(p - contextual + 1, 0)
        shared = history if contextual == 0 else history - contextual + 1
        return min(own, shared)

    last = history if contextual == 0 else history - contextual + 1
    row, column = identity(i), identity(j)
    if i == j:
        return True
    if contextual and row == 0 and column < last:
        return True
    if column >= row:
        return False
    if window == 0 or row - column <= window:
        return True
    return full > 0 and row >= last - full


def attention(
    n: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: list[int],
    targets: list[int] | None = None,
    window: int = 0,
    contextual: int = 0,
    full: int = 0,
) -> Tensor:
    """(rows, heads, dim_v) float64."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros((*q.shape[:2], v.shape[2]), dtype=torch.float64)
    for b in range(len(starts) - 1):
        length = starts[b + 1] - starts[b]
        mine = targets[b] if targets is not None else 0
        for i in range(min(length, n)):
            for j in range(min(length, n)):
                if not sees(i, j, length, mine, window, contextual, full):
                    continue
                for h in range(q.shape[1]):
                    s = alpha * float(q[starts[b] + i, h] @ k[starts[b] + j, h])
                    out[starts[b] + i, h] += s / (1.0 + math.exp(-s)) / n * v[starts[b] + j, h]
    return out
