"""What a walk over everything public needs: calls that succeed, wrong values of each kind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch


class Call(NamedTuple):
    """A call that succeeds, and what it may change."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    state: Callable[[], Any] = lambda: None


class Walk(NamedTuple):
    """A package: its name, the kind of each parameter, and a call for each of its functions.

    ``kinds`` is by parameter, or by "name(parameter)" where one differs; ``skipped`` are names of
    ``__all__`` with nothing to walk over: results, enums, protocols; ``parts`` of base classes with
    public methods of other classes.
    """

    package: str
    kinds: dict[str, str]
    call: Callable[[str, str], Call]
    skipped: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()

    def public(self) -> Iterator[tuple[str, inspect.Signature]]:
        """Every function, class and method in ``__all__``, with its signature."""
        module = importlib.import_module(self.package)
        for name in module.__all__:
            thing = getattr(module, name)
            if name in self.skipped or not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            yield name, inspect.signature(thing)
            for member in self.members(thing) if inspect.isclass(thing) else ():
                if not member.startswith("_") and inspect.isroutine(getattr(thing, member)):
                    yield f"{name}.{member}", inspect.signature(getattr(thing, member))

    def members(self, kind: type) -> dict[str, None]:
        """What a class has of itself and of the bases that it is put together from."""
        own = [base for base in kind.__mro__ if base is kind or base.__name__ in self.parts]
        return dict.fromkeys(name for base in own for name in vars(base))

    def parameters(self) -> list[tuple[str, str]]:
        return [
            (name, parameter)
            for name, signature in self.public()
            for parameter in signature.parameters
            if parameter != "self"
        ]

    def kind(self, name: str, parameter: str) -> str:
        return self.kinds.get(f"{name}({parameter})", self.kinds.get(parameter, ""))


def kinds(of_kind: dict[str, str]) -> dict[str, str]:
    """By parameter, from the names of each kind."""
    return {name: kind for kind, names in of_kind.items() for name in names.split()}


def needed_of(function: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(function).parameters
    return [p for p in signature if signature[p].default is inspect.Parameter.empty]


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
    "cache": [3, None, "x", torch.zeros(3)],
    "names": [3, "ab", [3], ["a", "a"], [None]],
    "text": [3, None, b"t", ["t"]],
    "objects": [3, "x", object()],
    "refused": [3, "x", [1]],
    "ignored": [],
    "file": [],  # whatever print takes: what it says is print's own
}


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
