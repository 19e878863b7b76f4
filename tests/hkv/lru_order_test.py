"""Of one bucket the rows that were used the longest ago leave, whatever happened to it before: the
GPU remembers which ones those are from call to call (csrc/hkv/lowest.cuh)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ROWS, STEPS = 128, 60


class Uses:
    """A table of one bucket, and when each of its keys was used last."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.table = engine.table(ROWS, 1)
        self.draw = np.random.default_rng(7)
        self.used: dict[int, int] = {}
        self.held: set[int] = set()
        self.fresh = 0
        self.insert(1, ROWS)

    def some(self, count: int) -> np.ndarray:
        there = np.array(sorted(self.used), np.int64)
        return self.draw.choice(there, min(count, len(there)), replace=False)

    def put(self, keys: Any) -> Any:
        return self.engine.put(np.asarray(keys, np.int64))

    def values(self, count: int) -> Any:
        return self.engine.put(np.zeros((count, 1), np.float32))

    def insert(self, now: int, count: int) -> None:
        keys = np.arange(self.fresh, self.fresh + count)
        self.fresh += count
        before = np.array(sorted(self.used), np.int64)
        self.table.insert_or_assign(self.put(keys), self.values(count))
        assert self.engine.get(self.table.contains(self.put(keys))).all()
        stays = self.engine.get(self.table.contains(self.put(before)))
        left = set(before[~stays].tolist())
        assert len(left) == max(0, len(before) + count - ROWS)
        assert not left & self.held
        last = max((self.used[key] for key in left), default=0)
        others = [self.used[key] for key in self.used if key not in left | self.held]
        assert last <= min(others, default=last), "a row left before one that was used earlier"
        self.used = {k: n for k, n in self.used.items() if k not in left}
        self.used |= dict.fromkeys(keys.tolist(), now)

    def use(self, now: int, count: int) -> None:
        keys = self.some(count)
        self.table.find_and_update(self.put(keys))
        self.used |= dict.fromkeys(keys.tolist(), now)

    def lower(self, now: int, count: int) -> None:
        """Scores that are less than any time."""
        keys = self.some(count)
        scores = self.engine.put(np.full(len(keys), now, np.uint64))
        self.table.insert_or_assign(self.put(keys), self.values(len(keys)), scores, policy="assign")
        self.used |= dict.fromkeys(keys.tolist(), now - 1000)

    def erase(self, count: int) -> None:
        keys = self.some(count)
        self.table.erase(self.put([k for k in keys.tolist() if k not in self.held]))
        self.used = {k: n for k, n in self.used.items() if k in self.held or k not in keys}

    def hold(self, count: int) -> None:
        if self.held:
            self.table.unlock_keys(self.put(sorted(self.held)))
        self.held = set(self.some(count).tolist())
        self.table.hold_keys(self.put(sorted(self.held)))


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("between", ["nothing", "uses", "lower scores", "erasing", "holders"])
def test_the_row_used_the_longest_ago_leaves(engine: Any, between: str, count: int) -> None:
    uses = Uses(engine)
    for now in range(2, STEPS):
        if between == "uses":
            uses.use(now, 20)
        elif between == "lower scores" and now % 3 == 0:
            uses.lower(now, 6)
        elif between == "erasing" and now % 3 == 0:
            uses.erase(7)
        elif between == "holders" and now % 4 == 0:
            uses.hold(10)
        uses.insert(now, count)


def test_a_clock_that_is_set_back_makes_older_rows(engine: Any) -> None:
    uses = Uses(engine)
    for now in range(2, 10):
        uses.insert(now, 8)
    uses.table.native.set_clock(5)
    uses.use(-1, 16)
    uses.insert(20, 16)
