"""Calls as values: the structs of csrc/hkv/calls.h, packed field by field."""

from __future__ import annotations

import ctypes
import enum
import struct
from functools import cache

POLICIES = ("default", "constant", "assign", "accumulate", "clock")
NEWCOMERS = ("by_score", "always")
EVICT_FROM = ("both", "home")


class Mode(enum.IntEnum):
    """WriteMode."""

    INSERT_OR_ASSIGN = 0
    INSERT_AND_EVICT = 1
    FIND_OR_INSERT = 2
    ACCUM_OR_ASSIGN = 3
    ASSIGN = 4
    FIND_AND_UPDATE = 5
    ERASE = 6
    UNLOCK_ROWS = 10


_READ = struct.Struct("PQ9PQ")
_WRITE = struct.Struct("Pi3?Q13PiQP")
_EXPORT = struct.Struct("2P6Q4PQ")
_ROWS = struct.Struct("2P3Q")


class Packed:
    """A struct in memory; as an integer it is its address. ``size`` is that of the struct."""

    __slots__ = ("_buffer", "_kept", "size")

    def __init__(self, layout: struct.Struct, *fields: int, kept: object = None) -> None:
        self.size = layout.size
        self._buffer = ctypes.create_string_buffer(layout.pack(*fields), layout.size)
        self._kept = kept

    def __index__(self) -> int:
        return ctypes.addressof(self._buffer)


@cache
def _name(name: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(name.encode())


def read(
    name: str, n: int, keys: int, *, values: int = 0, rows: int = 0, founds: int = 0,
    scores: int = 0, row_numbers: int = 0, pitch: int = 0,
) -> Packed:  # fmt: skip
    """Read. Arrays are addresses, 0: none."""
    return Packed(
        _READ, ctypes.addressof(_name(name)), n, keys, values, rows, founds, scores, 0, 0, 0,
        row_numbers, pitch,
    )  # fmt: skip


def write(
    mode: Mode, n: int, keys: int, *, name: str = "", verbatim: bool = False, pin: bool = False,
    scores: int = 0, values: int = 0, accums: int = 0, rows: int = 0, founds: int = 0,
    status: int = 0, evicted: tuple[int, int, int, int] = (0, 0, 0, 0), row_numbers: int = 0,
    policy: int = 0, pitch: int = 0,
) -> Packed:  # fmt: skip
    """Write; ``evicted``: keys, values, scores, count; ``name``: for errors, if not the mode's."""
    return Packed(
        _WRITE, ctypes.addressof(_name(name or mode.name.lower())), mode, verbatim, True, pin, n,
        keys, scores, values, accums, rows, founds, 0, status, *evicted, row_numbers, policy, pitch,
        0,
    )  # fmt: skip


class Segments(Packed):
    """Segments; the offsets are set for each call."""

    __slots__ = ("_tables",)

    def __init__(self, tables: list[int]) -> None:
        self._tables = (ctypes.c_uint64 * len(tables))(*tables)
        super().__init__(struct.Struct("Q2P"), len(tables), ctypes.addressof(self._tables), 0)

    def at(self, offsets: int) -> Segments:
        struct.pack_into("P", self._buffer, 16, offsets)
        return self


def export(
    begin: list[int], end: list[int], predicate: tuple[int, int, int, int], keys: int, values: int,
    scores: int, count: int, pitch: int,
) -> Packed:  # fmt: skip
    """SegmentsExport."""
    ranges = [(ctypes.c_uint64 * len(numbers))(*numbers) for numbers in (begin, end)]
    return Packed(
        _EXPORT, *(ctypes.addressof(numbers) for numbers in ranges), 0, 0, *predicate, keys, values,
        scores, count, pitch, kept=ranges,
    )  # fmt: skip


class RowsView(Packed):
    """RowsView, to be filled."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_ROWS, 0, 0, 0, 0, 0)

    def fields(self) -> tuple[int, ...]:
        return _ROWS.unpack(self._buffer.raw[: self.size])
