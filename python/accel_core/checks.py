"""Argument checks that need no PyTorch: every error names the argument, its value, what is allowed.

Each package makes one ``Checks("its name")``, which every message begins with.
"""

from __future__ import annotations

import reprlib
import sys
from typing import Any, NoReturn


class Checks:
    """Checks of plain arguments, for one package."""

    integers: tuple[Any, ...] = (int,)

    def __init__(self, package: str) -> None:
        self.package = package

    def fail(self, message: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"{self.package}: {message}")

    def integer(self, value: Any, name: str, at_least: int, at_most: int = 2**31 - 1) -> None:
        """``value`` must be one of ``integers``, and no bool, from ``at_least`` to ``at_most``."""
        if isinstance(value, bool) or not isinstance(value, self.integers):
            hint = "; call .item() on it" if hasattr(value, "item") else f": {reprlib.repr(value)}"
            self.fail(f"{name} must be an int, got {type(value).__name__}{hint}")
        if value < at_least:
            self.fail(f"{name} must be >= {at_least}, got {value}")
        if type(value) is int and value > at_most:  # a symbolic one gets no guard for it
            self.fail(f"{name} must be <= {at_most}, got {value}")

    def sequence(self, value: Any, name: str, at_least: int) -> list[int]:
        """``value`` as a list: it must be a list or a tuple of ints from ``at_least`` on."""
        if not isinstance(value, (list, tuple)):
            self.fail(
                f"{name} must be a list of ints, got {type(value).__name__}: {reprlib.repr(value)}"
            )
        for i, one in enumerate(value):
            self.integer(one, f"{name}[{i}]", at_least)
        return list(value)

    def instance(self, value: Any, kind: type, name: str) -> None:
        if not isinstance(value, kind):
            got = f"{type(value).__name__}: {reprlib.repr(value)}"
            self.fail(f"{name} must be a {kind.__name__}, got {got}")

    def names(self, value: Any, name: str) -> None:
        """``value`` must be a list or a tuple of distinct strings."""
        plain = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
        if not plain or len(set(value)) != len(value):
            self.fail(f"{name} must be a list of distinct names, got {value!r}")

    def boolean(self, value: Any, name: str) -> None:
        if not isinstance(value, bool):
            self.fail(f"{name} must be True or False, got {reprlib.repr(value)}")

    def number(self, value: Any, name: str) -> None:
        """``value`` must be a finite number, of any type that ``float`` takes but for text."""
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            self.fail(f"{name} must be a number, got {type(value).__name__}: {reprlib.repr(value)}")
        if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
            self.fail(f"{name} must be a finite number, got {value}")
