"""A call on many tables does in each of them what a call on it alone does."""

from __future__ import annotations

from typing import Any

import hkv
import numpy as np
import pytest
from hkv import NO_ROW, Status, TableSet

DIMS = [4, 1, 16, 8]
CAPACITIES = [1000, 300, 5000, 40]
STRATEGIES = ["lru", "lfu", "customized", "lru"]


def tables(engine: Any, count: int = 4, **options: Any) -> list[hkv.HashTable]:
    return [
        engine.table(CAPACITIES[t % 4], DIMS[t % 4], evict_strategy=STRATEGIES[t % 4], **options)
        for t in range(count)
    ]


def batch(lengths: list[int], spread: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys of each table, and the offsets."""
    generator = np.random.default_rng(seed)
    keys = [generator.permutation(spread)[:n].astype(np.int64) for n in lengths]
    return np.concatenate(keys), np.cumsum([0, *lengths]).astype(np.uint64)


def marks(keys: np.ndarray, dim: int = 16) -> np.ndarray:
    return np.repeat((keys % 1000)[:, None], dim, 1).astype(np.float32)


@pytest.mark.parametrize("lengths", [[500, 100, 2000, 30], [0, 1, 0, 40], [33, 0, 31, 0]])
def test_each_table_gets_its_segment(engine: Any, lengths: list[int]) -> None:
    members = tables(engine)
    both = TableSet(members)
    keys, offsets = batch(lengths, 6000, 1)
    o = engine.put(offsets)
    scores = engine.put(np.arange(1, len(keys) + 1, dtype=np.uint64))
    status = engine.get(both.insert_or_assign(engine.put(keys), o, engine.put(marks(keys)), scores))
    values, founds = both.find(engine.put(keys), o)
    rows, again = both.find_rows(engine.put(keys), o)
    values, founds, rows = engine.get(values), engine.get(founds), engine.get(rows)
    np.testing.assert_array_equal(founds, engine.get(again))
    np.testing.assert_array_equal(founds, rows != NO_ROW)
    erased = 0
    for t, table in enumerate(members):
        part = slice(int(offsets[t]), int(offsets[t + 1]))
        own = keys[part]
        assert table.size() == (founds[part]).sum() <= len(own)
        if len(own) < 0.9 * table.capacity:
            assert (status[part] == Status.INSERTED).all() and founds[part].all()
        alone, there = table.find(engine.put(own))
        np.testing.assert_array_equal(engine.get(there), founds[part])
        np.testing.assert_array_equal(engine.get(alone), values[part, : table.dim])
        np.testing.assert_array_equal(
            engine.get(alone)[founds[part]], marks(own, table.dim)[founds[part]]
        )
        assert (values[part, table.dim :] == 0).all()
        np.testing.assert_array_equal(engine.get(table.find_rows(engine.put(own))[0]), rows[part])
        erased += int(founds[part].sum())
    done = engine.get(both.erase(engine.put(keys), o))
    assert (done == Status.UPDATED).sum() == erased
    assert sum(table.size() for table in members) == 0


def test_twenty_six_full_tables_hand_out_rows_of_their_own(engine: Any) -> None:
    members = tables(engine, 26, newcomers="always")
    both = TableSet(members)
    lengths = [2 * table.capacity for table in members]
    for turn in range(3):
        keys, offsets = batch(lengths, 20_000, turn)
        scores = engine.put(np.arange(1, len(keys) + 1, dtype=np.uint64))
        rows, founds, status = both.find_or_insert_rows(
            engine.put(keys), engine.put(offsets), scores, lock=turn == 2
        )
        rows, founds, status = engine.get(rows), engine.get(founds), engine.get(status)
        for t, table in enumerate(members):
            part = slice(int(offsets[t]), int(offsets[t + 1]))
            got = rows[part][rows[part] != NO_ROW]
            assert len(np.unique(got)) == len(got) >= 0.9 * table.capacity
            assert (got < table.capacity).all()
            np.testing.assert_array_equal(rows[part] == NO_ROW, status[part] == Status.REFUSED)
            np.testing.assert_array_equal(
                engine.get(table.find_rows(engine.put(keys[part]))[0]), rows[part]
            )
            if turn == 2:
                assert table.locked() == len(got)
    done = engine.get(both.unlock_rows(engine.put(rows), engine.put(offsets)))
    np.testing.assert_array_equal(done, rows != NO_ROW)
    assert sum(table.locked() for table in members) == 0


def test_what_leaves_is_listed_by_table(engine: Any) -> None:
    members = tables(engine)
    both = TableSet(members)
    stored: list[set[int]] = [set() for _ in members]
    for turn in range(3):
        keys, offsets = batch([900, 500, 3000, 90], 10_000, turn)
        scores = np.random.default_rng(turn).integers(1, 100, len(keys)).astype(np.uint64)
        out = both.insert_evicting(
            engine.put(keys), engine.put(offsets), engine.put(marks(keys)), engine.put(scores)
        )
        counts, left = engine.get(out.count), engine.get(out.keys)
        values = engine.get(out.values)
        ranges = [0, *np.cumsum([table.capacity for table in members]).tolist()]
        everything = both.export_batch([0] * 4, [table.capacity for table in members])
        there, there_keys = engine.get(everything.count), engine.get(everything.keys)
        there_values = engine.get(everything.values)
        for t, table in enumerate(members):
            first, dim = int(offsets[t]), table.dim
            gone = left[first : first + int(counts[t])]
            stored[t] |= set(keys[first : int(offsets[t + 1])].tolist())
            stored[t] -= set(gone.tolist())
            np.testing.assert_array_equal(values[first : first + len(gone), :dim], marks(gone, dim))
            now = there_keys[ranges[t] : ranges[t] + int(there[t])]
            assert set(now.tolist()) >= stored[t] and len(now) == table.size()
            stored[t] = set(now.tolist())
            np.testing.assert_array_equal(
                there_values[ranges[t] : ranges[t] + len(now), :dim], marks(now, dim)
            )


def test_find_or_insert_reads_what_is_there_and_inserts_the_rest(engine: Any) -> None:
    members = tables(engine)
    both = TableSet(members)
    keys, offsets = batch([100, 100, 100, 10], 300, 1)
    o, scores = engine.put(offsets), engine.put(np.ones(len(keys), np.uint64))
    some = engine.put(np.array([0, 20, 40, 50, 50], np.uint64))
    ones = engine.put(np.ones(50, np.uint64))
    both.insert_or_assign(engine.put(keys[:50]), some, engine.put(marks(keys[:50]) + 1), ones)
    given = engine.put(marks(keys))
    founds, status = both.find_or_insert(engine.put(keys), o, given, scores)
    founds, status = engine.get(founds), engine.get(status)
    np.testing.assert_array_equal(status, np.where(founds, Status.UPDATED, Status.INSERTED))
    values = engine.get(given)
    for t, table in enumerate(members):
        part = slice(int(offsets[t]), int(offsets[t + 1]))
        expected = marks(keys[part], table.dim) + founds[part][:, None]
        np.testing.assert_array_equal(values[part, : table.dim], expected)
        np.testing.assert_array_equal(engine.get(table.find(engine.put(keys[part]))[0]), expected)


def test_tables_of_a_set_that_may_grow_do(engine: Any) -> None:
    members = tables(engine, 2, init_capacity=40)
    both = TableSet(members)
    keys, offsets = batch([400, 0], 5000, 1)
    status = both.insert_or_assign(
        engine.put(keys), engine.put(offsets), engine.put(marks(keys, 4)),
        engine.put(np.ones(400, np.uint64)),
    )  # fmt: skip
    assert (engine.get(status) == Status.INSERTED).all()
    assert members[0].capacity >= 800 and members[1].capacity == 40


def test_more_tables_than_one_launch_takes(engine: Any) -> None:
    members = [engine.table(100, 2) for _ in range(130)]
    both = TableSet(members)
    keys, offsets = batch([50] * 130, 1000, 1)
    both.insert_or_assign(engine.put(keys), engine.put(offsets), engine.put(marks(keys, 2)))
    values, founds = both.find(engine.put(keys), engine.put(offsets))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(values), marks(keys, 2))
    assert [table.size() for table in members] == [50] * 130
    count = engine.get(both.export_batch([0] * 130, [100] * 130).count)
    assert (count == 50).all()


def test_wrong_sets_and_offsets_are_named() -> None:
    one, other = (hkv.HashTable(10, 4, device="cpu") for _ in range(2))
    with pytest.raises(ValueError, match=r"tables is \[\]"):
        TableSet([])
    with pytest.raises(TypeError, match=r"tables\[1\] is 3; it must be a HashTable"):
        TableSet([one, 3])  # type: ignore[list-item]
    keys = np.arange(4, dtype=np.int64)
    with pytest.raises(ValueError, match=r"tables\[0\] and tables\[1\] are one table"):
        TableSet([one, one]).find(keys, np.array([0, 2, 4], np.uint64))
    unlike = hkv.HashTable(10, 4, device="cpu", value_dtype="float16")
    with pytest.raises(ValueError, match=r"tables\[1\] is host, int64, float16"):
        TableSet([one, unlike]).find(keys, np.array([0, 2, 4], np.uint64))
    both = TableSet([one, other])
    with pytest.raises(ValueError, match=r"offsets has shape \(2,\); it must be \(3,\)"):
        both.find(keys, np.array([0, 4], np.uint64))
    with pytest.raises(ValueError, match="they must ascend and end within n = 4"):
        both.find(keys, np.array([0, 3, 2], np.uint64))
    with pytest.raises(ValueError, match=r"begin is \[0\] and end is \[1, 1\]"):
        both.export_batch([0], [1, 1])
    with pytest.raises(ValueError, match="not inside the capacity"):
        both.export_batch([0, 0], [10, 11])
    with pytest.raises(ValueError, match="policy is 'newest'; it must be one of"):
        both.insert_or_assign(
            keys, np.array([0, 2, 4], np.uint64), np.zeros((4, 4), np.float32), policy="newest"
        )


@pytest.mark.gpu
def test_a_call_on_twenty_six_tables_is_one_kernel_of_a_graph() -> None:
    torch = pytest.importorskip("torch")
    members = [hkv.HashTable(1000, 8, api_lock=False) for _ in range(26)]
    both = TableSet(members)
    keys, offsets = (torch.from_numpy(a).cuda() for a in batch([100] * 26, 1000, 1))
    rows, rows_again = (torch.zeros(2600, dtype=torch.int64, device="cuda") for _ in range(2))
    founds = torch.zeros(2600, dtype=torch.bool, device="cuda")
    status = torch.zeros(2600, dtype=torch.uint8, device="cuda")
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        address = torch.cuda.current_stream().cuda_stream
        both.find_or_insert_rows(
            keys, offsets.view(torch.uint64), rows=rows.view(torch.uint64), founds=founds,
            status=status, stream=address,
        )  # fmt: skip
    from ctypes import CDLL, byref, c_size_t, c_void_p

    count = c_size_t()
    runtime = CDLL(None).cudaGraphGetNodes if hasattr(CDLL(None), "cudaGraphGetNodes") else None
    if runtime is None:
        runtime = CDLL("libcudart.so.13").cudaGraphGetNodes
    assert runtime(c_void_p(graph.raw_cuda_graph()), None, byref(count)) == 0
    assert count.value == 1
    graph.instantiate()
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    assert founds.all() and (status == Status.UPDATED).all()
    both.find_rows(
        keys, offsets.view(torch.uint64), rows=rows_again.view(torch.uint64), founds=founds
    )
    assert torch.equal(rows, rows_again)
