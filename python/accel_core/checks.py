"""Argument checks that need no PyTorch: every error names the argument, its value, what is allowed.

Each package makes one ``Checks("its name")``, which every message begins with.
"""

from __future__ import annotations

from typing import Any, NoReturn


class Checks:
    """Checks of plain arguments, for one package."""

    integers: tuple[Any, ...] = (int,)

    def __init__(self, package: str) -> None:
        self.package = package

    def fail(self, message: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"{self.package}: {message}")

    def integer(self, value: Any, name: str, at_least: int) -> None:
        """``value`` must be one of ``integers`` that is not below ``at_least``."""
        if not isinstance(value, self.integers):
            hint = "; call .item() on it" if hasattr(value, "item") else ""
            self.fail(f"{name} must be an int, got {type(value).__name__}{hint}")
        if value < at_least:
            self.fail(f"{name} must be >= {at_least}, got {value}")
