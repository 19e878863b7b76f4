"""Of a full table the rows with the greatest scores stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def share_of_the_best(engine: Any, strategy: str, batches: int, **options: Any) -> float:
    capacity = 1 << (17 if engine.device == "cpu" else 20)
    table = engine.table(capacity, 1, evict_strategy=strategy, **options)
    n = 2 * capacity // batches
    total = batches * n
    generator = np.random.default_rng(4)
    scores = np.arange(1, total + 1, dtype=np.uint64)
    if strategy == "lfu":  # the greatest are not the last
        generator.shuffle(scores)
    keys = generator.integers(0, 2**62, total)
    values = engine.put(np.zeros((n, 1), np.float32))
    for first in range(0, total, n):
        part = slice(first, first + n)
        given = None if strategy == "lru" else engine.put(scores[part])
        table.insert_or_assign(engine.put(keys[part]), values, given)
    stays = engine.get(table.contains(engine.put(keys)))
    assert table.size() >= 0.99 * capacity
    return float((stays & (scores > total - capacity)).sum()) / table.size()


@pytest.mark.parametrize("batches", [10, 160])
@pytest.mark.parametrize("strategy", ["lru", "lfu", "customized"])
def test_nearly_all_rows_that_stay_are_of_the_greatest_scores(
    engine: Any, strategy: str, batches: int
) -> None:
    """Twice the capacity goes in; of the rows that are there then, 99.5 % at least are of the upper
    half of the scores."""
    share = share_of_the_best(engine, strategy, batches)
    print(f"{strategy}, {batches} batches: {share:.4f} of the rows that stay are the best")
    assert share >= 0.995


def test_evicting_at_home_keeps_nineteen_of_twenty(engine: Any) -> None:
    share = share_of_the_best(engine, "lru", 10, evict_from="home")
    print(f"lru, at home: {share:.4f} of the rows that stay are the best")
    assert 0.95 <= share < 0.98
