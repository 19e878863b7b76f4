"""The two ways from Python to libhkv.so: one wheel serves every CPython."""

from __future__ import annotations

import ctypes
import os
import shutil
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import hkv
import numpy as np
import pytest
from hkv import _by_ctypes, _hkv

from tests.common.processes import python

PACKAGE = Path(hkv.__file__).parent
SMALL = """
import hkv, numpy as np
table = hkv.HashTable(10, 2, device="cpu")
table.insert_or_assign(np.array([7], np.int64), np.ones((1, 2), np.float32))
print(hkv._hkv.binding, table.find(np.array([7, 8], np.int64))[1].tolist())
"""


def test_the_binding_is_the_one_that_was_asked_for_or_that_fits() -> None:
    compiled = any((PACKAGE / f"_by_pybind11{s}").is_file() for s in EXTENSION_SUFFIXES)
    assert _hkv.binding == os.environ.get("HKV_BINDING", "pybind11" if compiled else "ctypes")


def test_an_unknown_binding_is_named() -> None:
    done = python("-c", "import hkv", HKV_BINDING="cffi")
    assert "HKV_BINDING is 'cffi'; it must be ctypes or pybind11" in done.stderr


def test_without_a_module_for_this_cpython_the_package_works(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "hkv", ignore=shutil.ignore_patterns("_by_pybind11*"))
    done = python("-c", SMALL, first=tmp_path, HKV_BINDING="")
    assert done.stdout == "ctypes [True, False]\n", done.stderr


def test_the_wheel_is_for_every_cpython() -> None:
    wheel = metadata.distribution("hkv").read_text("WHEEL")
    assert wheel is not None and "Tag: py3-none-manylinux_2_28_x86_64\n" in wheel
    assert "Root-Is-Purelib: false\n" in wheel


def test_both_bindings_raise_the_same_errors() -> None:
    table = hkv.HashTable(10, 4, device="cpu").native
    keys = np.array([1], np.int64)
    with pytest.raises(ValueError, match="hkv: find: keys is null"):
        table.find(1, 0, 0, 0, 0, 0)
    with pytest.raises(RuntimeError, match="cannot be opened"):
        table.load("/nowhere/table", 0)
    for wrong in (-1, 2**64, "1", None):
        with pytest.raises(TypeError):
            table.contains(wrong, keys.ctypes.data, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        table.contains(1, 0, 0)  # type: ignore[call-arg]


def test_options_of_another_layout_are_refused() -> None:
    size = _by_ctypes._LAYOUT.size
    place = ctypes.create_string_buffer(size)
    with pytest.raises(ValueError, match=f"options have 3 bytes, not {size}"):
        _by_ctypes._functions["default_options"](ctypes.addressof(place), 3)


def test_numbers_that_an_option_cannot_hold_are_named() -> None:
    for name, value in (("dim", 2**32), ("capacity", 2**64), ("num_threads", 2**31)):
        options = {"capacity": 10, "dim": 4, "device": "cpu", name: value}
        with pytest.raises((ValueError, TypeError), match=name):
            hkv.HashTable(**options)  # type: ignore[arg-type]
