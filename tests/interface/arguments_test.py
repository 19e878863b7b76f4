"""Every parameter of everything public refuses wrong values by name, before anything changes.

The walk goes over ``inspect.signature`` of what every package has in ``__all__``. A parameter that
joins must be given a kind here, or the first test fails.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerated_modules")
hkv = pytest.importorskip("hkv")
hstu_attn = pytest.importorskip("hstu_attn")

import numpy as np  # noqa: E402

PACKAGES = ("accelerated_modules", "hkv", "hstu_attn")


class Call(NamedTuple):
    """A call that succeeds, and what it may change."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    state: Callable[[], Any] = lambda: None


# --- Wrong values of each kind ------------------------------------------------------------------

NOT_NUMBERS = ["3", None, [], {}, 1j, b"1"]
ARRAYS = [3, "x", None, object(), {1}]
WRONG: dict[str, list[Any]] = {
    "integer": [*NOT_NUMBERS, 1.5, float("nan"), 2**80, -(2**80), True, np.float32(2)],
    "number": [*NOT_NUMBERS, float("nan"), float("inf"), True],
    "bool": ["yes", None, [], 2, 0.0],
    "choice": ["?", 3, None, b"lru", ["lru"]],
    "dtype": ["none such", 3, None, b"none", np.complex64],
    "device": ["tpu", "cuda:\N{SUPERSCRIPT TWO}", "cuda:-1", -1, 1.5, None, True],
    "ordinal": ["0", -1, 1.5, None, True],
    "stream": ["s", 1.5, -1, 2**80, object()],
    "path": [None, 3, "a\0b", ["a"]],
    "shape": [3, None, "ab", (1.5,), (-1,)],
    "window": [None, 3, "ab", (1,), (1, 2, 3), ("a", 0), (0.5, 0), (None, 0), (2**80, 0)],
    "array": ARRAYS,
    "numpy": ["x", None, object()],
    "mask": [*NOT_NUMBERS, 1.5, 2**64, -(2**64)],
    "tensor": [
        *ARRAYS,
        [1, 2],
        np.zeros(3, np.int32),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, 2, 32).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(2, 2, 32), torch.zeros(3, 2, 32)]),
    ],
    "allocator": [3, "none such", object(), True],
    "exported": [3, None, "x", []],
    "integers": [3, None, "x", [1.5, 1], [1]],
    "tables": [3, None, [], ["x"]],
    "file": [],  # whatever print takes: what it says is print's own
}
OF_KIND = {
    "tensor": "q k v qkv cu_seqlens_q cu_seqlens_k num_contexts num_targets rab kv_cache "
    "page_offsets page_ids last_page_lens cu_seqlens_t func",
    "integer": "max_seqlen_q max_seqlen_k target_group_size scaling_seqlen capacity dim "
    "init_capacity hbm_bytes num_threads passes_from n offset epoch score_min score_max",
    "bool": "has_drab deterministic causal ignore_evict_strategy api_lock lock",
    "array": "keys values founds scores status rows accums values_or_deltas offsets mask",
    "allocator": "allocator",
    "exported": "exported",
    "integers": "begin end",
    "tables": "tables",
    "mask": "key_mask key_pattern",
    "number": "alpha max_load_factor",
    "dtype": "key_dtype value_dtype dtype",
    "choice": "evict_strategy policy score_policy newcomers evict_from",
    "device": "device",
    "file": "file",
    "numpy": "array",
    "path": "path",
    "shape": "shape",
    "stream": "stream",
    "window": "window_size",
}
KINDS = {parameter: kind for kind, names in OF_KIND.items() for parameter in names.split()}

NONE_IS_A_VALUE = {"HashTable(capacity)"}  # no maximum
# What is not tried, with the reason; at most ten.
EXCEPTIONS: dict[str, str] = {}


# --- Calls that succeed -------------------------------------------------------------------------


def attention() -> dict[str, Any]:
    q = torch.zeros(6, 2, 32)
    cu = torch.tensor([0, 3, 6], dtype=torch.int32)
    counts = torch.tensor([1, 1], dtype=torch.int32)
    return {
        "q": q, "k": q.clone(), "v": q.clone(), "cu_seqlens_q": cu, "cu_seqlens_k": cu,
        "max_seqlen_q": 3, "max_seqlen_k": 3, "window_size": (-1, 0), "num_contexts": counts,
        "num_targets": counts, "rab": torch.zeros(2, 2, 3, 3),
    }  # fmt: skip


def varlen(parameter: str) -> Call:
    given = attention()
    if parameter == "func":
        given |= {"num_contexts": None, "num_targets": None, "window_size": (-1, -1)}
        given["func"] = torch.zeros(1, 3, 6, dtype=torch.int32)
    if parameter in ("kv_cache", "page_offsets", "page_ids", "last_page_lens", "cu_seqlens_t"):
        two = torch.tensor([2, 2], dtype=torch.int32)
        given |= {
            "kv_cache": torch.zeros(2, 2, 16, 2, 32),
            "page_offsets": torch.tensor([0, 1, 2], dtype=torch.int32),
            "page_ids": torch.tensor([0, 1], dtype=torch.int32),
            "last_page_lens": two,
            "cu_seqlens_t": torch.tensor([0, 1, 2], dtype=torch.int32),
        }
    return Call(hstu_attn.hstu_attn_varlen_func, given)


def packed(parameter: str) -> Call:
    given = varlen(parameter).arguments
    qkv = torch.stack([given.pop(name) for name in "qkv"], 1)
    return Call(hstu_attn.hstu_attn_qkvpacked_func, {"qkv": qkv, **given})


KEYS = np.arange(3, dtype=np.int64)
ROWS = np.ones((3, 4), np.float32)


def table(**options: Any) -> Any:
    made = hkv.HashTable(10, 4, device="cpu", **options)
    scores = np.ones(3, np.uint64) if options.get("evict_strategy") == "customized" else None
    made.insert_or_assign(KEYS, ROWS, scores)
    return made


def needed_of(function: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(function).parameters
    return [p for p in signature if signature[p].default is inspect.Parameter.empty]


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
            "mask": np.ones(3, np.bool_),
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


CALLS: dict[str, Callable[[str], Call]] = {
    "hstu_attn_varlen_func": varlen,
    "hstu_attn_qkvpacked_func": packed,
    "HashTable": lambda _: Call(hkv.HashTable, {"capacity": 10, "dim": 4, "device": "cpu"}),
    "TableSet": lambda _: Call(hkv.TableSet, {"tables": [table(), table()]}),
    "DeviceArray": lambda _: Call(
        hkv.DeviceArray, {"shape": (2,), "dtype": "float32", "device": 0}
    ),
    "DeviceArray.of": lambda _: Call(hkv.DeviceArray.of, {"array": ROWS}),
    "show_versions": lambda _: Call(lambda file: None, {}),
}
# Results, which callers read and do not make; enums make themselves; protocols are the callers'.
RESULTS = {"Evicted", "Exported", "Missed", "Status", "ArrayLike", "RowsView", "Allocator"}


def public() -> Iterator[tuple[str, inspect.Signature]]:
    """Every function, class and method in ``__all__``, with its signature."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if name in RESULTS or not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            yield name, inspect.signature(thing)
            for member in vars(thing) if inspect.isclass(thing) else ():
                if not member.startswith("_") and inspect.isroutine(getattr(thing, member)):
                    signature = inspect.signature(getattr(thing, member))
                    yield f"{name}.{member}", signature


def parameters() -> list[tuple[str, str]]:
    return [
        (name, parameter)
        for name, signature in public()
        for parameter in signature.parameters
        if parameter != "self"
    ]


def kind_of(name: str, parameter: str) -> str:
    if name.startswith("DeviceArray") and parameter == "device":
        return "ordinal"
    return KINDS[parameter]


def call_of(name: str, parameter: str) -> Call:
    if name in CALLS:
        return CALLS[name](parameter)
    if name.startswith("TableSet."):
        return set_method(name.removeprefix("TableSet."))(parameter)
    assert name.startswith("HashTable."), f"{name} joined: give it a call that succeeds"
    return method(name.removeprefix("HashTable."))(parameter)


def says(message: str, value: Any) -> bool:
    """Whether a message has the value: as it is written, or by its type, dtype or shape."""
    texts = [repr(value), str(value), type(value).__name__]
    if value is None:
        texts.append("is null")  # a C++ pointer
    if isinstance(value, (torch.Tensor, np.ndarray)):
        texts += [str(value.dtype), "nested tensor", "layout torch.sparse"]
        if not getattr(value, "is_nested", False):
            texts.append(str(tuple(value.shape)))
    if isinstance(value, (tuple, list)):
        texts += [repr(part) for part in value]
    return any(text in message for text in texts)


def test_every_parameter_has_a_kind() -> None:
    assert not {p for _, p in parameters()} - set(KINDS)
    assert len(parameters()) > 100


def test_exceptions_are_few_and_of_parameters_that_exist() -> None:
    assert len(EXCEPTIONS) <= 10 and all(EXCEPTIONS.values())
    assert set(EXCEPTIONS) <= {f"{name}({parameter})" for name, parameter in parameters()}


@pytest.mark.parametrize(("name", "parameter"), parameters(), ids=lambda x: x)
def test_wrong_values_are_refused_by_name(name: str, parameter: str) -> None:
    if f"{name}({parameter})" in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[f"{name}({parameter})"])
    call = call_of(name, parameter)
    default = inspect.signature(call.function).parameters
    optional = parameter in default and default[parameter].default is None
    optional |= f"{name}({parameter})" in NONE_IS_A_VALUE
    for value in WRONG[kind_of(name, parameter)]:
        if value is None and optional:
            continue
        before = call.state()
        with pytest.raises((ValueError, TypeError)) as caught:
            call.function(**{**call.arguments, parameter: value})
        message = str(caught.value)
        case = f"{name}({parameter}={value!r}): {message}"
        assert re.search(rf"\b{parameter}\b", message), case
        assert says(message, value), case
        assert re.search(r"\b(must|needs|needed)\b", message), case
        assert call.state() == before, case


@pytest.mark.parametrize("name", sorted({name for name, _ in parameters()}))
def test_the_calls_that_wrong_values_go_into_succeed(name: str) -> None:
    if name.startswith("DeviceArray") and hkv.device_count() == 0:
        pytest.skip("needs a CUDA device")
    for parameter in [p for n, p in parameters() if n == name]:
        call = call_of(name, parameter)
        if "path" in call.arguments:
            continue  # a file that is not there: what is wrong with a path is found before that
        if name != "show_versions":
            call.function(**call.arguments)
