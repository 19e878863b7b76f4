"""Bad input is refused by name, before anything is changed."""

from __future__ import annotations

from typing import Any

import hkv
import numpy as np
import pytest

KEYS = np.array([1, 2], np.int64)
VALUES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": -5}, "capacity"),
        ({"capacity": 2**40}, "max_capacity"),
        ({"dim": 0}, "dim"),
        ({"dim": 1 << 20}, "dim"),
        ({"key_dtype": "int32"}, "key_dtype is 'int32'"),
        ({"value_dtype": "float64"}, "value_dtype is 'float64'"),
        ({"evict_strategy": "fifo"}, "evict_strategy is 'fifo'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"init_capacity": 101}, "init_capacity"),
        ({"max_load_factor": 0.0}, "max_load_factor"),
        ({"passes_from": 0}, "passes_from"),
        ({"num_threads": -1}, "num_threads"),
        ({"hbm_bytes": -1}, "hbm_bytes"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"capacity": 100, "dim": 4, "device": "cpu"} | options
    with pytest.raises(ValueError, match=words):
        hkv.HashTable(arguments.pop("capacity"), arguments.pop("dim"), **arguments)


def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(RuntimeError, match="CUDA devices"):
        hkv.HashTable(10, 4, device=f"cuda:{hkv.device_count()}")


def test_bad_arrays_are_named_and_change_nothing(engine: Any) -> None:
    table = engine.table(10)
    good = engine.put(VALUES)
    cases = [
        (engine.put(KEYS.astype(np.int32)), good, TypeError, "keys has dtype int32"),
        (engine.put(KEYS.reshape(1, 2)), good, ValueError, "keys has shape"),
        (engine.put(KEYS), engine.put(VALUES.astype(np.float16)), TypeError, "values has dtype"),
        (engine.put(KEYS), engine.put(VALUES[:, :3].copy()), ValueError, "values has shape"),
        (engine.put(KEYS), engine.put(VALUES[:1]), ValueError, "values has shape"),
        ("keys", good, TypeError, "keys is a str"),
    ]
    for keys, values, error, words in cases:
        with pytest.raises(error, match=words):
            table.insert_or_assign(keys, values)
    assert table.size() == 0


def test_strided_and_read_only_arrays_are_named() -> None:
    table = hkv.HashTable(10, 4, device="cpu")
    with pytest.raises(ValueError, match="values is not contiguous"):
        table.insert_or_assign(KEYS, np.ones((2, 8), np.float32)[:, ::2])
    frozen = VALUES.copy()
    frozen.flags.writeable = False
    table.insert_or_assign(KEYS, frozen)
    with pytest.raises(ValueError, match="values is read-only"):
        table.find(KEYS, values=frozen)


def test_scores_must_suit_the_strategy(engine: Any) -> None:
    scores = engine.put(np.ones(2, np.uint64))
    keys, values = engine.put(KEYS), engine.put(VALUES)
    with pytest.raises(ValueError, match="scores must be null with evict strategy lru"):
        engine.table(10).insert_or_assign(keys, values, scores)
    table = engine.table(10, evict_strategy="customized")
    with pytest.raises(ValueError, match="needs the caller's scores"):
        table.insert_or_assign(keys, values)
    with pytest.raises(ValueError, match="ignore_evict_strategy needs scores"):
        engine.table(10).insert_or_assign(keys, values, ignore_evict_strategy=True)
    assert table.size() == 0


def test_export_outside_the_capacity_is_refused(engine: Any) -> None:
    table = engine.table(10)
    with pytest.raises(ValueError, match="not inside the capacity, 10"):
        table.export_batch(5, 6)


def test_reserve_beyond_the_maximum_is_refused(engine: Any) -> None:
    table = engine.table(100, init_capacity=10)
    with pytest.raises(ValueError, match="must not exceed max_capacity, 100"):
        table.reserve(101)
    assert table.capacity == 10


@pytest.mark.gpu
def test_arrays_of_the_wrong_device_and_too_little_memory_are_named() -> None:
    table = hkv.HashTable(10, 4, device="cuda")
    with pytest.raises(ValueError, match="keys is on the host; the table is on cuda:0"):
        table.insert_or_assign(KEYS, hkv.DeviceArray.of(VALUES))
    with pytest.raises(ValueError, match="epoch_lru is not among the compiled GPU tables"):
        hkv.HashTable(10, 4, device="cuda", evict_strategy="epoch_lru")
    for _ in range(3):  # nothing is left behind, or the third would be short of memory
        with pytest.raises(RuntimeError, match=r"allocating \d+ bytes of device memory for rows"):
            hkv.HashTable(1 << 30, 512, device="cuda")
    assert table.size() == 0
