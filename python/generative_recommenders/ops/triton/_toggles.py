"""Switches of Meta's package between kernels of which there is one here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def toggle(
    name: str, initial: bool | None, why: str
) -> tuple[Callable[[Any], None], Callable[[], Any]]:
    """``set_<name>`` and ``get_<name>``, which keep a value that nobody asks for."""
    kept: list[Any] = [initial]

    def set_value(value: Any) -> None:
        kept[0] = value

    def get_value() -> Any:
        return kept[0]

    set_value.__name__, get_value.__name__ = f"set_{name}", f"get_{name}"
    set_value.__doc__ = f"Does nothing: {why}."
    get_value.__doc__ = f"What ``set_{name}`` was given last, at first {initial}."
    return set_value, get_value
