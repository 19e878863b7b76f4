"""What HierarchicalKV does otherwise or not at all is said by name, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hkv
import numpy as np
import pytest

Rows = Callable[..., np.ndarray]
pytestmark = [pytest.mark.gpu, pytest.mark.any_engine]


@pytest.fixture(autouse=True)
def _upstream() -> None:
    engine = hkv.HashTable(128, 1).engine
    if engine != "upstream":
        pytest.skip(f"the GPU tables of this wheel are on the {engine} engine")


def put(array: Any, dtype: Any = np.int64) -> hkv.DeviceArray:
    return hkv.DeviceArray.of(np.asarray(array, dtype))


def ones(n: int, dim: int = 4) -> hkv.DeviceArray:
    return put(np.ones((n, dim)), np.float32)


KEYS = np.arange(100)


@pytest.mark.parametrize("options", [{"capacity": 127}, {"capacity": 500, "init_capacity": 100}])
def test_fewer_than_128_rows_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"init_capacity is 1.*takes 128 rows and more"):
        hkv.HashTable(dim=4, **options)


@pytest.mark.parametrize(
    ("asked", "initial", "got"), [(128, None, 128), (1000, None, 1024), (1500, 128, 2048)]
)
def test_capacities_are_rounded_up(asked: int, initial: int | None, got: int) -> None:
    table = hkv.HashTable(asked, 4, init_capacity=initial)
    assert table.max_capacity == got
    assert table.capacity == (initial or got)
    table.reserve(got)
    assert table.capacity == got
    with pytest.raises(ValueError, match=f"must not exceed max_capacity, {got}"):
        table.reserve(got + 1)


@pytest.mark.parametrize("strategy", ["lfu", "epoch_lfu"])
def test_increments_are_needed(strategy: str) -> None:
    table = hkv.HashTable(1024, 4, evict_strategy=strategy)
    calls: list[Callable[[], Any]] = [
        lambda: table.insert_or_assign(put(KEYS), ones(100)),
        lambda: table.insert_and_evict(put(KEYS), ones(100)),
        lambda: table.find_or_insert(put(KEYS), ones(100)),
        lambda: table.find_or_insert_pointers(put(KEYS)),
        lambda: table.find_and_update(put(KEYS)),
        lambda: table.assign_scores(put(KEYS)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"scores is null; with evict strategy {strategy}"):
            call()
    assert table.size() == 0


@pytest.mark.parametrize("strategy", ["lru", "lfu", "epoch_lru", "epoch_lfu"])
def test_insert_and_evict_follows_the_strategy(strategy: str) -> None:
    table = hkv.HashTable(1024, 4, evict_strategy=strategy)
    with pytest.raises(ValueError, match="no insert_and_evict with ignore_evict_strategy"):
        table.insert_and_evict(
            put(KEYS), ones(100), put(KEYS, np.uint64), ignore_evict_strategy=True
        )
    assert table.size() == 0


def test_rows_stay_in_gpu_memory_where_nothing_else_is_said() -> None:
    """insert_and_evict tells, which upstream has for such tables alone; 1000 rows are 8 buckets."""
    table = hkv.HashTable(1000, 4)
    table.insert_and_evict(put(KEYS), ones(100))
    assert table.size() == 100
    table = hkv.HashTable(1000, 4, hbm_bytes=1024 * 16)
    table.insert_and_evict(put(KEYS), ones(100))
    assert table.size() == 100
    table = hkv.HashTable(1000, 4, hbm_bytes=1024 * 16 - 1)
    with pytest.raises(ValueError, match="no insert_and_evict with rows in host memory"):
        table.insert_and_evict(put(KEYS), ones(100))
    table.insert_or_assign(put(KEYS), ones(100))
    assert (table.find(put(KEYS))[0].numpy() == 1).all()


def test_locks_need_a_table_that_cannot_grow() -> None:
    table = hkv.HashTable(1024, 4, init_capacity=128)
    for call in (table.lock_keys, lambda k: table.find_or_insert_pointers(k, lock=True)):
        with pytest.raises(ValueError, match="capacity is 128 and max_capacity 1024"):
            call(put(KEYS))
    table.reserve(1024)
    assert not table.lock_keys(put(KEYS)).numpy().any()


def test_rows_are_locked_once_in_a_call() -> None:
    table = hkv.HashTable(1024, 4)
    with pytest.raises(ValueError, match=r"keys\[0\] and keys\[2\] are both 5"):
        table.find_or_insert_pointers(put([5, 6, 5]), lock=True)
    assert table.size() == 0
    table.find_or_insert_pointers(put([6]), lock=True)
    with pytest.raises(ValueError, match=r"keys\[1\] is 6, which is locked"):
        table.find_or_insert_pointers(put([5, 6]), lock=True)
    assert table.size() == 1


def test_a_locked_key_is_not_found_and_lets_nobody_write(rows: Rows) -> None:
    table = hkv.HashTable(128, 4)
    table.insert_or_assign(put(KEYS), put(rows(KEYS), np.float32))
    assert table.lock_keys(put(KEYS[:10])).numpy().all()
    assert table.contains(put(KEYS)).numpy().tolist() == [False] * 10 + [True] * 90
    assert table.size() == 100
    calls: list[Callable[[], Any]] = [
        lambda: table.insert_or_assign(put(KEYS), ones(100)),
        lambda: table.insert_and_evict(put(KEYS), ones(100)),
        lambda: table.find_or_insert(put(KEYS), ones(100)),
        lambda: table.find_or_insert_pointers(put(KEYS)),
        lambda: table.find_and_update(put(KEYS)),
        lambda: table.assign_values(put(KEYS), ones(100)),
        lambda: table.accum_or_assign(put(KEYS), ones(100), put(KEYS < 50, np.bool_)),
    ]
    for call in calls:  # upstream would wait for the locked slots
        with pytest.raises(ValueError, match="10 keys are locked; until unlock_keys"):
            call()
    assert table.erase_if(score_min=1) == 90
    assert table.unlock_keys(put(KEYS[:10])).numpy().all()
    values, founds = table.find(put(KEYS))
    assert founds.numpy().tolist() == [True] * 10 + [False] * 90
    np.testing.assert_array_equal(values.numpy()[:10], rows(KEYS[:10]))


def test_a_cleared_table_has_no_locked_keys() -> None:
    table = hkv.HashTable(128, 4)
    table.insert_or_assign(put(KEYS), ones(100))
    table.lock_keys(put(KEYS))
    table.clear()
    assert not table.unlock_keys(put(KEYS)).numpy().any()
    assert table.size() == 0


def test_the_four_greatest_words_are_no_keys() -> None:
    table = hkv.HashTable(1024, 4)
    table.insert_or_assign(put([-1, -2, -3, -4, -5]), ones(5))
    rows, _, _ = table.find_or_insert_pointers(put([-1, -2, -3, -4, -5]))
    assert (rows.numpy() != 0).tolist() == [False] * 4 + [True]
    assert table.size() == 1
    assert table.export_batch(table.capacity).keys.numpy()[0] == -5


def test_what_upstream_has_not_is_named(tmp_path: Any) -> None:
    table = hkv.HashTable(1024, 4)
    status = put(np.zeros(100), np.uint8)
    for what, call in {
        "statuses": lambda: table.insert_or_assign(put(KEYS), ones(100), status=status),
        "save": lambda: table.save(tmp_path / "t"),
        "load": lambda: table.load(tmp_path / "t"),
        "set_clock": lambda: table.native.set_clock(5),
    }.items():
        with pytest.raises(ValueError, match=f"the upstream engine has no {what}"):
            call()
    assert table.size() == 0


@pytest.mark.skipif(hkv.device_count() < 2, reason="needs two GPUs")
def test_a_call_finds_its_device_whatever_is_current() -> None:
    table = hkv.HashTable(1024, 4, device=1)
    keys, values = (hkv.DeviceArray.of(a, 1) for a in (KEYS, np.ones((100, 4), np.float32)))
    table.insert_or_assign(keys, values)
    assert table.contains(keys).numpy().all()
    assert table.size() == 100
