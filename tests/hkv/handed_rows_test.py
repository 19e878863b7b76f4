"""Rows that calls hand out: one key each within a call, held as often as asked, never moved."""

from __future__ import annotations

from typing import Any

import hkv
import numpy as np
import pytest
from hkv import NO_ROW, Status
from hypothesis import given
from hypothesis import strategies as st

STRATEGIES = ("lru", "lfu", "customized")


def scores_for(engine: Any, strategy: str, n: int, seed: int = 3) -> Any:
    if strategy == "lru":
        return None
    return engine.put(np.random.default_rng(seed).integers(1, 1000, n).astype(np.uint64))


def check_one_key_a_row(
    keys: np.ndarray, rows: np.ndarray, status: np.ndarray, none: int = NO_ROW
) -> None:
    np.testing.assert_array_equal(rows == none, status == Status.REFUSED)
    got = rows != none
    pairs = np.unique(np.stack([rows[got].view(np.int64), keys[got]]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(keys[got]))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("capacity", [100, 5000, 70_000])
def test_no_two_keys_of_a_call_get_one_row(
    engine: Any, capacity: int, times: int, strategy: str
) -> None:
    """Batches of once and twice the capacity into a full table with locked rows among them."""
    table = engine.table(capacity, 4, evict_strategy=strategy)
    old = np.arange(capacity, dtype=np.int64) - 2 * capacity
    values = engine.put(np.zeros((capacity, 4), np.float32))
    table.insert_or_assign(engine.put(old), values, scores_for(engine, strategy, capacity, 1))
    held = old[: capacity // 3]
    table.hold_keys(engine.put(held))
    locked = table.locked()
    before = engine.get(table.find_rows(engine.put(held))[0])
    generator = np.random.default_rng(capacity + times)
    for turn in range(3):
        n = times * capacity
        keys = generator.permutation(8 * capacity)[:n].astype(np.int64)
        keys[: n // 10] = keys[n // 10 : n // 10 * 2]  # some come twice
        keys = generator.permutation(keys)
        scores = scores_for(engine, strategy, n, turn)
        if turn < 2:
            rows, founds, status = table.find_or_insert_rows(engine.put(keys), scores)
        else:
            rows, founds, status = table.find_or_insert_pointers(engine.put(keys), scores)
        rows, status = engine.get(rows), engine.get(status)
        none = NO_ROW if turn < 2 else 0
        check_one_key_a_row(keys, rows, status, none)
        np.testing.assert_array_equal(engine.get(founds), status == Status.UPDATED)
        now = table.find_rows if turn < 2 else table.find_pointers
        got = rows != none
        np.testing.assert_array_equal(engine.get(now(engine.put(keys))[0])[got], rows[got])
    np.testing.assert_array_equal(engine.get(table.find_rows(engine.put(held))[0]), before)
    assert table.locked() == locked
    assert locked == len(held) or capacity > 100


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_much_smaller_than_a_full_table_get_rows_of_their_own(
    engine: Any, strategy: str
) -> None:
    capacity, n = 70_000, 1000
    table = engine.table(capacity, 4, evict_strategy=strategy, newcomers="always")
    generator = np.random.default_rng(8)
    old = np.arange(2 * capacity, dtype=np.int64)
    for part in np.array_split(old, 8):
        table.find_or_insert_rows(engine.put(part), scores_for(engine, strategy, len(part)))
    size = table.size()
    assert size >= 0.99 * capacity
    for turn in range(20):
        keys = generator.integers(0, 4 * capacity, n)
        rows, _, status = table.find_or_insert_rows(
            engine.put(keys), scores_for(engine, strategy, n, turn)
        )
        rows = engine.get(rows)
        check_one_key_a_row(keys, rows, engine.get(status))
        assert (rows != NO_ROW).all()
        np.testing.assert_array_equal(engine.get(table.find_rows(engine.put(keys))[0]), rows)
    assert table.size() >= size


@given(
    capacity=st.integers(1, 300),
    keys=st.lists(st.integers(0, 400), min_size=1, max_size=600),
    strategy=st.sampled_from(STRATEGIES),
    held=st.lists(st.integers(0, 400), max_size=50),
)
def test_any_batch_gives_a_row_to_one_key(
    capacity: int, keys: list[int], strategy: str, held: list[int]
) -> None:
    table = hkv.HashTable(capacity, 1, evict_strategy=strategy, device="cpu")
    scores = None if strategy == "lru" else np.arange(len(keys), dtype=np.uint64) % np.uint64(7)
    batch = np.array(keys, np.int64)
    table.hold_keys(np.array(held, np.int64))
    for _ in range(2):
        rows, _, status = table.find_or_insert_rows(batch, scores)
        check_one_key_a_row(batch, rows, status)
        table.hold_keys(np.array(held, np.int64))
        batch = batch[::-1].copy() + 3


def test_row_numbers_and_addresses_are_of_the_same_rows(engine: Any) -> None:
    n, dim = 900, 4
    table = engine.table(1000, dim, hbm_bytes=500 * dim * 4)
    keys = np.arange(n, dtype=np.int64)
    rows = engine.get(table.find_or_insert_rows(engine.put(keys))[0])
    addresses = engine.get(table.find_pointers(engine.put(keys))[0])
    view = table.rows()
    assert (view.stride, view.capacity) == (dim * 4, 1000)
    assert view.hbm_rows == (1000 if engine.device == "cpu" else 500)
    expected = np.where(
        rows < view.hbm_rows,
        np.uint64(view.hbm) + rows * np.uint64(view.stride),
        np.uint64(view.host) + (rows - np.uint64(view.hbm_rows)) * np.uint64(view.stride),
    )
    np.testing.assert_array_equal(addresses, expected)
    assert (engine.get(table.find_rows(engine.put(keys + n))[0]) == NO_ROW).all()


def test_holders_count(engine: Any) -> None:
    table = engine.table(10)
    keys = engine.put(np.array([1, 2, 2], np.int64))
    rows, _, _ = table.find_or_insert_rows(keys, lock=True)
    assert table.locked() == 2
    one = engine.put(np.array([1], np.int64))
    assert not engine.get(table.lock_keys(one))[0]
    assert engine.get(table.hold_keys(one))[0]
    assert engine.get(table.unlock_keys(keys)).all()
    assert table.locked() == 1
    assert engine.get(table.erase(keys)).tolist()[0] == Status.LOCKED
    held = engine.put(np.array([engine.get(rows)[0], NO_ROW, 10], np.uint64))
    assert engine.get(table.unlock_rows(held)).tolist() == [True, False, False]
    assert engine.get(table.unlock_rows(held)).tolist() == [False] * 3
    assert table.locked() == 0
    table.hold_keys(one)
    table.clear()
    assert table.locked() == 0


def test_every_equal_key_of_a_locking_batch_is_a_holder(engine: Any) -> None:
    n = 20_000
    table = engine.table(1000)
    keys = engine.put(np.random.default_rng(1).zipf(1.3, n) % 300)
    table.find_or_insert_rows(keys, lock=True)
    table.find_or_insert_rows(keys, lock=True)
    for _ in range(2):
        assert table.locked() > 200
        assert engine.get(table.unlock_keys(keys)).all()
    assert table.locked() == 0
    assert not engine.get(table.unlock_keys(keys)).any()


def test_a_table_with_held_rows_does_not_grow(engine: Any) -> None:
    table = engine.table(1000, init_capacity=10)
    keys = engine.put(np.arange(9, dtype=np.int64))
    values = engine.put(np.zeros((9, 4), np.float32))
    table.find_or_insert_rows(engine.put(np.array([3], np.int64)), lock=True)
    table.insert_or_assign(keys, values)
    assert (table.capacity, table.size()) == (10, 9)
    with pytest.raises(RuntimeError, match="keys are locked"):
        table.reserve(100)
    table.unlock_keys(engine.put(np.array([3], np.int64)))
    table.insert_or_assign(keys, values)
    assert table.capacity >= 18


def test_policies_make_scores(engine: Any) -> None:
    table = engine.table(100, 4, evict_strategy="lfu")
    keys = engine.put(np.arange(50, dtype=np.int64))
    values = engine.put(np.zeros((50, 4), np.float32))
    five, out = (engine.put(np.full(50, x, np.uint64)) for x in (5, 0))
    for policy, expected in [
        ("constant", 5), ("constant", 5), ("accumulate", 10), (None, 15), ("assign", 5),
        ("default", 10),
    ]:  # fmt: skip
        table.insert_or_assign(keys, values, five, policy=policy)
        table.find(keys, scores=out)
        assert (engine.get(out) == expected).all(), policy
    table.find_or_insert_rows(keys, policy="clock")
    table.find(keys, scores=out)
    assert (engine.get(out) > 1000).all()
    other = engine.table(100, 4, evict_strategy="lru", score_policy="assign")
    with pytest.raises(ValueError, match="score policy assign needs the caller's scores"):
        other.insert_or_assign(keys, values)
    other.insert_or_assign(keys, values, five)
    other.find(keys, scores=out)
    assert (engine.get(out) == 5).all()


def test_find_or_insert_lists_what_leaves_before_its_row_is_handed_on(engine: Any) -> None:
    n = 3000
    table = engine.table(n, 4, evict_strategy="customized")
    keys = np.arange(n, dtype=np.int64)
    marks = np.repeat(keys[:, None], 4, 1).astype(np.float32)
    table.insert_or_assign(engine.put(keys), engine.put(marks), engine.put(keys.astype(np.uint64)))
    stored = engine.get(table.contains(engine.put(keys)))
    new = np.arange(n, 2 * n, dtype=np.int64)
    high = engine.put(np.full(n, 10**6, np.uint64))
    rows, founds, left = table.find_or_insert_rows_and_evict(engine.put(new), high)
    assert not engine.get(founds).any()
    check_one_key_a_row(new, engine.get(rows), engine.get(left.status))
    count = int(engine.get(left.count)[0])
    gone = engine.get(left.keys)[:count]
    assert len(np.unique(gone)) == count == (engine.get(left.status) == Status.EVICTED).sum()
    np.testing.assert_array_equal(engine.get(left.values)[:count, 0], gone)
    np.testing.assert_array_equal(engine.get(left.scores)[:count], gone)
    still = engine.get(table.contains(engine.put(keys)))
    np.testing.assert_array_equal(np.flatnonzero(stored & ~still), np.sort(gone))


def test_newcomers_are_refused_by_score_or_always_admitted(engine: Any) -> None:
    for newcomers in ("by_score", "always"):
        table = engine.table(1000, 4, evict_strategy="lfu", newcomers=newcomers)
        keys = np.arange(1000, dtype=np.int64)
        values = engine.put(np.zeros((1000, 4), np.float32))
        table.insert_or_assign(engine.put(keys), values, engine.put(np.full(1000, 9, np.uint64)))
        size = table.size()
        status = engine.get(
            table.insert_or_assign(
                engine.put(keys + 1000), values, engine.put(np.ones(1000, np.uint64))
            )
        )
        refused = (status == Status.REFUSED).sum()
        assert (refused == 0) == (newcomers == "always")
        assert table.size() >= size
        assert refused + (status == Status.INSERTED).sum() + (
            status == Status.EVICTED
        ).sum() == len(status)


@pytest.mark.gpu
def test_captured_calls_hand_out_rows_of_their_own() -> None:
    torch = pytest.importorskip("torch")
    capacity = 1000
    table = hkv.HashTable(capacity, 4)
    keys = torch.zeros(2 * capacity, dtype=torch.int64, device="cuda")
    rows = torch.zeros(2 * capacity, dtype=torch.int64, device="cuda").view(torch.uint64)
    status = torch.zeros(2 * capacity, dtype=torch.uint8, device="cuda")
    founds = torch.zeros(2 * capacity, dtype=torch.bool, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        address = torch.cuda.current_stream().cuda_stream
        table.find_or_insert_rows(keys, rows=rows, status=status, founds=founds, stream=address)
    for turn in range(5):
        keys.copy_(torch.randperm(10_000)[: 2 * capacity] + turn)
        graph.replay()
        torch.cuda.synchronize()
        check_one_key_a_row(
            keys.cpu().numpy(), rows.view(torch.int64).cpu().numpy().view(np.uint64),
            status.cpu().numpy(),
        )  # fmt: skip
