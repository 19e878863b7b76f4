"""The table against a Python dict with the same rules, in random sequences of calls."""

from __future__ import annotations

from typing import Any

import hkv
import hypothesis.strategies as st
import numpy as np
import pytest
from hkv import Status
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.hkv.model import Model

DIM = 3
# The extremes are ordinary keys; the rest collide often.
KEYS = st.one_of(st.integers(0, 40), st.sampled_from([-(2**63), -3, -2, -1, 2**62, 2**63 - 1]))
SCORES = st.integers(0, 60)
LOW_BITS = 48


def batches(unique: bool) -> st.SearchStrategy[list[int]]:
    return st.lists(KEYS, max_size=12, unique=unique)


class Machine(RuleBasedStateMachine):
    """One call per rule. On the GPU the order inside a batch is free, so its batches hold one key
    where a full table makes the order matter; the host table keeps the order of the batch."""

    device = "cpu"
    passes_from = 1
    strategy = "lru"
    capacity = 17

    def __init__(self) -> None:
        super().__init__()
        self.table = hkv.HashTable(
            self.capacity, DIM, evict_strategy=self.strategy, device=self.device, num_threads=2,
            passes_from=self.passes_from,
        )  # fmt: skip
        self.model = Model(self.capacity, self.strategy)
        self.serial = 0

    def _put(self, array: np.ndarray) -> Any:
        return array if self.device == "cpu" else hkv.DeviceArray.of(array)

    def _get(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else array.numpy()

    def _batch(self, keys: list[int]) -> list[list[int]]:
        return [keys] if self.device == "cpu" else [[k] for k in keys]

    def _new_rows(self, n: int) -> np.ndarray:
        self.serial += 1
        return np.arange(n * DIM, dtype=np.float32).reshape(n, DIM) + 64 * self.serial

    def _scores(self, data: st.DataObject, n: int) -> np.ndarray | None:
        if self.strategy == "lru":
            return None
        high = data.draw(st.lists(SCORES, min_size=n, max_size=n))
        # Low bits that never repeat (nor do their sums): among equal scores any key may go.
        low = [(self.serial * 64 + i) * 0x9E3779B97F4A7C15 % 2**LOW_BITS for i in range(n)]
        return np.array([h << LOW_BITS | x for h, x in zip(high, low, strict=True)], np.uint64)

    def _given(self, scores: np.ndarray | None, i: int) -> int | None:
        return None if scores is None else int(scores[i])

    def _maybe(self, scores: np.ndarray | None) -> Any:
        return None if scores is None else self._put(scores)

    @rule(keys=batches(False), data=st.data())
    def insert_or_assign(self, keys: list[int], data: st.DataObject) -> None:
        for part in self._batch(keys):
            rows, scores = self._new_rows(len(part)), self._scores(data, len(part))
            status = self.table.insert_or_assign(
                self._put(np.array(part, np.int64)), self._put(rows), self._maybe(scores)
            )
            want = [
                self.model.insert(k, rows[i], self._given(scores, i))[0] for i, k in enumerate(part)
            ]
            assert list(self._get(status)) == want

    @rule(keys=batches(False), data=st.data())
    def insert_and_evict(self, keys: list[int], data: st.DataObject) -> None:
        for part in self._batch(keys):
            rows, scores = self._new_rows(len(part)), self._scores(data, len(part))
            out = self.table.insert_and_evict(
                self._put(np.array(part, np.int64)), self._put(rows), self._maybe(scores)
            )
            want = [
                self.model.insert(k, rows[i], self._given(scores, i)) for i, k in enumerate(part)
            ]
            left = [w[1] for w in want if w[1] is not None]
            assert list(self._get(out.status)) == [w[0] for w in want]
            count = int(self._get(out.count)[0])
            assert count == len(left)
            assert self._get(out.keys)[:count].tolist() == [w[0] for w in left]
            for i, (_, row, score) in enumerate(left):
                np.testing.assert_array_equal(self._get(out.values)[i], row)
                if self.strategy != "lru":
                    assert int(self._get(out.scores)[i]) == score

    @rule(keys=batches(False), data=st.data())
    def find_or_insert(self, keys: list[int], data: st.DataObject) -> None:
        for part in self._batch(keys):
            rows, scores = self._new_rows(len(part)), self._scores(data, len(part))
            values = self._put(rows.copy())
            founds, status = self.table.find_or_insert(
                self._put(np.array(part, np.int64)), values, self._maybe(scores)
            )
            for i, k in enumerate(part):
                want, row = self.model.find_or_insert(k, rows[i], self._given(scores, i))
                assert self._get(status)[i] == want
                assert self._get(founds)[i] == (want == Status.UPDATED)
                np.testing.assert_array_equal(self._get(values)[i], row)

    @rule(keys=batches(False), data=st.data())
    def accum_or_assign(self, keys: list[int], data: st.DataObject) -> None:
        for part in self._batch(keys):
            rows, scores = self._new_rows(len(part)), self._scores(data, len(part))
            n = len(part)
            flags = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
            status = self.table.accum_or_assign(
                self._put(np.array(part, np.int64)), self._put(rows), self._put(flags),
                self._maybe(scores),
            )  # fmt: skip
            want = [
                self.model.accum(k, rows[i], bool(flags[i]), self._given(scores, i))
                for i, k in enumerate(part)
            ]
            assert list(self._get(status)) == want

    @rule(keys=batches(True), data=st.data(), what=st.sampled_from(["both", "values", "scores"]))
    def assign(self, keys: list[int], data: st.DataObject, what: str) -> None:
        for part in self._batch(keys):
            self._assign(part, data, what)

    def _assign(self, keys: list[int], data: st.DataObject, what: str) -> None:
        rows, scores = self._new_rows(len(keys)), self._scores(data, len(keys))
        k = self._put(np.array(keys, np.int64))
        if what == "both":
            status = self.table.assign(k, self._put(rows), self._maybe(scores))
        elif what == "values":
            status = self.table.assign_values(k, self._put(rows))
        else:
            status = self.table.assign_scores(k, self._maybe(scores))
        want = [
            self.model.assign(
                key, None if what == "scores" else rows[i], self._given(scores, i),
                touch=what != "values",
            )
            for i, key in enumerate(keys)
        ]  # fmt: skip
        assert list(self._get(status)) == want

    @rule(keys=batches(True))
    def erase(self, keys: list[int]) -> None:
        status = self.table.erase(self._put(np.array(keys, np.int64)))
        assert list(self._get(status)) == [self.model.erase(k) for k in keys]

    @precondition(lambda self: self.strategy != "lru")
    @rule(low=SCORES, high=SCORES)
    def erase_if(self, low: int, high: int) -> None:
        low, high = low << LOW_BITS, high << LOW_BITS
        doomed = [
            k for k, s in self.model.scores.items()
            if low <= s <= high and k not in self.model.locked
        ]  # fmt: skip
        assert self.table.erase_if(score_min=low, score_max=high) == len(doomed)
        for k in doomed:
            self.model.erase(k)

    @rule(keys=batches(True), lock=st.booleans())
    def lock(self, keys: list[int], lock: bool) -> None:
        k = self._put(np.array(keys, np.int64))
        done = self.table.lock_keys(k) if lock else self.table.unlock_keys(k)
        for i, key in enumerate(keys):
            changes = key in self.model.rows and (key in self.model.locked) != lock
            assert self._get(done)[i] == changes
            if changes:
                (self.model.locked.add if lock else self.model.locked.remove)(key)

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model = Model(self.capacity, self.strategy)

    @rule(keys=batches(False))
    def find(self, keys: list[int]) -> None:
        poison = np.full((len(keys), DIM), -7, np.float32)
        values = self._put(poison)
        _, founds = self.table.find(self._put(np.array(keys, np.int64)), values=values)
        for i, k in enumerate(keys):
            assert self._get(founds)[i] == (k in self.model.rows)
            np.testing.assert_array_equal(
                self._get(values)[i], self.model.rows.get(k, np.full(DIM, -7))
            )

    @invariant()
    def same_contents(self) -> None:
        assert self.table.size() == len(self.model.rows)
        out = self.table.export_batch(self.table.capacity)
        count = int(self._get(out.count)[0])
        keys = self._get(out.keys)[:count].tolist()
        assert sorted(keys) == sorted(self.model.rows)
        values, scores = self._get(out.values), self._get(out.scores)
        for i, k in enumerate(keys):
            np.testing.assert_array_equal(values[i], self.model.rows[k])
            if self.strategy != "lru":
                assert int(scores[i]) == self.model.scores[k]


@pytest.mark.parametrize("strategy", ["lru", "lfu", "customized"])
def test_random_calls_agree_with_a_dict(engine: Any, strategy: str) -> None:
    variant = {"device": engine.device, "passes_from": engine.passes_from, "strategy": strategy}
    machine = type("M", (Machine,), variant)
    on_host = engine.device == "cpu"
    config = settings(
        max_examples=35 if on_host else 12,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=config)
