"""A Python dict with the table's rules, for tables of one bucket (capacity <= 128).

With one bucket the smallest score of the bucket is the smallest score of the table, so the model
needs no hash function. Scores are given by the caller ("customized", "lfu") or by a counter that
stands for the clock ("lru").
"""

from __future__ import annotations

import numpy as np
from hkv import Status

MAX_SCORE = 2**64 - 1


class Model:
    def __init__(self, capacity: int, strategy: str) -> None:
        self.capacity = capacity
        self.strategy = strategy
        self.rows: dict[int, np.ndarray] = {}
        self.scores: dict[int, int] = {}
        self.locked: set[int] = set()
        self.clock = 0

    def _score(self, key: int, given: int | None) -> int:
        """The score after a write; the key is present if it is in self.scores."""
        if self.strategy == "lru":
            self.clock += 1
            return self.clock
        if self.strategy == "lfu":
            increment = MAX_SCORE if given is None else given
            return min(MAX_SCORE, self.scores.get(key, 0) + increment)
        assert given is not None
        return given

    def _insert(
        self, key: int, row: np.ndarray, given: int | None
    ) -> tuple[Status, tuple[int, np.ndarray, int] | None]:
        """Inserts an absent key: (status, what left the table or was refused)."""
        score = self._score(key, given)
        out = None
        status = Status.INSERTED
        if len(self.rows) == self.capacity:
            candidates = [k for k in self.rows if k not in self.locked]
            victim = min(candidates, key=lambda k: self.scores[k], default=None)
            if victim is None or score < self.scores[victim]:
                return Status.REFUSED, (key, row, score)
            out = (victim, self.rows.pop(victim), self.scores.pop(victim))
            status = Status.EVICTED
        self.rows[key] = row.copy()
        self.scores[key] = score
        return status, out

    def insert(
        self, key: int, row: np.ndarray, given: int | None
    ) -> tuple[Status, tuple[int, np.ndarray, int] | None]:
        if key in self.rows:
            if key in self.locked:
                return Status.LOCKED, None
            self.scores[key] = self._score(key, given)
            self.rows[key] = row.copy()
            return Status.UPDATED, None
        return self._insert(key, row, given)

    def find_or_insert(
        self, key: int, row: np.ndarray, given: int | None
    ) -> tuple[Status, np.ndarray]:
        if key in self.rows:
            self.scores[key] = self._score(key, given)
            return Status.UPDATED, self.rows[key]
        status, _ = self._insert(key, row, given)
        return status, row

    def accum(self, key: int, row: np.ndarray, flag: bool, given: int | None) -> Status:
        if (key in self.rows) != flag:
            return Status.SKIPPED
        if not flag:
            return self._insert(key, row, given)[0]
        if key in self.locked:
            return Status.LOCKED
        self.scores[key] = self._score(key, given)
        self.rows[key] = self.rows[key] + row
        return Status.UPDATED

    def assign(
        self, key: int, row: np.ndarray | None, given: int | None, touch: bool = True
    ) -> Status:
        if key not in self.rows:
            return Status.SKIPPED
        if key in self.locked:
            return Status.LOCKED
        if touch:
            self.scores[key] = self._score(key, given)
        if row is not None:
            self.rows[key] = row.copy()
        return Status.UPDATED

    def erase(self, key: int) -> Status:
        if key not in self.rows:
            return Status.SKIPPED
        if key in self.locked:
            return Status.LOCKED
        del self.rows[key], self.scores[key]
        return Status.UPDATED
