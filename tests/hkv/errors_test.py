"""Bad input is refused by name, before anything is changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import hkv
import numpy as np
import pytest

from tests.common.processes import python

KEYS = np.array([1, 2], np.int64)
VALUES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": -5}, "capacity"),
        ({"capacity": 2**40}, "max_capacity"),
        ({"capacity": 2**64}, "capacity is 18446744073709551616"),
        ({"dim": 0}, "dim"),
        ({"dim": 1 << 20}, "dim"),
        ({"key_dtype": "int32"}, "key_dtype is 'int32'"),
        ({"value_dtype": "float64"}, "value_dtype is 'float64'"),
        ({"evict_strategy": "fifo"}, "evict_strategy is 'fifo'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"device": "cuda:\u00b2"}, "device is 'cuda:\u00b2'"),
        ({"max_load_factor": float("nan")}, "max_load_factor is nan"),
        ({"num_threads": 2**31}, "num_threads is 2147483648"),
        ({"hbm_bytes": 2**64}, "hbm_bytes is 18446744073709551616"),
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
    for _ in range(3):  # nothing is left behind, or the third would be short of memory
        with pytest.raises(RuntimeError, match=r"allocating \d+ bytes of device memory for rows"):
            hkv.HashTable(1 << 30, 512, device="cuda")
    assert table.size() == 0


# What no parameter of this kind takes. Each error must name the parameter and its value.
WRONG: dict[str, list[Any]] = {
    "integer": ["5", 1.5, None, True, 2**70, -(2**70), object()],
    "optional integer": ["5", 1.5, True, 2**70, -(2**70)],
    "fraction": ["0.5", None, True, 0, 1.5, -1, float("nan")],
    "flag": ["yes", None, 1, 0.0],
    "dtype": ["int32", "float64", None, 5, np.int8, object()],
    "strategy": ["fifo", None, 5],
    "policy": ["newest", 5, object()],
    "allocator": ["malloc", 5, object()],
    "device": ["tpu", "cuda:", "cuda:-1", "cuda:\u00b2", None, 1.5, True, -1],
    "array": ["text", 5, [1, 2], object(), np.zeros((2, 4), ">f4"), np.zeros(2, "<i2"),
              np.ma.zeros(2), np.zeros((3, 3, 3))],
    "stream": ["mine", 1.5, -1, 2**64, object()],
    "path": [5, None, "", "a\0b", object()],
    "exported": [None, [1], np.zeros(2, np.int64)],
}  # fmt: skip
KINDS = {
    "capacity": "optional integer", "dim": "integer", "key_dtype": "dtype", "value_dtype": "dtype",
    "evict_strategy": "strategy", "device": "device", "init_capacity": "optional integer",
    "max_load_factor": "fraction", "hbm_bytes": "optional integer", "num_threads": "integer",
    "passes_from": "integer", "api_lock": "flag", "keys": "array", "values": "array",
    "values_or_deltas": "array", "scores": "array", "founds": "array", "rows": "array",
    "status": "array", "accums": "array", "stream": "stream", "lock": "flag",
    "ignore_evict_strategy": "flag", "key_mask": "integer", "key_pattern": "integer",
    "score_min": "integer", "score_max": "integer", "n": "integer", "offset": "integer",
    "epoch": "integer", "path": "path", "policy": "policy", "score_policy": "policy",
    "newcomers": "strategy", "evict_from": "strategy", "allocator": "allocator", "mask": "array",
    "exported": "exported",
}  # fmt: skip


def full_table() -> hkv.HashTable:
    table = hkv.HashTable(10, 4, evict_strategy="customized", device="cpu")
    table.insert_or_assign(KEYS, VALUES, np.array([5, 6], np.uint64))
    return table


def good(name: str) -> Any:
    if name in ("values", "values_or_deltas"):
        return VALUES.copy()
    return {
        "capacity": 10, "dim": 4, "device": "cpu", "keys": KEYS, "epoch": 1, "n": 1,
        "rows": np.zeros(2, np.uint64), "accums": np.zeros(2, bool), "path": "absent/file",
        "scores": np.ones(2, np.uint64), "exported": full_table().export_batch(10),
        "mask": np.zeros(2, bool),
    }.get(name)  # fmt: skip


def methods() -> list[tuple[str, Callable[..., Any]]]:
    found = [
        (name, member)
        for name, member in inspect.getmembers(hkv.HashTable, inspect.isfunction)
        if name == "__init__" or not name.startswith("_")
    ]
    assert len(found) > 20
    return found


@pytest.mark.parametrize(
    ("method", "parameter"),
    [
        (name, parameter)
        for name, member in methods()
        for parameter in inspect.signature(member).parameters
        if parameter != "self"
    ],
)
def test_every_wrong_argument_is_named_with_its_value_and_changes_nothing(
    method: str, parameter: str
) -> None:
    function = hkv.HashTable if method == "__init__" else getattr(full_table(), method)
    signature = inspect.signature(function)
    needed = {
        name: good(name)
        for name, p in signature.parameters.items()
        if p.default is inspect.Parameter.empty
    }
    if method in ("insert_or_assign", "insert_and_evict", "accum_or_assign", "assign",
                  "assign_scores", "find_or_insert", "find_or_insert_pointers",
                  "find_or_insert_rows", "find_or_insert_rows_and_evict",
                  "find_and_update"):  # fmt: skip
        needed["scores"] = good("scores")
    if method == "erase_if" and parameter == "stream":
        needed["key_mask"] = 1
    table = full_table()
    before = [np.asarray(a).tobytes() for a in table.export_batch(10)]
    for value in WRONG[KINDS[parameter]]:
        if method != "__init__":
            function = getattr(table, method)
        if parameter in ("scores",) and value is None:
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**needed | {parameter: value})
        said = str(caught.value)
        assert said.startswith("hkv: ") and parameter in said, said
        if KINDS[parameter] == "array":
            assert "must" in said or "masked" in said, said
        else:
            assert repr(value) in said or str(value) in said, said
            assert "must" in said, said
    assert [np.asarray(a).tobytes() for a in table.export_batch(10)] == before


def test_negative_masks_and_patterns_are_bits_of_int64_keys() -> None:
    table = hkv.HashTable(100, 4, device="cpu")
    keys = np.arange(-20, 20, dtype=np.int64)
    table.insert_or_assign(keys, np.zeros((40, 4), np.float32))
    assert table.size_if(key_mask=-(2**63), key_pattern=-(2**63)) == 20
    assert table.size_if(key_mask=-1, key_pattern=-3) == 1
    assert table.erase_if(key_mask=-1, key_pattern=-3) == 1
    assert len(table.export_batch(100, key_mask=-2, key_pattern=-4).keys) == 1  # -4: -3 is gone
    unsigned = hkv.HashTable(10, 4, key_dtype="uint64", device="cpu")
    with pytest.raises(ValueError, match="key_mask is -1; it must be 0"):
        unsigned.size_if(key_mask=-1)


def test_erasing_everything_by_no_condition_is_refused() -> None:
    table = full_table()
    with pytest.raises(ValueError, match=r"erase_if has no condition .* or be clear\(\)"):
        table.erase_if()
    assert table.size() == 2


def test_epochs_have_32_bits() -> None:
    table = hkv.HashTable(10, 4, evict_strategy="epoch_lfu", device="cpu")
    table.set_global_epoch(2**32 - 1)
    with pytest.raises(ValueError, match=r"epoch is 4294967296; it must be 0 \.\.\. 4294967295"):
        table.set_global_epoch(2**32)


def test_an_empty_table_is_true() -> None:
    assert hkv.HashTable(10, 4, device="cpu")


def test_dtypes_may_be_objects() -> None:
    table = hkv.HashTable(
        10, 4, key_dtype=np.uint64, value_dtype=np.dtype("float16"), device="cpu"
    )  # fmt: skip
    assert (table.key_dtype, table.value_dtype) == ("uint64", "float16")


THREADLESS = """
import resource
import hkv
import numpy as np

table = hkv.HashTable(200_000, 4, device="cpu", num_threads=64)
keys = np.arange(200_000, dtype=np.int64)
values = np.ones((200_000, 4), np.float32)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = used + (64 << 20)  # eight threads' stacks at most
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
status = table.insert_or_assign(keys, values, status=np.zeros(200_000, np.uint8))
found = table.contains(keys, founds=np.zeros(200_000, bool))
print(table.size(), int(found.sum()), int((status == 2).sum() + (status == 3).sum()))
"""


def test_threads_that_cannot_be_started_are_done_without() -> None:
    done = python("-c", THREADLESS)
    assert done.returncode == 0, done.stderr
    size, found, inserted = map(int, done.stdout.split())
    assert size == found and inserted == 200_000
