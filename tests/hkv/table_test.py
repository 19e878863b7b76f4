"""What each call promises, one claim per test."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hkv
import numpy as np
import pytest
from hkv import Status

Rows = Callable[..., np.ndarray]
ALL = list(
    itertools.product(
        ["int64", "uint64"], ["float32", "float16", "bfloat16"], ["lru", "lfu", "customized"]
    )
)


def bits(rows: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rows (exact in every value dtype) as the table's dtype; bfloat16 as uint16."""
    if dtype == "bfloat16":
        return (rows.view(np.uint32) >> 16).astype(np.uint16)
    return rows.astype(dtype)


@pytest.mark.parametrize(("key", "value", "strategy"), ALL)
def test_each_of_the_eighteen_tables_keeps_what_it_is_given(
    engine: Any, rows: Rows, key: str, value: str, strategy: str
) -> None:
    n, dim = 500, 7
    table = engine.table(1000, dim, key_dtype=key, value_dtype=value, evict_strategy=strategy)
    assert (table.key_dtype, table.value_dtype, table.evict_strategy) == (key, value, strategy)
    keys = np.arange(n).astype(key) * np.array(7919, key)
    exact = rows(keys % np.array(15, key), dim)
    given = bits(exact, value)
    scores = None if strategy == "lru" else engine.put(np.arange(1, n + 1, dtype=np.uint64))
    values = engine.put(given, value)
    status = table.insert_or_assign(engine.put(keys), values, scores)
    assert (engine.get(status) == Status.INSERTED).all()
    asked = np.concatenate([keys[::2], keys[:100] + np.array(1, key)])
    out, founds = table.find(engine.put(asked))
    assert (engine.get(founds) == np.isin(asked, keys)).all()
    np.testing.assert_array_equal(engine.get(out)[: len(keys[::2])], given[::2])
    ones = bits(np.ones((n, dim), np.float32), value)
    table.accum_or_assign(
        engine.put(keys), engine.put(ones, value), engine.put(np.ones(n, bool)), scores
    )
    got = engine.get(table.find(engine.put(keys))[0])
    np.testing.assert_array_equal(got, bits(exact + 1, value))


@pytest.mark.parametrize("capacity", [1, 2, 17, 127, 128, 129, 1000, 4097])
def test_capacity_is_exact_for_any_number(engine: Any, rows: Rows, capacity: int) -> None:
    table = engine.table(capacity)
    assert table.capacity == capacity
    keys = np.arange(8 * capacity, dtype=np.int64)
    for part in np.array_split(keys, 8):
        table.insert_or_assign(engine.put(part), engine.put(rows(part)))
    assert table.size() <= capacity
    assert table.size() >= 0.99 * capacity
    out = table.export_batch(capacity)
    count = int(engine.get(out.count)[0])
    found = engine.get(out.keys)[:count]
    assert count == table.size() == len(set(found.tolist()))
    np.testing.assert_array_equal(engine.get(out.values)[:count], rows(found))


@pytest.mark.parametrize("capacity", [1024, 100_000])
def test_nothing_is_evicted_before_ninety_seven_percent(
    engine: Any, rows: Rows, capacity: int
) -> None:
    table = engine.table(capacity, 2)
    keys = np.random.default_rng(1).choice(2**62, capacity * 97 // 100, replace=False)
    for part in np.array_split(keys.astype(np.int64), 20):
        status = table.insert_or_assign(engine.put(part), engine.put(rows(part, 2)))
        assert (engine.get(status) == Status.INSERTED).all()
    assert table.size() == len(keys)
    assert engine.get(table.contains(engine.put(keys.astype(np.int64)))).all()


def test_every_key_value_is_an_ordinary_key(engine: Any, rows: Rows) -> None:
    table = engine.table(100, key_dtype="uint64")
    keys = np.array([0, 1, 2, 2**63, 2**64 - 1, 2**64 - 2, 2**64 - 3, 2**64 - 4], np.uint64)
    assert not engine.get(table.contains(engine.put(keys))).any()
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    out, founds = table.find(engine.put(keys))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), rows(keys))
    assert (engine.get(table.erase(engine.put(keys[4:]))) == Status.UPDATED).all()
    assert engine.get(table.contains(engine.put(keys))).tolist() == [True] * 4 + [False] * 4


@pytest.mark.any_engine
def test_empty_batches_and_empty_tables_work(engine: Any) -> None:
    table = engine.table(128)
    none = engine.put(np.empty(0, np.int64))
    no_rows = engine.put(np.empty((0, 4), np.float32))
    table.insert_or_assign(none, no_rows)
    table.find_or_insert(none, no_rows)
    assert int(engine.get(table.insert_and_evict(none, no_rows).count)[0]) == 0
    table.find(none)
    table.erase(none)
    assert table.size() == len(table) == 0
    assert table.load_factor() == 0
    assert int(engine.get(table.export_batch(10).count)[0]) == 0
    assert not engine.get(table.contains(engine.put(np.array([0], np.int64))))[0]
    table.clear()


@pytest.mark.parametrize("n", [2, 33, 5000])
def test_equal_keys_get_one_slot_and_one_whole_row(engine: Any, n: int) -> None:
    dim = 64
    table = engine.table(128, dim)
    keys = np.full(n, 42, np.int64)
    values = np.repeat(np.arange(n, dtype=np.float32)[:, None], dim, 1)
    table.insert_or_assign(engine.put(keys), engine.put(values))
    assert table.size() == 1
    row = engine.get(table.find(engine.put(keys[:1]))[0])[0]
    assert (row == row[0]).all()
    table.accum_or_assign(
        engine.put(keys), engine.put(np.ones((n, dim), np.float32)), engine.put(np.ones(n, bool))
    )
    again = engine.get(table.find(engine.put(keys[:1]))[0])[0]
    assert (again == row + n).all()


@pytest.mark.any_engine
@pytest.mark.parametrize("size", [64, 3000])
def test_batches_full_of_equal_keys_agree_with_a_dict(engine: Any, size: int) -> None:
    """Few keys, many times each: nothing is lost, doubled or torn, increments add up."""
    dim, n = 8, 20_000
    generator = np.random.default_rng(size)
    table = engine.table(4096, dim, evict_strategy="lfu")
    keys = generator.integers(0, size, n)
    values = np.repeat(generator.integers(0, 1000, n).astype(np.float32)[:, None], dim, 1)
    increments = generator.integers(1, 5, n).astype(np.uint64)
    table.insert_or_assign(engine.put(keys), engine.put(values), engine.put(increments))
    present = np.unique(keys)
    assert table.size() == len(present)
    scores = engine.put(np.zeros(len(present), np.uint64))
    out, founds = table.find(engine.put(present), scores=scores)
    assert engine.get(founds).all()
    got = engine.get(out)
    assert (got == got[:, :1]).all()
    for i, key in enumerate(present):
        assert got[i, 0] in values[keys == key, 0]
        assert int(engine.get(scores)[i]) == int(increments[keys == key].sum())


def test_find_or_insert_of_equal_keys_inserts_once_and_finds_the_same_row(engine: Any) -> None:
    n, dim = 4000, 16
    table = engine.table(1000, dim)
    keys = np.arange(n, dtype=np.int64) % 10
    given = np.repeat(np.arange(n, dtype=np.float32)[:, None], dim, 1)
    values = engine.put(given.copy())
    _, status = table.find_or_insert(engine.put(keys), values)
    assert (engine.get(status) == Status.INSERTED).sum() == 10
    got = engine.get(values)
    assert (got == got[:, :1]).all()
    for key in range(10):
        assert len(set(got[keys == key, 0].tolist())) == 1


def test_a_low_score_is_refused_and_reported(engine: Any, rows: Rows) -> None:
    table = engine.table(3, evict_strategy="customized")
    keys = np.array([1, 2, 3], np.int64)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(np.array([10, 20, 30], np.uint64))
    )
    low = np.array([9], np.int64)
    status = table.insert_or_assign(
        engine.put(low), engine.put(rows(low)), engine.put(np.array([9], np.uint64))
    )
    assert engine.get(status).tolist() == [Status.REFUSED]
    out = table.insert_and_evict(
        engine.put(low), engine.put(rows(low)), engine.put(np.array([9], np.uint64))
    )
    assert int(engine.get(out.count)[0]) == 1
    assert engine.get(out.keys)[0] == 9
    np.testing.assert_array_equal(engine.get(out.values)[0], rows(low)[0])
    status = table.insert_or_assign(
        engine.put(low), engine.put(rows(low)), engine.put(np.array([10], np.uint64))
    )
    assert engine.get(status).tolist() == [Status.EVICTED]
    assert engine.get(table.contains(engine.put(keys))).tolist() == [False, True, True]


@pytest.mark.parametrize("hbm_bytes", [None, 0, 50_000])
def test_insert_and_evict_loses_no_row(engine: Any, hbm_bytes: int | None) -> None:
    """Also with rows in pinned host memory: every input row is in the table or in the output."""
    capacity, dim, n = 1000, 16, 3000
    table = engine.table(capacity, dim, evict_strategy="customized", hbm_bytes=hbm_bytes)
    generator = np.random.default_rng(3)
    alive: dict[int, float] = {}
    known: set[tuple[int, float]] = set()
    for step in range(6):
        keys = generator.choice(20_000, n, replace=False).astype(np.int64)
        marks = (keys * 8 % 4096 + step).astype(np.float32)
        scores = generator.integers(0, 1000, n).astype(np.uint64)
        out = table.insert_and_evict(
            engine.put(keys), engine.put(np.repeat(marks[:, None], dim, 1)), engine.put(scores)
        )
        for k, m in zip(keys.tolist(), marks.tolist(), strict=True):
            alive[k] = m
            known.add((k, m))
        count = int(engine.get(out.count)[0])
        left = engine.get(out.values)[:count]
        assert (left == left[:, :1]).all()
        for k, m in zip(engine.get(out.keys)[:count].tolist(), left[:, 0], strict=True):
            # It is the row from before this call, or this call's; a key may leave with both.
            assert (k, m) in known
            if alive.get(k) == m:
                del alive[k]
        everything = table.export_batch(capacity)
        m = int(engine.get(everything.count)[0])
        stored = dict(
            zip(
                engine.get(everything.keys)[:m].tolist(),
                engine.get(everything.values)[:m, 0].tolist(),
                strict=True,
            )
        )
        assert stored == alive


def test_locked_rows_survive_and_are_found(engine: Any, rows: Rows) -> None:
    table = engine.table(100)
    keys = np.arange(100, dtype=np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    held = keys[:10]
    assert engine.get(table.lock_keys(engine.put(held))).all()
    assert not engine.get(table.lock_keys(engine.put(held))).any()
    others = np.arange(1000, 1500, dtype=np.int64)
    table.insert_or_assign(engine.put(others), engine.put(rows(others)))
    out, founds = table.find(engine.put(held))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), rows(held))
    assert (engine.get(table.erase(engine.put(held))) == Status.LOCKED).all()
    status = table.assign(engine.put(held), engine.put(rows(held) + 1))
    assert (engine.get(status) == Status.LOCKED).all()
    assert engine.get(table.unlock_keys(engine.put(held))).all()
    assert (engine.get(table.erase(engine.put(held))) == Status.UPDATED).all()


@pytest.mark.any_engine
def test_pointer_calls_give_the_addresses_of_rows(engine: Any, rows: Rows) -> None:
    table = engine.table(1000)
    keys = np.arange(500, dtype=np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    asked = np.arange(250, 750, dtype=np.int64)
    addresses, founds = table.find_pointers(engine.put(asked))
    assert engine.get(founds).tolist() == [True] * 250 + [False] * 250
    assert ((engine.get(addresses) != 0) == engine.get(founds)).all()
    both, founds, _ = table.find_or_insert_pointers(engine.put(asked), lock=True)
    np.testing.assert_array_equal(engine.get(both)[:250], engine.get(addresses)[:250])
    assert len(set(engine.get(both).tolist())) == len(asked)
    assert engine.get(founds).tolist() == [True] * 250 + [False] * 250
    assert engine.get(table.unlock_keys(engine.put(asked))).all()


@pytest.mark.any_engine
def test_find_missed_lists_what_is_absent(engine: Any, rows: Rows) -> None:
    table = engine.table(128)
    keys = np.arange(0, 50, 2, dtype=np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    asked = np.arange(50, dtype=np.int64)
    missed = table.find_missed(engine.put(asked))
    count = int(engine.get(missed.count)[0])
    assert count == 25
    indices = engine.get(missed.indices)[:count]
    assert sorted(indices.tolist()) == list(range(1, 50, 2))
    np.testing.assert_array_equal(engine.get(missed.keys)[:count], asked[indices])
    np.testing.assert_array_equal(engine.get(missed.values)[keys], rows(keys))


def test_lru_evicts_the_key_that_was_written_longest_ago(engine: Any, rows: Rows) -> None:
    table = engine.table(4)
    for key in [1, 2, 3, 4]:
        k = np.array([key], np.int64)
        table.insert_or_assign(engine.put(k), engine.put(rows(k)))
    one, five, six = (np.array([k], np.int64) for k in (1, 5, 6))
    table.find(engine.put(np.array([2], np.int64)))  # reading does not keep a key
    table.find_and_update(engine.put(one))  # this does
    for k in (five, six):
        table.insert_or_assign(engine.put(k), engine.put(rows(k)))
    present = engine.get(table.contains(engine.put(np.arange(1, 7))))
    assert present.tolist() == [True, False, False, True, True, True]


def test_lfu_without_increments_counts_as_the_maximum(engine: Any, rows: Rows) -> None:
    table = engine.table(8, evict_strategy="lfu")
    keys = np.array([1, 2], np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    scores = engine.put(np.zeros(2, np.uint64))
    table.find(engine.put(keys), scores=scores)
    assert engine.get(scores).tolist() == [2**64 - 1] * 2


@pytest.mark.parametrize(("strategy", "low"), [("epoch_lru", None), ("epoch_lfu", 5)])
def test_epoch_scores_hold_the_epoch_and_count_behind_it(
    engine: Any, rows: Rows, strategy: str, low: int | None
) -> None:
    table = engine.table(128, evict_strategy=strategy)
    table.set_global_epoch(3)
    keys = engine.put(np.array([1], np.int64))
    given = None if low is None else engine.put(np.array([low], np.uint64))
    table.insert_or_assign(keys, engine.put(rows([1])), given)
    scores = engine.put(np.zeros(1, np.uint64))
    table.find(keys, scores=scores)
    first = int(engine.get(scores)[0])
    assert first >> 32 == 3
    if low is not None:
        assert first & 0xFFFFFFFF == low
        table.assign_scores(keys, engine.put(np.array([2**33], np.uint64)))
        table.find(keys, scores=scores)
        assert int(engine.get(scores)[0]) & 0xFFFFFFFF == 2**32 - 1
    table.set_global_epoch(4)
    table.assign_scores(keys, given)
    table.find(keys, scores=scores)
    assert int(engine.get(scores)[0]) >> 32 == 4


@pytest.mark.any_engine
@pytest.mark.parametrize("strategy", ["epoch_lru", "epoch_lfu"])
def test_keys_of_older_epochs_are_evicted_first(engine: Any, rows: Rows, strategy: str) -> None:
    table = engine.table(128, evict_strategy=strategy)
    keys = np.arange(192, dtype=np.int64)

    def insert(part: np.ndarray, increment: int) -> None:
        counts = engine.put(np.full(len(part), increment, np.uint64))
        table.insert_or_assign(
            engine.put(part), engine.put(rows(part)), counts if strategy == "epoch_lfu" else None
        )

    table.set_global_epoch(1)
    insert(keys[:64], 1000)  # often used, but long ago
    table.set_global_epoch(2)
    insert(keys[64:128], 1)
    table.set_global_epoch(3)
    insert(keys[128:], 1)
    assert engine.get(table.contains(engine.put(keys))).tolist() == [False] * 64 + [True] * 128


def test_a_growing_table_keeps_every_row(engine: Any, rows: Rows) -> None:
    table = engine.table(5000, init_capacity=100, max_load_factor=0.5)
    assert table.capacity == 100
    keys = np.arange(2000, dtype=np.int64)
    for part in np.array_split(keys, 40):
        table.insert_or_assign(engine.put(part), engine.put(rows(part)))
    assert 4000 <= table.capacity <= 5000
    out, founds = table.find(engine.put(keys))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), rows(keys))
    table.reserve(4500)
    assert table.capacity >= 4500
    assert table.size() == 2000


def test_a_batch_counts_by_its_new_keys_where_a_table_grows(engine: Any) -> None:
    table = engine.table(1 << 20, 1, init_capacity=100)
    keys, ones = np.full(100_000, 7, np.int64), engine.put(np.ones((100_000, 1), np.float32))
    table.insert_or_assign(engine.put(keys), ones)
    assert table.capacity == 100 and table.size() == 1
    table.insert_or_assign(engine.put(keys + np.arange(100_000) % 60), ones)
    assert table.capacity == 200 and table.size() == 60


@pytest.mark.any_engine
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 33, 64, 130])
def test_any_dim_works(engine: Any, dim: int) -> None:
    table = engine.table(300, dim, value_dtype="float16")
    keys = np.arange(200, dtype=np.int64)
    values = np.random.default_rng(dim).standard_normal((200, dim)).astype(np.float16)
    table.insert_or_assign(engine.put(keys), engine.put(values))
    out, founds = table.find(engine.put(keys))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), values)


@pytest.mark.any_engine
def test_predicates_select_by_key_and_by_score(engine: Any, rows: Rows) -> None:
    table = engine.table(1000, evict_strategy="customized")
    keys = np.arange(800, dtype=np.int64)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(keys.astype(np.uint64))
    )
    assert table.size_if(score_min=100, score_max=199) == 100
    assert table.size_if(key_mask=1, key_pattern=1, score_max=99) == 50
    out = table.export_batch(table.capacity, score_min=700)
    count = int(engine.get(out.count)[0])
    assert sorted(engine.get(out.keys)[:count].tolist()) == list(range(700, 800))
    assert table.erase_if(key_mask=3, key_pattern=2) == 200
    assert table.size() == 600


@pytest.mark.parametrize("strategy", ["customized", "lfu"])
def test_the_host_table_in_many_threads_agrees_with_one(rows: Rows, strategy: str) -> None:
    n = 60_000
    generator = np.random.default_rng(0)
    tables = [
        hkv.HashTable(100_000, 4, evict_strategy=strategy, device="cpu", num_threads=t)
        for t in (1, 4)
    ]
    for _ in range(3):
        keys = generator.integers(0, 50_000, n)
        scores = generator.integers(1, 100, n).astype(np.uint64)
        values = generator.standard_normal((n, 4)).astype(np.float32)
        for table in tables:
            table.insert_or_assign(keys, values, scores)
    exports = [t.export_batch(100_000) for t in tables]
    orders = [np.argsort(e.keys) for e in exports]
    for field in ("keys", "values", "scores"):
        a, b = (getattr(e, field)[o] for e, o in zip(exports, orders, strict=True))
        np.testing.assert_array_equal(a, b)


def test_key_zero_is_not_taken_for_a_slot_beyond_the_capacity(engine: Any, rows: Rows) -> None:
    # Memory that was never written holds zeros, and so the key 0.
    keys = np.arange(200, dtype=np.int64)
    for capacity in range(1, 40):
        table = engine.table(capacity, 3)
        for _ in range(3):
            table.insert_or_assign(
                engine.put(keys[:capacity]), engine.put(rows(keys, 3)[:capacity])
            )
            out, founds = table.find(engine.put(keys))
            assert engine.get(founds).tolist() == (keys < capacity).tolist()
            np.testing.assert_array_equal(engine.get(out)[:capacity], rows(keys, 3)[:capacity])
            table.erase(engine.put(keys[:1]))
            assert table.size() == capacity - 1


@pytest.mark.parametrize("step", [64, 1000])
def test_rows_that_a_mask_over_an_export_picks_are_erased(
    engine: Any, rows: Rows, step: int
) -> None:
    table = engine.table(1000)
    keys = np.arange(600, dtype=np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    table.lock_keys(engine.put(keys[:1]))
    locked = removed = 0
    for first in range(0, table.capacity, step):
        out = table.export_batch(min(step, table.capacity - first), first)
        # True behind the count as well: nothing there is looked at.
        mask = engine.get(out.values)[:, 0] < 10
        status = engine.get(table.erase_exported(out, engine.put(mask)))
        locked += (status == Status.LOCKED).sum()
        removed += (status == Status.UPDATED).sum()
    assert (locked, removed) == (1, 59)  # rows tell their key modulo 100
    founds = engine.get(table.contains(engine.put(keys)))
    assert (founds == ((keys % 100 >= 10) | (keys == 0))).all()


def test_erase_exported_names_what_it_does_not_take(engine: Any, rows: Rows) -> None:
    table = engine.table(100)
    keys = np.arange(10, dtype=np.int64)
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    out = table.export_batch(100)
    with pytest.raises(TypeError, match=r"exported is \[\]; it must be what export_batch returned"):
        table.erase_exported([], engine.put(np.ones(100, bool)))
    with pytest.raises(TypeError, match="mask has dtype uint8; it must be bool"):
        table.erase_exported(out, engine.put(np.ones(len(out.keys), np.uint8)))
    with pytest.raises(TypeError, match="mask is a NoneType"):
        table.erase_exported(out, None)
    with pytest.raises(ValueError, match="mask has shape"):
        table.erase_exported(out, engine.put(np.ones(7, bool)))
    assert table.size() == 10
