"""Importing this refuses a sub-interpreter, in which PyTorch, NumPy and pybind11 hang or crash."""

from __future__ import annotations

from importlib import import_module


def _is_main() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # CPython 3.13 and later, before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


if not _is_main():
    raise ImportError(
        f"{__name__.partition('.')[0]} is being imported in a sub-interpreter; it must be imported "
        "in the main one (mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    )
