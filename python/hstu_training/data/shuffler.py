"""Which process takes which sequences of a global batch."""

from __future__ import annotations

import numpy as np

from hstu_training.data.columns import Array


def visible_pairs(lengths: Array, contexts: int, targets: Array) -> Array:
    """(sequences) how many (row, column) pairs the attention computes, of lengths in tokens."""
    lengths, targets = lengths.astype(np.int64), targets.astype(np.int64)
    history = lengths - targets
    causal = history * (history + 1) // 2
    above = contexts * history - contexts * (contexts + 1) // 2  # contexts see what comes later
    return np.asarray(causal + np.maximum(above, 0) + targets * (history + 1))


def even(costs: Array, world: int) -> list[Array]:
    """Equal shares in order: sequences ``rank * n / world`` on."""
    return np.array_split(np.arange(len(costs)), world)


def balanced(costs: Array, world: int) -> list[Array]:
    """The dearest sequence left goes to the process that has least to do so far."""
    loads = np.zeros(world)
    shares: list[list[int]] = [[] for _ in range(world)]
    for sequence in np.argsort(-costs, kind="stable").tolist():
        rank = int(np.argmin(loads))
        loads[rank] += float(costs[sequence])
        shares[rank].append(sequence)
    return [np.sort(np.array(share, np.int64)) for share in shares]
