"""load: a full table comes back whole, in any order of the file; the greatest scores stay where it
does not fit; and the table goes on behind the file's clock."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkv
import numpy as np
import pytest

Rows = Callable[..., np.ndarray]
KEY_TYPES, VALUE_TYPES = ["int64", "uint64"], ["float32", "float16", "bfloat16"]
STRATEGIES = ["lru", "lfu", "epoch_lru", "epoch_lfu", "customized"]
BLOCK, SEED, MASK = 65536, 0x9E3779B97F4A7C15, 2**64 - 1


def checksum(h: int, data: bytes) -> int:
    data += b"\0" * (-len(data) % 8)
    for (word,) in struct.iter_unpack("<Q", data):
        h = (h ^ word) * 0xFF51AFD7ED558CCD & MASK
        h = (h << 29 | h >> 35) & MASK
    return h


def file_of(
    keys: np.ndarray, scores: np.ndarray, values: np.ndarray, strategy: str, value_dtype: str
) -> bytes:
    """The bytes of a table file, written from the description in table_file.h (version 1)."""
    body, h = b"", SEED
    for first in range(0, len(keys), BLOCK):
        part = slice(first, first + BLOCK)
        for section in (keys[part], scores[part], values[part]):
            data = section.tobytes()
            h = checksum(h, data)
            body += data
    header = struct.pack(
        "<8sIiiiIIQQQQ", b"HKVTABLE", 1, KEY_TYPES.index(keys.dtype.name),
        VALUE_TYPES.index(value_dtype), STRATEGIES.index(strategy), values.shape[1], BLOCK,
        len(keys), h, 0, 0,
    )  # fmt: skip
    return header + body


def rows_of(engine: Any, table: hkv.HashTable) -> dict[int, tuple[int, bytes]]:
    """key -> (score, bytes of the row)"""
    out = table.export_batch(table.capacity)
    n = int(engine.get(out.count)[0])
    keys, scores = engine.get(out.keys)[:n].tolist(), engine.get(out.scores)[:n].tolist()
    values = engine.get(out.values)[:n]
    rows = {k: (s, values[i].tobytes()) for i, (k, s) in enumerate(zip(keys, scores, strict=True))}
    assert len(rows) == n == table.size()
    return rows


def fill(engine: Any, table: hkv.HashTable, seed: int = 0) -> None:
    """Far more keys than there is room for, so that every slot is taken."""
    random = np.random.default_rng(seed)
    for _ in range(4):
        n = table.capacity
        bits = random.integers(0, 2**63, n, dtype=np.uint64)
        keys = bits.astype(table.key_dtype)
        numpy_type = {"bfloat16": "uint16"}.get(table.value_dtype, table.value_dtype)
        values = random.integers(0, 100, (n, table.dim)).astype(numpy_type)
        scores = random.integers(0, 1000, n).astype(np.uint64)
        clock = table.evict_strategy in ("lru", "epoch_lru")
        dtype = "bfloat16" if table.value_dtype == "bfloat16" else None
        table.insert_or_assign(
            engine.put(keys), engine.put(values, dtype), None if clock else engine.put(scores)
        )
    # What is still free is free for no key of these: a table may be full before its last slot.
    assert table.size() > 0.98 * table.capacity


def arrays(rows: dict[int, tuple[int, bytes]], like: hkv.HashTable, order: str) -> tuple[Any, ...]:
    items = list(rows.items())
    if order == "shuffled":
        np.random.default_rng(7).shuffle(items)
    elif order != "slots":
        items.sort(key=lambda item: item[1][0], reverse=order == "greatest first")
    numpy_type = {"bfloat16": "uint16"}.get(like.value_dtype, like.value_dtype)
    keys = np.array([k for k, _ in items], like.key_dtype)
    scores = np.array([s for _, (s, _) in items], np.uint64)
    values = np.frombuffer(b"".join(v for _, (_, v) in items), numpy_type)
    return keys, scores, values.reshape(len(keys), like.dim)


def table_of(engine: Any, strategy: str, **options: Any) -> hkv.HashTable:
    return engine.table(options.pop("capacity", 3000), evict_strategy=strategy, **options)


@pytest.mark.parametrize("value_dtype", VALUE_TYPES)
@pytest.mark.parametrize("key_dtype", KEY_TYPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_full_table_comes_back_whole(
    engine: Any, tmp_path: Path, strategy: str, key_dtype: str, value_dtype: str
) -> None:
    types = {"key_dtype": key_dtype, "value_dtype": value_dtype}
    table = table_of(engine, strategy, **types)
    fill(engine, table)
    assert table.save(tmp_path / "t") == table.size()
    again = table_of(engine, strategy, **types)
    assert again.load(tmp_path / "t") == table.size()
    assert rows_of(engine, again) == rows_of(engine, table)
    assert again.load(tmp_path / "t") == table.size()  # onto itself
    assert rows_of(engine, again) == rows_of(engine, table)


@pytest.mark.parametrize("order", ["slots", "shuffled", "smallest first", "greatest first"])
@pytest.mark.parametrize("capacity", [100, 1000, 20_000])
@pytest.mark.parametrize("strategy", ["lru", "lfu", "customized"])
def test_a_full_table_comes_back_whole_in_any_order_of_the_file(
    engine: Any, tmp_path: Path, strategy: str, capacity: int, order: str
) -> None:
    table = table_of(engine, strategy, capacity=capacity)
    fill(engine, table)
    rows = rows_of(engine, table)
    path = tmp_path / "t"
    path.write_bytes(file_of(*arrays(rows, table, order), strategy, "float32"))
    again = table_of(engine, strategy, capacity=capacity)
    assert again.load(path) == len(rows)
    assert rows_of(engine, again) == rows


@pytest.mark.parametrize("order", ["shuffled", "smallest first", "greatest first"])
@pytest.mark.parametrize("capacity", [100, 999, 5000])
def test_into_a_smaller_table_the_greatest_scores_stay(
    engine: Any, tmp_path: Path, capacity: int, order: str
) -> None:
    table = table_of(engine, "customized", capacity=10_000)
    fill(engine, table)
    rows = rows_of(engine, table)
    path = tmp_path / "t"
    path.write_bytes(file_of(*arrays(rows, table, order), "customized", "float32"))
    small = table_of(engine, "customized", capacity=capacity)
    loaded = small.load(path)
    kept = rows_of(engine, small)
    assert loaded == len(kept) == capacity
    assert all(rows[k] == row for k, row in kept.items())
    greatest = sorted((s for s, _ in rows.values()), reverse=True)[:capacity]
    assert sorted((s for s, _ in kept.values()), reverse=True) == greatest


def test_rows_of_the_table_and_of_the_file_compete_by_score(engine: Any, tmp_path: Path) -> None:
    keys = np.arange(1000, dtype=np.int64)
    values = np.repeat(keys.astype(np.float32)[:, None], 4, 1)
    source = table_of(engine, "customized", capacity=1000)
    source.insert_or_assign(
        engine.put(keys), engine.put(values), engine.put(keys.astype(np.uint64) * 2)
    )
    source.save(tmp_path / "t")
    table = table_of(engine, "customized", capacity=1000)
    mine = np.concatenate([keys[900:], keys[:800] + 5000])  # 100 keys are the file's too
    table.insert_or_assign(
        engine.put(mine), engine.put(np.repeat(-mine.astype(np.float32)[:, None], 4, 1)),
        engine.put(np.arange(900, dtype=np.uint64) * 2 + 1),
    )  # fmt: skip
    before = rows_of(engine, table)
    loaded = table.load(tmp_path / "t")
    rows = rows_of(engine, table)
    assert loaded == sum(k < 1000 for k in rows)
    file = rows_of(engine, source)
    everything = before | file  # equal keys: the file's
    greatest = sorted((s for s, _ in everything.values()), reverse=True)[:1000]
    assert sorted((s for s, _ in rows.values()), reverse=True) == greatest
    assert all(everything[k] == row for k, row in rows.items())


def test_locked_rows_stay_and_are_not_counted(engine: Any, rows: Rows, tmp_path: Path) -> None:
    keys = np.arange(500, dtype=np.int64)
    source = table_of(engine, "customized", capacity=500)
    source.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(keys.astype(np.uint64) + 100)
    )
    assert source.save(tmp_path / "t") == source.size()
    table = table_of(engine, "customized", capacity=500)
    held = np.array([3, 4, 70_000, 70_001], np.int64)
    table.insert_or_assign(
        engine.put(held), engine.put(rows(held) + 1), engine.put(np.zeros(4, np.uint64))
    )
    assert engine.get(table.lock_keys(engine.put(held))).all()
    loaded = table.load(tmp_path / "t")
    stored = rows_of(engine, table)
    assert all(stored[int(k)] == (0, (rows(held) + 1)[i].tobytes()) for i, k in enumerate(held))
    assert loaded == len(stored) - 4 and loaded >= source.size() - 6


def test_a_growing_table_takes_a_file(engine: Any, rows: Rows, tmp_path: Path) -> None:
    keys = np.arange(2000, dtype=np.int64)
    table = table_of(engine, "customized", capacity=2000)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(keys.astype(np.uint64))
    )
    n = table.save(tmp_path / "t")
    growing = table_of(engine, "customized", capacity=2000, init_capacity=100)
    assert growing.load(tmp_path / "t") == n
    assert rows_of(engine, growing) == rows_of(engine, table)


HOURS = 3600 * 10**9


@pytest.mark.parametrize(
    ("strategy", "saved_at", "loaded_at"),
    [
        ("lru", 240, 1),
        ("lru", 1, 240),
        ("lru", 480_000, 1),
        ("epoch_lru", 240, 1),
        ("epoch_lru", 1, 240),
    ],
)
def test_after_a_load_every_write_is_newer_whatever_the_clock_shows(
    engine: Any, rows: Rows, tmp_path: Path, strategy: str, saved_at: int, loaded_at: int
) -> None:
    """480,000 hours: between a clock of the time since 1970 and one of the time since the boot."""
    table = table_of(engine, strategy, capacity=1000)
    table.native.set_clock(saved_at * HOURS)
    fill(engine, table)
    n = table.save(tmp_path / "t")
    again = table_of(engine, strategy, capacity=1000)
    again.native.set_clock(loaded_at * HOURS)
    assert again.load(tmp_path / "t") == n
    assert rows_of(engine, again) == rows_of(engine, table)  # the order is kept
    keys = np.arange(1000, dtype=np.int64)
    status = engine.get(again.insert_or_assign(engine.put(keys), engine.put(rows(keys))))
    assert (status != hkv.Status.REFUSED).all()
    assert engine.get(again.contains(engine.put(keys[-500:]))).mean() > 0.7
    new = {k: s for k, (s, _) in rows_of(engine, again).items() if k < 1000}
    old = {k: s for k, (s, _) in rows_of(engine, table).items()}
    assert min(new.values()) >= max(old.values())


@pytest.mark.parametrize("strategy", ["epoch_lru", "epoch_lfu"])
def test_a_loaded_table_goes_on_in_the_epoch_of_the_file(
    engine: Any, rows: Rows, tmp_path: Path, strategy: str
) -> None:
    table = engine.table(100, evict_strategy=strategy)
    table.set_global_epoch(7)
    keys = np.arange(100, dtype=np.int64)
    given = None if strategy == "epoch_lru" else engine.put(np.full(100, 9, np.uint64))
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)), given)
    n = table.save(tmp_path / "t")
    again = engine.table(100, evict_strategy=strategy)
    assert again.load(tmp_path / "t") == n
    new = np.array([1000], np.int64)
    one = None if given is None else engine.put(np.full(1, 9, np.uint64))
    again.insert_or_assign(engine.put(new), engine.put(rows(new)), one)
    scores = engine.put(np.zeros(1, np.uint64))
    again.find(engine.put(new), scores=scores)
    assert int(engine.get(scores)[0]) >> 32 == 7


def test_a_score_that_no_clock_shows_does_not_move_the_clock(
    engine: Any, rows: Rows, tmp_path: Path
) -> None:
    table = table_of(engine, "lru", capacity=1000)
    keys = np.arange(10, dtype=np.int64)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(np.full(10, MASK, np.uint64)),
        ignore_evict_strategy=True,
    )  # fmt: skip
    table.save(tmp_path / "t")
    assert table.load(tmp_path / "t") == 10
    new = np.array([100], np.int64)
    table.insert_or_assign(engine.put(new), engine.put(rows(new)))
    assert rows_of(engine, table)[100][0] < 2**63


@pytest.mark.parametrize("strategy", ["lru", "customized"])
@pytest.mark.parametrize("n", [0, 1, 3, BLOCK + 5])
def test_a_file_of_version_1_loads(engine: Any, tmp_path: Path, strategy: str, n: int) -> None:
    """As 0.3.0 wrote it, by the description of the format; rows of 3 halves, so a padded end."""
    random = np.random.default_rng(n)
    keys = np.arange(n, dtype=np.uint64) * 7919
    scores = random.integers(1, 2**50, n).astype(np.uint64)
    values = random.standard_normal((n, 3)).astype(np.float16)
    data = file_of(keys, scores, values, strategy, "float16")
    (tmp_path / "t").write_bytes(data)
    table = engine.table(
        max(1, 2 * n), 3, evict_strategy=strategy, key_dtype="uint64", value_dtype="float16"
    )
    assert table.load(tmp_path / "t") == n
    if n == 0:
        return
    got = engine.put(np.zeros(n, np.uint64))
    out, founds = table.find(engine.put(keys), scores=got)
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), values)
    np.testing.assert_array_equal(engine.get(got), scores)
