"""Every kind of call on each of the thirty tables against a Python dict, on every engine.

Batches hold distinct keys, nothing is evicted and no status is asked for: what then happens does
not depend on how an engine is built, so HierarchicalKV's agrees, too.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.any_engine

TABLES = list(
    itertools.product(
        ["int64", "uint64"],
        ["float32", "float16", "bfloat16"],
        ["lru", "lfu", "epoch_lru", "epoch_lfu", "customized"],
    )
)
DIM, EPOCH = 7, 5
# Of keys 0 ... 899: the first 600 go in, and some calls ask for every third.
ALL, THERE = np.arange(900), np.arange(600)


class Dict:
    """A table and what should be in it: key -> (the number that its row holds, its score)."""

    def __init__(self, engine: Any, key: str, value: str, strategy: str) -> None:
        self.engine, self.key, self.value, self.strategy = engine, key, value, strategy
        self.table = engine.table(
            4096, DIM, key_dtype=key, value_dtype=value, evict_strategy=strategy
        )
        if strategy.startswith("epoch"):
            self.table.set_global_epoch(EPOCH)
        self.rows: dict[int, tuple[int, int]] = {}

    # -- arguments and results

    def keys(self, numbers: np.ndarray) -> Any:
        """Large, scattered keys of both signs; one number, one key."""
        scattered = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return self.engine.put(scattered.view(self.key))

    def marks(self, numbers: np.ndarray) -> Any:
        """Rows that hold one small integer each: exact in every value type."""
        rows = np.repeat(numbers.astype(np.float32)[:, None], DIM, 1)
        if self.value == "bfloat16":
            bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
            return self.engine.put(bits, "bfloat16")
        return self.engine.put(rows.astype(self.value))

    def numbers(self, rows: Any) -> np.ndarray:
        got = self.engine.get(rows)
        if self.value == "bfloat16":
            got = (got.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        assert (got == got[:, :1]).all(), "a torn row"
        return got[:, 0].astype(int)

    def given(self, n: int, score: int) -> Any:
        """The scores that the strategy asks for."""
        if self.strategy in ("lru", "epoch_lru"):
            return None
        return self.engine.put(np.full(n, score, np.uint64))

    def score(self, old: int, given: int) -> int:
        """After a write; a clock's score is not known and stands as -1."""
        return {
            "lru": -1,
            "lfu": old + given,
            "epoch_lru": -1,
            "epoch_lfu": EPOCH << 32 | (old + given) & 0xFFFFFFFF,
            "customized": given,
        }[self.strategy]

    def write(self, numbers: np.ndarray, mark: int | None = None, given: int | None = None) -> None:
        for number in numbers.tolist():
            old_mark, old = self.rows.get(number, (0, 0))
            self.rows[number] = (
                old_mark if mark is None else mark,
                old if given is None else self.score(old, given),
            )

    # -- checks

    def check(self) -> None:
        """Every key, present or not, is as the dict has it."""
        scores = self.engine.put(np.zeros(len(ALL), np.uint64))
        values, founds = self.table.find(self.keys(ALL), scores=scores)
        there = np.isin(ALL, list(self.rows))
        np.testing.assert_array_equal(self.engine.get(founds), there)
        want = [self.rows.get(i, (0, 0)) for i in ALL.tolist()]
        np.testing.assert_array_equal(self.numbers(values), [mark for mark, _ in want])
        for i, score in enumerate(self.engine.get(scores).tolist()):
            if want[i][1] != -1:
                assert score == want[i][1], i
            elif self.strategy == "epoch_lru":
                assert score >> 32 == EPOCH
        assert self.table.size() == len(self.rows)


@pytest.fixture(params=TABLES, ids="-".join)
def filled(request: pytest.FixtureRequest, engine: Any) -> Dict:
    d = Dict(engine, *request.param)
    d.table.insert_or_assign(d.keys(THERE), d.marks(np.full(len(THERE), 3)), d.given(len(THERE), 2))
    d.write(THERE, 3, 2)
    d.check()
    return d


def test_reads_agree_with_a_dict(filled: Dict) -> None:
    d, engine, there = filled, filled.engine, ALL < 600
    assert (engine.get(d.table.contains(d.keys(ALL))) == there).all()
    rows, founds = d.table.find_pointers(d.keys(ALL))
    assert (engine.get(founds) == there).all()
    addresses = engine.get(rows)
    assert ((addresses != 0) == there).all()
    assert len(set(addresses[there].tolist())) == 600
    missed = d.table.find_missed(d.keys(ALL))
    count = int(engine.get(missed.count)[0])
    indices = engine.get(missed.indices)[:count]
    assert sorted(indices.tolist()) == ALL[~there].tolist()
    np.testing.assert_array_equal(engine.get(missed.keys)[:count], engine.get(d.keys(ALL))[indices])
    np.testing.assert_array_equal(d.numbers(missed.values), np.where(there, 3, 0))
    d.check()


def test_calls_that_find_or_insert_agree_with_a_dict(filled: Dict) -> None:
    d, engine, asked = filled, filled.engine, ALL[::3]
    there, n = asked < 600, len(ALL[::3])
    values, founds = d.table.find_and_update(d.keys(asked), d.given(n, 4))
    assert (engine.get(founds) == there).all()
    np.testing.assert_array_equal(d.numbers(values), np.where(there, 3, 0))
    d.write(asked[there], given=4)
    d.check()
    values = d.marks(np.full(n, 9))
    founds, _ = d.table.find_or_insert(d.keys(asked), values, d.given(n, 5))
    assert (engine.get(founds) == there).all()
    np.testing.assert_array_equal(d.numbers(values), np.where(there, 3, 9))
    d.write(asked[there], given=5)
    d.write(asked[~there], 9, 5)
    d.check()
    rows, founds, _ = d.table.find_or_insert_pointers(d.keys(ALL), d.given(len(ALL), 6))
    old = np.isin(ALL, list(d.rows))
    assert (engine.get(founds) == old).all()
    assert len(set(engine.get(rows).tolist())) == len(ALL)
    d.write(ALL[old], given=6)
    d.write(ALL[~old], 8, 6)
    d.table.assign_values(d.keys(ALL[~old]), d.marks(np.full((~old).sum(), 8)))
    d.check()


def test_writes_agree_with_a_dict(filled: Dict) -> None:
    d, asked = filled, ALL[::3]
    there, n = asked < 600, len(ALL[::3])
    d.table.assign(d.keys(asked), d.marks(np.full(n, 11)), d.given(n, 7))
    d.write(asked[there], 11, 7)
    d.check()
    d.table.assign_values(d.keys(asked), d.marks(np.full(n, 12)))
    d.write(asked[there], 12)
    d.check()
    d.table.assign_scores(d.keys(asked), d.given(n, 3))
    d.write(asked[there], given=3)
    d.check()
    adds = asked % 2 == 0
    d.table.accum_or_assign(
        d.keys(asked), d.marks(np.full(n, 4)), d.engine.put(adds), d.given(n, 1)
    )
    d.write(asked[there & adds], 16, 1)
    d.write(asked[~there & ~adds], 4, 1)
    d.check()
    d.table.erase(d.keys(asked))
    for number in asked.tolist():
        d.rows.pop(number, None)
    d.check()
    out = d.table.insert_and_evict(d.keys(ALL), d.marks(np.full(len(ALL), 6)), d.given(900, 2))
    assert int(d.engine.get(out.count)[0]) == 0
    d.write(ALL, 6, 2)
    d.check()


def test_scores_are_stored_as_given_where_the_strategy_is_ignored(filled: Dict) -> None:
    d, n = filled, len(THERE)
    scores = np.arange(1000, 1000 + n, dtype=np.uint64)
    d.table.insert_or_assign(
        d.keys(THERE), d.marks(np.full(n, 5)), d.engine.put(scores), ignore_evict_strategy=True
    )
    d.rows = {i: (5, 1000 + i) for i in range(n)}
    d.check()
    # Now that the scores are known: what asks for them.
    assert d.table.size_if(score_min=1100, score_max=1199) == 100
    out = d.table.export_batch(d.table.capacity, score_min=1500)
    count = int(d.engine.get(out.count)[0])
    assert sorted(d.engine.get(out.scores)[:count].tolist()) == list(range(1500, 1600))
    np.testing.assert_array_equal(d.numbers(out.values)[:count], 5)
    assert d.table.erase_if(score_max=1009) == 10
    d.rows = {i: row for i, row in d.rows.items() if i >= 10}
    d.check()


def test_calls_on_the_whole_table_agree_with_a_dict(filled: Dict) -> None:
    d, get = filled, filled.engine.get
    words = get(d.keys(THERE)).view(np.uint64)
    odd = int((words & np.uint64(1)).sum())
    assert d.table.size_if(key_mask=1, key_pattern=1) == odd
    half = d.table.capacity // 2 + 1
    exported: dict[int, int] = {}
    for n, offset in ((half, 0), (d.table.capacity - half, half)):
        out = d.table.export_batch(n, offset)
        count = int(get(out.count)[0])
        marks = d.numbers(out.values)[:count].tolist()
        keys = get(out.keys)[:count].view(np.uint64).tolist()
        exported |= dict(zip(keys, marks, strict=True))
    assert exported == dict.fromkeys(words.tolist(), 3)
    # All bits: the pattern of no key, but on HierarchicalKV of what marks an empty slot.
    ones = -1 if d.key == "int64" else 2**64 - 1
    assert d.table.size_if(key_mask=ones, key_pattern=ones) == 0
    assert int(get(d.table.export_batch(half, key_mask=ones, key_pattern=ones).count)[0]) == 0
    assert d.table.erase_if(key_mask=1, key_pattern=1) == odd
    d.rows = {i: row for i, row in d.rows.items() if words[i] % 2 == 0}
    d.check()
    assert d.table.load_factor() == len(d.rows) / d.table.capacity
    d.table.clear()
    d.rows = {}
    d.check()


def test_a_locked_key_is_not_erased_and_is_unlocked_once(filled: Dict) -> None:
    d, get, held = filled, filled.engine.get, filled.keys(ALL[550:650])
    there = ALL[550:650] < 600
    assert (get(d.table.lock_keys(held)) == there).all()
    d.table.erase(held)
    assert (get(d.table.unlock_keys(held)) == there).all()
    assert not get(d.table.unlock_keys(held)).any()
    d.check()
    rows, founds, _ = d.table.find_or_insert_pointers(held, d.given(100, 1), lock=True)
    assert (get(founds) == there).all()
    assert len(set(get(rows).tolist())) == 100
    assert get(d.table.unlock_keys(held)).all()
    assert d.table.size() == 650
