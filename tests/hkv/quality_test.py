"""Of a full table the rows with the greatest scores stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("strategy", ["lru", "lfu", "customized"])
def test_nearly_all_rows_that_stay_are_of_the_greatest_scores(engine: Any, strategy: str) -> None:
    """Twice the capacity goes in, by ten batches; of the rows that are there then, 99.5 % at least
    are of the upper half of the scores."""
    capacity = 1 << (17 if engine.device == "cpu" else 20)
    table = engine.table(capacity, 1, evict_strategy=strategy)
    n = capacity // 5
    generator = np.random.default_rng(4)
    scores = np.arange(1, 10 * n + 1, dtype=np.uint64)
    if strategy == "lfu":  # the greatest are not the last
        generator.shuffle(scores)
    keys = generator.integers(0, 2**62, 10 * n)
    values = engine.put(np.zeros((n, 1), np.float32))
    for first in range(0, 10 * n, n):
        part = slice(first, first + n)
        given = None if strategy == "lru" else engine.put(scores[part])
        table.insert_or_assign(engine.put(keys[part]), values, given)
    stays = engine.get(table.contains(engine.put(keys)))
    best = scores > 10 * n - capacity
    share = (stays & best).sum() / table.size()
    print(f"{strategy}: {share:.4f} of the rows that stay are of the greatest scores")
    assert share >= 0.995
    assert table.size() >= 0.99 * capacity
