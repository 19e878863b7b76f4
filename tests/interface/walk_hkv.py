"""The calls of hkv that succeed, on the host."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import hkv
import numpy as np

from tests.interface.walk import Call, Walk, kinds, needed_of

KEYS = np.arange(3, dtype=np.int64)
ROWS = np.ones((3, 4), np.float32)


def table(**options: Any) -> Any:
    made = hkv.HashTable(10, 4, device="cpu", **options)
    scores = np.ones(3, np.uint64) if options.get("evict_strategy") == "customized" else None
    made.insert_or_assign(KEYS, ROWS, scores)
    return made


def rows_of(made: Any) -> list[Any]:
    keys, values, scores, _ = made.export_batch(made.capacity)
    return sorted(zip(keys.tolist(), values.tolist(), scores.tolist(), strict=True))


def set_method(name: str) -> Callable[[str], Call]:
    def call(parameter: str) -> Call:
        options = {"evict_strategy": "customized"} if parameter == "scores" else {}
        tables = [table(**options), table(**options)]
        every = {
            "keys": KEYS, "values": ROWS.copy(), "scores": np.ones(3, np.uint64),
            "offsets": np.array([0, 2, 3], np.uint64), "rows": np.zeros(3, np.uint64),
            "begin": [0, 0], "end": [2, 2],
        }  # fmt: skip
        function = getattr(hkv.TableSet(tables), name)
        needed = needed_of(function) + (["scores"] if options else [])
        given = {p: every[p] for p in needed if p in inspect.signature(function).parameters}
        return Call(function, given, lambda: [rows_of(t) for t in tables])

    return call


def method(name: str) -> Callable[[str], Call]:
    def call(parameter: str) -> Call:
        # Scores are given to tables that want them alone; epochs to those that have them.
        options = {"evict_strategy": "customized"} if parameter == "scores" else {}
        if name == "set_global_epoch":
            options = {"evict_strategy": "epoch_lru"}
        if name == "reserve":
            options = {"init_capacity": 5}
        made = table(**options)
        every = {
            "keys": KEYS, "values": ROWS.copy(), "scores": np.ones(3, np.uint64),
            "values_or_deltas": ROWS, "accums": np.ones(3, np.bool_), "n": 3, "capacity": 10,
            "epoch": 3, "score_min": 1, "path": "absent/file", "exported": made.export_batch(10),
            "mask": np.ones(3, np.bool_), "rows": np.zeros(3, np.uint64),
        }  # fmt: skip
        function = getattr(made, name)
        needed = needed_of(function)
        if options.get("evict_strategy") == "customized":
            needed.append("scores")
        if name == "erase_if":  # no condition at all is refused
            needed.append("score_min")

        def state() -> Any:
            return rows_of(made), made.capacity, made.size()

        return Call(function, {p: every[p] for p in needed}, state)

    return call


CALLS: dict[str, Call] = {
    "HashTable": Call(hkv.HashTable, {"capacity": 10, "dim": 4, "device": "cpu"}),
    "DeviceArray": Call(hkv.DeviceArray, {"shape": (2,), "dtype": "float32", "device": 0}),
    "DeviceArray.of": Call(hkv.DeviceArray.of, {"array": ROWS}),
}


def call(name: str, parameter: str) -> Call:
    if name in CALLS:
        return CALLS[name]
    if name == "TableSet":
        return Call(hkv.TableSet, {"tables": [table(), table()]})
    kind, _, member = name.partition(".")
    return {"TableSet": set_method, "HashTable": method}[kind](member)(parameter)


KINDS = {
    "integer": "capacity dim init_capacity hbm_bytes num_threads passes_from n offset epoch "
    "score_min score_max",
    "integer or None": "HashTable(capacity)",  # no maximum
    "bool": "ignore_evict_strategy api_lock lock",
    "array": "keys values founds scores status rows accums values_or_deltas offsets mask",
    "allocator": "allocator",
    "exported": "exported",
    "integers": "begin end",
    "tables": "tables",
    "mask": "key_mask key_pattern",
    "number": "max_load_factor",
    "dtype": "key_dtype value_dtype dtype",
    "choice": "evict_strategy policy score_policy newcomers evict_from",
    "device": "device",
    "ordinal": "DeviceArray(device)",
    "numpy": "array",
    "path": "path",
    "shape": "shape",
    "stream": "stream",
}
# Results, which callers read and do not make; enums make themselves; protocols are the callers'.
SKIPPED = {"Evicted", "Exported", "Missed", "Status", "ArrayLike", "RowsView", "Allocator"}
PARTS = {"KeyCalls", "RowCalls", "WholeCalls"}  # of HashTable
WALK = Walk("hkv", kinds(KINDS), call, frozenset(SKIPPED), frozenset(PARTS))
