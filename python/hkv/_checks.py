"""One checker per kind of argument: each error names the argument, its value, what is allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

MAX_U64 = 2**64 - 1


def integer(name: str, value: Any, low: int = 0, high: int = MAX_U64) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"hkv: {name} is {value!r}, a {type(value).__name__}; it must be an integer, "
            f"{low} ... {high}"
        )
    if not low <= value <= high:
        raise ValueError(f"hkv: {name} is {value}; it must be {low} ... {high}")
    return int(value)


def sequence(name: str, value: Any, of: str) -> list[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError(
            f"hkv: {name} is {value!r}, a {type(value).__name__}; it must be a list of {of}"
        )
    return list(value)


def fraction(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"hkv: {name} is {value!r}, a {type(value).__name__}; it must be a number in (0, 1]"
        )
    if not 0 < value <= 1:
        raise ValueError(f"hkv: {name} is {value}; it must be in (0, 1]")
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"hkv: {name} is {value!r}, a {type(value).__name__}; it must be True or False"
        )
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"hkv: {name} is {value!r}; it must be one of {', '.join(allowed)}")


def dtype(name: str, value: Any, allowed: Sequence[str]) -> str:
    """A dtype by its name, or as NumPy's or torch's own object or type."""
    text = value
    if not isinstance(value, str) and value is not None:
        text = str(value).removeprefix("torch.")
        if text == str(value):
            with suppress(TypeError):
                text = np.dtype(value).name
    return choice(name, text if text in allowed else value, allowed)


def device(value: Any) -> int:
    """CUDA ordinal, or -1 for the host."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if value == "cpu":
        return -1
    if value == "cuda":
        return 0
    if isinstance(value, str) and value.startswith("cuda:"):
        ordinal = value[5:]
        if ordinal.isascii() and ordinal.isdecimal():
            return int(ordinal)
    kind = ValueError if isinstance(value, (str, int)) else TypeError
    raise kind(f"hkv: device is {value!r}; it must be 'cpu', 'cuda', 'cuda:N' or N >= 0")


def path(value: Any) -> bytes:
    try:
        encoded = os.fsencode(value)
    except TypeError:
        raise TypeError(
            f"hkv: path is {value!r}; it must be a str, bytes or an os.PathLike"
        ) from None
    if not encoded or b"\0" in encoded:
        raise ValueError(f"hkv: path is {value!r}; it must be a file's name, without a NUL in it")
    return encoded
