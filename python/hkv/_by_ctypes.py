"""The tables of libhkv.so by ctypes, for every CPython: what ``_hkv.pyi`` describes.

csrc/hkv/binding/c_api.h says what a call is: 64-bit words, packed here into bytes. That costs less
than ctypes' own conversion of arguments, and nobody else can write to them while the call runs
without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "DeviceMemory",
    "Event",
    "Options",
    "Predicate",
    "Table",
    "create",
    "device_count",
    "from_dlpack",
    "synchronize_stream",
    "to_dlpack",
]


def _python_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python itself, called with the interpreter's lock."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_here = _python_function("PyInterpreterState_Get", ctypes.c_void_p)
_main = _python_function("PyInterpreterState_Main", ctypes.c_void_p)
if _here() != _main():
    raise ImportError("hkv: only the main interpreter can import it, a sub-interpreter cannot")

LIBRARY = Path(__file__).with_name("libhkv.so")
_library = ctypes.CDLL(str(LIBRARY))
_library.hkv_error.restype = ctypes.c_char_p
_ERRORS = {1: ValueError, 2: RuntimeError, 3: MemoryError}


def _fail(status: int) -> NoReturn:
    raise _ERRORS[status](_library.hkv_error().decode(errors="surrogateescape"))


class _Call(ctypes.Structure):
    """HkvCall."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("words", ctypes.c_int32),
        ("returns", ctypes.c_int32),
        ("method", ctypes.c_int32),
        ("call", ctypes.c_void_p),
    )


def _function(entry: _Call) -> Callable[..., Any]:
    """The call. Its arguments are integers, or have ``__index__``, as everything here has."""
    name, words, is_text = entry.name.decode(), entry.words, entry.returns == 2
    call = ctypes.CFUNCTYPE(ctypes.c_int32)(entry.call)
    pack = struct.Struct(f"{words}Q").pack

    def bad(error: struct.error) -> TypeError:
        return TypeError(f"hkv: {name} takes {words} sizes and addresses: {error}")

    def without_result(*arguments: Any) -> None:
        try:
            packed = pack(*arguments)
        except struct.error as error:
            raise bad(error) from None
        if status := call(packed):
            _fail(status)

    def with_result(*arguments: Any) -> Any:
        try:
            packed = ctypes.create_string_buffer(pack(*arguments), 8 * words)
        except struct.error as error:
            raise bad(error) from None
        if status := call(packed):
            _fail(status)
        (word,) = struct.unpack_from("q", packed)
        return ctypes.string_at(word).decode() if is_text else word

    return with_result if entry.returns else without_result


def _calls() -> tuple[dict[str, Callable[..., Any]], dict[str, Callable[..., Any]]]:
    """The methods of a table, and the other calls."""
    count = ctypes.c_int32()
    _library.hkv_calls.restype = ctypes.POINTER(_Call)
    entries = _library.hkv_calls(ctypes.byref(count))[: count.value]
    methods = {e.name.decode(): _function(e) for e in entries if e.method}
    return methods, {e.name.decode(): _function(e) for e in entries if not e.method}


_methods, _functions = _calls()


class _Text:
    """An HkvText."""

    def __init__(self, text: str | bytes) -> None:
        data = os.fsencode(text)
        self._data = ctypes.create_string_buffer(data, max(1, len(data)))
        packed = struct.pack("2Q", ctypes.addressof(self._data), len(data))
        self._buffer = ctypes.create_string_buffer(packed, 16)

    def __index__(self) -> int:
        return ctypes.addressof(self._buffer)


def _int32(name: str, value: int) -> int:
    """The word of a number that may be negative."""
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"hkv: {name} is {value}; it must fit into 32 bits")
    return value % 2**64


# HashTableOptions of csrc/hkv/types.h, field by field.
_FIELDS = {
    "init_capacity": "Q",
    "max_capacity": "Q",
    "max_hbm_for_vectors": "Q",
    "dim": "I",
    "max_load_factor": "d",
    "device_id": "i",
    "score_policy": "i",
    "passes_from": "Q",
    "api_lock": "?",
    "newcomers": "B",
    "evict_from": "B",
    "allocator_context": "P",
    "allocator_allocate": "P",
    "allocator_free": "P",
}
_LAYOUT = struct.Struct("".join(_FIELDS.values()) + "0Q")


class Options:
    __slots__ = (*_FIELDS, "_buffer")

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(_LAYOUT.size)
        _functions["default_options"](ctypes.addressof(self._buffer), _LAYOUT.size)
        for name, value in zip(_FIELDS, _LAYOUT.unpack(self._buffer), strict=True):
            setattr(self, name, value)

    def __index__(self) -> int:
        for name, code in _FIELDS.items():
            try:
                struct.pack(code, getattr(self, name))
            except struct.error as error:
                raise ValueError(f"hkv: {name} is {getattr(self, name)!r}: {error}") from None
        _LAYOUT.pack_into(self._buffer, 0, *(getattr(self, name) for name in _FIELDS))
        return ctypes.addressof(self._buffer)


class Predicate:
    def __init__(self, key_mask: int, key_pattern: int, score_min: int, score_max: int) -> None:
        numbers = (key_mask, key_pattern, score_min, score_max)
        try:
            self._buffer = ctypes.create_string_buffer(struct.pack("4Q", *numbers), 32)
        except struct.error as error:
            raise TypeError(f"hkv: a predicate has four numbers of 64 bits: {error}") from None

    def __index__(self) -> int:
        return ctypes.addressof(self._buffer)


class Table(int):
    """A table of the library: the value is its address, which it owns."""

    def __init__(self, address: int) -> None:
        self._constant = {name: _methods[name](self) for name in _CONSTANT}

    def __del__(self, destroy: Callable[..., None] = _functions["destroy"]) -> None:
        destroy(self)

    def save(self, path: str | bytes, stream: int) -> int:
        return int(_methods["save"](self, _Text(path), stream))

    def load(self, path: str | bytes, stream: int) -> int:
        return int(_methods["load"](self, _Text(path), stream))


# What never changes is asked for once.
_CONSTANT = ("dim", "device", "engine", "evict_strategy", "key_type", "value_type")


def _complete(table: type[Table]) -> None:
    for name in _CONSTANT:
        setattr(table, name, lambda self, name=name: self._constant[name])
    for name, method in _methods.items():
        if name not in vars(table):
            setattr(table, name, method)


_complete(Table)


def create_address(
    on_device: bool, key: str, value: str, strategy: str, options: Options, num_threads: int
) -> int:
    """The address of a new table, which its caller owns."""
    names = (_Text(name) for name in (key, value, strategy))
    threads = _int32("num_threads", num_threads)
    return int(_functions["create"](on_device, *names, options, _LAYOUT.size, threads))


def create(
    on_device: bool, key: str, value: str, strategy: str, options: Options, num_threads: int
) -> Table:
    return Table(create_address(on_device, key, value, strategy, options, num_threads))


def device_count() -> int:
    return int(_functions["device_count"](0))


def synchronize_stream(stream: int) -> None:
    _functions["synchronize_stream"](stream)


class DeviceMemory:
    __slots__ = ("_handle", "address", "bytes", "device")

    def __init__(self, bytes: int, device: int, stream: int) -> None:
        self._handle = 0
        self._handle = _functions["memory_create"](bytes, _int32("device", device), stream)
        self.address = _functions["memory_address"](self)
        self.bytes, self.device = bytes, device

    def __index__(self) -> int:
        return self._handle

    def __del__(self, destroy: Callable[..., None] = _functions["memory_destroy"]) -> None:
        destroy(self)

    def to_host(self, address: int, stream: int) -> None:
        _functions["memory_to_host"](self, address, stream)

    def from_host(self, address: int, stream: int) -> None:
        _functions["memory_from_host"](self, address, stream)


class Event:
    __slots__ = ("_handle",)

    def __init__(self, device: int, stream: int) -> None:
        self._handle = 0
        self._handle = _functions["event_create"](_int32("device", device), stream)

    def __index__(self) -> int:
        return self._handle

    def __del__(self, destroy: Callable[..., None] = _functions["event_destroy"]) -> None:
        destroy(self)

    def done(self) -> bool:
        return bool(_functions["event_done"](self))


# -- DLPack


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


_READ_ONLY = 1
_is_capsule = _python_function("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_pointer = _python_function(
    "PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p
)
_new_capsule = _python_function(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)
_name_address = _functions["dlpack_name"](0)
_destructor = _functions["dlpack_destructor"](
    *(ctypes.cast(function, ctypes.c_void_p).value for function in (_is_capsule, _pointer))
)


def to_dlpack(memory: DeviceMemory, shape: list[int], code: int, bits: int) -> Any:
    extents = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _functions["memory_to_dlpack"](
        memory, ctypes.addressof(extents), len(shape), code, bits
    )
    return _new_capsule(tensor, _name_address, _destructor)


def from_dlpack(
    capsule: Any,
) -> tuple[int, int, int, int, int, list[int], list[int] | None, bool]:
    read_only = False
    if _is_capsule(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if versioned.major != 1:
            raise TypeError(
                f"hkv: DLPack of major version {versioned.major} is not known; 0 and 1 are"
            )
        read_only = bool(versioned.flags & _READ_ONLY)
        t = versioned.tensor
    elif _is_capsule(capsule, b"dltensor"):
        t = _Managed.from_address(_pointer(capsule, b"dltensor")).tensor
    else:
        raise TypeError("hkv: __dlpack__ returned something that is no DLPack capsule")
    if t.lanes != 1:
        raise TypeError("hkv: DLPack arrays of vector types are not taken")
    shape = t.shape[: t.ndim]
    strides = t.strides[: t.ndim] if t.strides else None
    where = t.data + t.byte_offset
    return where, t.device_type, t.device_id, t.code, t.bits, shape, strides, read_only
