"""Memory of a GPU table from Python: a caller's allocator, or PyTorch's."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any, Protocol

_KINDS = ("device", "pinned_host")
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64)


class Allocator(Protocol):
    """Gives a GPU table its memory, a few pieces of it for the table's whole life.

    ``kind`` is "device" (of the table's device, aligned to 256 bytes) or "pinned_host". They are
    called by whichever thread uses the table, with its device as the current one for CUDA.
    """

    def allocate(self, size: int, kind: str) -> int:
        """The address of ``size`` bytes that no work in flight uses; 0 (or an exception, which is
        printed): there are none, and the call that asked raises RuntimeError."""

    def free(self, address: int, size: int, kind: str) -> None:
        """Takes them back; the device has done all that uses them."""


class TorchAllocator:
    """The memory of torch.empty, which counts in PyTorch's statistics and comes from its cache."""

    def __init__(self, device: int) -> None:
        import torch

        self._torch, self._device = torch, f"cuda:{device}"
        self._tensors: dict[int, Any] = {}

    def allocate(self, size: int, kind: str) -> int:
        torch = self._torch
        where = {"device": self._device} if kind == "device" else {"pin_memory": True}
        try:
            tensor = torch.empty(size, dtype=torch.uint8, **where)
        except RuntimeError:  # torch.OutOfMemoryError is one
            return 0
        torch.cuda.synchronize(self._device)  # what used it before may still run on some stream
        self._tensors[tensor.data_ptr()] = tensor
        return int(tensor.data_ptr())

    def free(self, address: int, size: int, kind: str) -> None:
        del self._tensors[address]


class _Lent:
    """An allocator of one table and how many pieces it has out."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.pieces = 0


_numbers = itertools.count(1)
_lent: dict[int, _Lent] = {}  # by the context of csrc/hkv/allocator.h


def _allocate(context: int, kind: int, size: int, lent: dict[int, _Lent] = _lent) -> int:
    entry = lent[context]
    address = entry.allocator.allocate(size, _KINDS[kind])
    entry.pieces += address != 0
    return address


def _free(context: int, kind: int, address: int, size: int, lent: dict[int, _Lent] = _lent) -> None:
    entry = lent[context]
    entry.allocator.free(address, size, _KINDS[kind])
    entry.pieces -= 1
    if entry.pieces == 0:  # a table has some for as long as it lives
        del lent[context]


_functions = {"allocate": _ALLOCATE(_allocate), "free": _FREE(_free)}
for _function in _functions.values():  # tables outlive this module at the end of the process
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_function))


def lend(options: Any, allocator: Allocator) -> int:
    """Puts ``allocator`` into the options of one new table. Returns what ``take_back`` needs."""
    context = next(_numbers)
    _lent[context] = _Lent(allocator)
    options.allocator_context = context
    for name, function in _functions.items():
        setattr(options, f"allocator_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return context


def take_back(context: int) -> None:
    """The table was not made."""
    _lent.pop(context, None)
