"""Large batches with a few hot keys: as in traffic, where some ids come thousands of times."""

from __future__ import annotations

from typing import Any

import hkv
import numpy as np
import pytest
from hkv import Status

N, KEYS, DIM = 40_000, 3000, 8


@pytest.fixture(params=[None, 1 << 16], ids=["", "grouped"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """On a GPU: as the engine has it, or in one kernel that equal keys do not enter together."""
    return {} if request.param is None else {"passes_from": request.param}


@pytest.fixture
def hot() -> np.ndarray:
    """N keys; the most frequent one is a quarter of them."""
    return np.random.default_rng(1).zipf(1.3, N).astype(np.int64) % KEYS


def marked(marks: np.ndarray, dim: int = DIM) -> np.ndarray:
    """Rows that hold one number each, so that a torn one shows."""
    return np.repeat(marks.astype(np.float32)[:, None], dim, 1)


def marks_of(engine: Any, rows: Any) -> np.ndarray:
    got = engine.get(rows)
    assert (got == got[:, :1]).all()
    return got[:, 0]


def stored(engine: Any, table: hkv.HashTable, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = engine.put(np.zeros(len(keys), np.uint64))
    out, founds = table.find(engine.put(keys), scores=scores)
    assert engine.get(founds).all()
    return marks_of(engine, out), engine.get(scores)


def test_insert_or_assign_keeps_one_row_of_each_key_and_adds_increments(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, evict_strategy="lfu", **options)
    distinct, counts = np.unique(hot, return_counts=True)
    for step in (0, 1):
        status = engine.get(
            table.insert_or_assign(
                engine.put(hot), engine.put(marked(hot)), engine.put(np.full(N, 3, np.uint64))
            )
        )
        assert (status == Status.INSERTED).sum() == (len(distinct) if step == 0 else 0)
        assert ((status == Status.INSERTED) | (status == Status.UPDATED)).all()
        marks, scores = stored(engine, table, distinct)
        np.testing.assert_array_equal(marks, distinct)
        np.testing.assert_array_equal(scores, 3 * counts.astype(np.uint64) * (step + 1))
    assert table.size() == len(distinct)


def test_increments_saturate(engine: Any, options: dict[str, Any], hot: np.ndarray) -> None:
    table = engine.table(2 * KEYS, DIM, evict_strategy="lfu", **options)
    table.insert_or_assign(
        engine.put(hot), engine.put(marked(hot)), engine.put(np.full(N, 2**63 - 5, np.uint64))
    )
    distinct, counts = np.unique(hot, return_counts=True)
    want = [min(int(c) * (2**63 - 5), 2**64 - 1) for c in counts]
    assert stored(engine, table, distinct)[1].tolist() == want


def test_customized_scores_stay_with_their_rows(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, evict_strategy="customized", **options)
    serial = np.arange(N)
    table.insert_or_assign(
        engine.put(hot), engine.put(marked(serial)), engine.put(serial.astype(np.uint64))
    )
    distinct = np.unique(hot)
    marks, scores = stored(engine, table, distinct)
    np.testing.assert_array_equal(marks.astype(np.uint64), scores)
    np.testing.assert_array_equal(hot[scores.astype(np.int64)], distinct)


def test_find_or_insert_inserts_once_and_all_find_that_row(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, evict_strategy="lfu", **options)
    distinct, counts = np.unique(hot, return_counts=True)
    present = distinct[::2].copy()
    table.insert_or_assign(
        engine.put(present), engine.put(marked(-present - 1)),
        engine.put(np.ones(len(present), np.uint64)),
    )  # fmt: skip
    values = engine.put(marked(np.arange(N)))
    founds, status = table.find_or_insert(
        engine.put(hot), values, engine.put(np.ones(N, np.uint64))
    )
    status = engine.get(status)
    assert (status == Status.INSERTED).sum() == len(distinct) - len(present)
    np.testing.assert_array_equal(engine.get(founds), status == Status.UPDATED)
    marks, scores = stored(engine, table, distinct)
    np.testing.assert_array_equal(marks[::2], -present - 1)
    np.testing.assert_array_equal(scores, counts + np.isin(distinct, present))
    np.testing.assert_array_equal(marks_of(engine, values), marks[np.searchsorted(distinct, hot)])


def test_find_and_update_reads_rows_and_leaves_absent_ones_alone(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, evict_strategy="lfu", **options)
    present = np.unique(hot)[::2].copy()
    table.insert_or_assign(
        engine.put(present), engine.put(marked(-present - 1)),
        engine.put(np.zeros(len(present), np.uint64)),
    )  # fmt: skip
    values = engine.put(marked(hot))
    out, founds = table.find_and_update(
        engine.put(hot), values=values, scores=engine.put(np.ones(N, np.uint64))
    )
    founds = engine.get(founds)
    np.testing.assert_array_equal(founds, np.isin(hot, present))
    np.testing.assert_array_equal(marks_of(engine, out)[founds], -hot[founds] - 1)
    counts = np.bincount(hot, minlength=KEYS)
    np.testing.assert_array_equal(stored(engine, table, present)[1], counts[present])


@pytest.mark.parametrize("value_dtype", ["float32", "float16", "bfloat16"])
def test_accum_or_assign_counts_every_delta(
    engine: Any, options: dict[str, Any], value_dtype: str
) -> None:
    """Sums stay small enough to be exact in every type."""
    dim = 70
    keys = np.random.default_rng(2).permutation(np.arange(N, dtype=np.int64) % 400)  # 100 each
    table = engine.table(2 * KEYS, dim, value_dtype=value_dtype, **options)
    numpy_type = np.uint16 if value_dtype == "bfloat16" else value_dtype
    one = {"bfloat16": 0x3F80}.get(value_dtype, 1)
    ones = np.full((N, dim), one, numpy_type)

    def put(rows: np.ndarray) -> Any:
        return engine.put(rows, "bfloat16" if value_dtype == "bfloat16" else None)

    present = np.arange(0, 400, 2, dtype=np.int64)
    table.insert_or_assign(engine.put(present), put(ones[:200]))
    adds = keys % 4 < 2  # of the present ones 0 mod 4, of the absent ones 1 mod 4
    status = engine.get(table.accum_or_assign(engine.put(keys), put(ones), engine.put(adds)))
    assert (status[keys % 4 == 0] == Status.UPDATED).all()
    assert (status[keys % 4 == 1] == Status.SKIPPED).all()
    assert (status[keys % 4 == 2] == Status.SKIPPED).all()
    assert (status[keys % 4 == 3] == Status.INSERTED).sum() == 100
    assert table.size() == 300
    out, founds = table.find(engine.put(np.arange(400, dtype=np.int64)))
    got, founds = engine.get(out), engine.get(founds)
    if value_dtype == "bfloat16":
        got = (got.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(founds, np.arange(400) % 4 != 1)
    assert (got[::4] == 101).all()
    assert (got[2::4] == 1).all() and (got[3::4] == 1).all()


def test_accum_or_assign_in_host_memory_counts_every_delta(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, hbm_bytes=KEYS * DIM * 4, **options)
    distinct, counts = np.unique(hot, return_counts=True)
    table.insert_or_assign(engine.put(distinct), engine.put(marked(0 * distinct)))
    table.accum_or_assign(
        engine.put(hot), engine.put(marked(np.ones(N))), engine.put(np.ones(N, bool))
    )
    np.testing.assert_array_equal(stored(engine, table, distinct)[0], counts)


def test_locked_hot_keys_are_read_but_not_written(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, **options)
    distinct = np.unique(hot)
    table.insert_or_assign(engine.put(distinct), engine.put(marked(distinct)))
    held = distinct[:5]
    assert engine.get(table.lock_keys(engine.put(held))).all()
    locked = np.isin(hot, held)
    keys, rows = engine.put(hot), engine.put(marked(hot + 7))
    for status in (
        table.insert_or_assign(keys, rows),
        table.assign(keys, rows),
        table.accum_or_assign(keys, engine.put(marked(0 * hot)), engine.put(np.ones(N, bool))),
    ):
        np.testing.assert_array_equal(engine.get(status) == Status.LOCKED, locked)
    founds, _ = table.find_or_insert(keys, rows)
    assert engine.get(founds).all()
    np.testing.assert_array_equal(marks_of(engine, rows), np.where(locked, hot, hot + 7))


def test_assign_of_absent_hot_keys_changes_nothing(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, **options)
    status = engine.get(table.assign(engine.put(hot), engine.put(marked(hot))))
    assert (status == Status.SKIPPED).all() and table.size() == 0


def test_pointers_of_equal_keys_are_equal(
    engine: Any, options: dict[str, Any], hot: np.ndarray
) -> None:
    table = engine.table(2 * KEYS, DIM, **options)
    addresses, founds, status = table.find_or_insert_pointers(engine.put(hot), lock=True)
    addresses, status = engine.get(addresses), engine.get(status)
    distinct = np.unique(hot)
    assert (status == Status.INSERTED).sum() == len(distinct) == len(np.unique(addresses))
    np.testing.assert_array_equal(engine.get(founds), status == Status.UPDATED)
    order = np.argsort(hot, kind="stable")
    same_key = np.diff(hot[order]) == 0
    assert (np.diff(addresses[order].view(np.int64))[same_key] == 0).all()
    assert engine.get(table.unlock_keys(engine.put(distinct))).all()


@pytest.mark.parametrize("hbm_bytes", [None, 200 * DIM * 4])
def test_a_full_table_loses_no_row(
    engine: Any, options: dict[str, Any], hbm_bytes: int | None
) -> None:
    """Hot keys among so many others that they leave and come back within the batch."""
    capacity = 500
    table = engine.table(capacity, DIM, evict_strategy="customized", hbm_bytes=hbm_bytes, **options)
    generator = np.random.default_rng(5)
    for step in range(4):
        keys = generator.zipf(1.1, N).astype(np.int64) % 20_000
        marks = keys * 4 + step
        scores = generator.integers(0, 1000, N).astype(np.uint64)
        out = table.insert_and_evict(
            engine.put(keys), engine.put(marked(marks)), engine.put(scores)
        )
        count = int(engine.get(out.count)[0])
        left = engine.get(out.keys)[:count]
        np.testing.assert_array_equal(
            marks_of(engine, out.values)[:count].astype(np.int64) // 4, left
        )
        everything = table.export_batch(capacity)
        size = int(engine.get(everything.count)[0])
        now = engine.get(everything.keys)[:size]
        np.testing.assert_array_equal(
            engine.get(everything.values)[:size, 0].astype(np.int64) // 4, now
        )
        assert size == table.size() == len(np.unique(now)) <= capacity
        assert np.isin(keys, np.concatenate([now, left])).all()


@pytest.mark.gpu
@pytest.mark.parametrize("passes_from", [1, 1 << 18])
def test_captured_batches_of_hot_keys_count_every_increment(passes_from: int) -> None:
    """A graph tells equal keys apart as well, where a call before the capture took the memory."""
    torch = pytest.importorskip("torch")
    n = 65_536
    table = hkv.HashTable(4 * n, DIM, evict_strategy="lfu", passes_from=passes_from)
    hot = torch.from_numpy(np.random.default_rng(2).zipf(1.2, n) % 1000).cuda()
    rows = hot[:, None].expand(-1, DIM).float().contiguous()
    ones = torch.ones(n, dtype=torch.int64, device="cuda").view(torch.uint64)
    status = torch.zeros(n, dtype=torch.uint8, device="cuda")
    table.insert_or_assign(hot, rows, ones, status=status)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        address = torch.cuda.current_stream().cuda_stream
        table.insert_or_assign(hot, rows, ones, status=status, stream=address)
        table.insert_or_assign(hot, rows, ones, status=status, stream=address)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    distinct, counts = np.unique(hot.cpu().numpy(), return_counts=True)
    scores = hkv.DeviceArray.of(np.zeros(len(distinct), np.uint64))
    values, founds = table.find(hkv.DeviceArray.of(distinct), scores=scores)
    assert founds.numpy().all() and table.size() == len(distinct)
    np.testing.assert_array_equal(scores.numpy(), 5 * counts)
    np.testing.assert_array_equal(values.numpy()[:, 0], distinct)
