"""save and load: what comes back, and what a damaged file does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkv
import numpy as np
import pytest

Rows = Callable[..., np.ndarray]


def filled(engine: Any, rows: Rows, n: int = 1000, **options: Any) -> Any:
    table = engine.table(2000, evict_strategy="customized", **options)
    keys = np.arange(n, dtype=np.int64)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(keys.astype(np.uint64) + 5)
    )
    return table


def test_a_loaded_table_has_the_same_rows_and_scores(
    engine: Any, rows: Rows, tmp_path: Path
) -> None:
    path = tmp_path / "table.hkv"
    assert filled(engine, rows).save(path) == 1000
    assert os.listdir(tmp_path) == ["table.hkv"]
    table = engine.table(1500, evict_strategy="customized")
    assert table.load(path) == 1000
    keys = np.arange(1000, dtype=np.int64)
    scores = engine.put(np.zeros(1000, np.uint64))
    out, founds = table.find(engine.put(keys), scores=scores)
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), rows(keys))
    np.testing.assert_array_equal(engine.get(scores), keys + 5)


def test_an_empty_table_has_a_file(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    assert engine.table(10).save(path) == 0
    assert path.stat().st_size == 64
    assert engine.table(10).load(path) == 0


@pytest.mark.parametrize("where", [0, 8, 36, 44, 64, -1])
def test_a_damaged_file_changes_nothing(
    engine: Any, rows: Rows, tmp_path: Path, where: int
) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    table = engine.table(2000, evict_strategy="customized")
    with pytest.raises(RuntimeError, match=r"table\.hkv"):
        table.load(path)
    assert table.size() == 0


def test_a_cut_file_and_a_wrong_table_are_named(rows: Rows, tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    for options, words in [
        ({"evict_strategy": "lru"}, "evict strategy customized, the table has lru"),
        ({"evict_strategy": "customized", "value_dtype": "float16"}, "value type float32"),
        ({"evict_strategy": "customized", "key_dtype": "uint64"}, "key type int64"),
        ({"evict_strategy": "customized", "dim": 5}, "dim 4, the table has 5"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            engine.table(2000, **options).load(path)
    with pytest.raises(ValueError, match="holds 1000 rows, max_capacity is 999"):
        engine.table(999, evict_strategy="customized").load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="bytes long; 1000 rows need"):
        engine.table(2000, evict_strategy="customized").load(path)
    with pytest.raises(RuntimeError, match="cannot be opened"):
        engine.table(10).load(tmp_path / "absent")
    with pytest.raises(RuntimeError, match="cannot be created"):
        engine.table(10).save(tmp_path / "absent" / "table.hkv")


def test_files_move_between_host_and_gpu(rows: Rows, tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    host = hkv.HashTable(2000, 4, evict_strategy="customized", device="cpu")
    assert host.load(path) == 1000
    keys = np.arange(1000, dtype=np.int64)
    np.testing.assert_array_equal(host.find(keys)[0], rows(keys))
