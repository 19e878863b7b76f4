"""The arrays of one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from hkv import _hkv
from hkv._arrays import Array, ArrayLike, DeviceArray, Stream, View, stream_address, view
from hkv._torch import address, reader

_ALIASES = {"bfloat16": ("bfloat16", "uint16")}


class Place:
    """Where a table's arrays are, what they hold, and what its calls still use."""

    def __init__(self, device: int, dim: int, key_dtype: str, value_dtype: str) -> None:
        self.device = device
        self.dim = dim
        self.key_dtype = key_dtype
        self.value_dtype = value_dtype
        self.pending: deque[tuple[_hkv.Event, list[Any]]] = deque()

    @property
    def name(self) -> str:
        return "cpu" if self.device < 0 else f"cuda:{self.device}"


class Batch:
    """``n`` keys and a stream; turns the call's other arrays into addresses, and keeps what stands
    for them alive until the call has ended, on the device too."""

    __slots__ = ("_owners", "_place", "_tensor", "keys", "n", "stream")

    def __init__(self, place: Place, keys: ArrayLike, stream: Stream) -> None:
        self._start(place, stream)
        self._take("keys", keys, place.key_dtype)

    def _take(self, name: str, array: Any, dtype: str) -> None:
        self.keys = self._at_once(array, dtype, None)
        if self.keys >= 0:
            self.n = array.shape[0]
            return
        v = view(name, array, self.stream)
        if len(v.shape) != 1:
            raise ValueError(f"hkv: {name} has shape {v.shape}; it must have one dimension")
        self.n = v.shape[0]
        self.keys = self._checked(name, v, dtype, v.shape, False)

    def _start(self, place: Place, stream: Stream) -> None:
        self._place = place
        self._owners: list[Any] = []
        self.stream = 0 if stream is None else stream_address(stream)
        self._tensor: type | None = None
        if reader.tensor is not None and reader.in_order(place.device, self.stream):
            self._tensor = reader.tensor

    def _at_once(self, array: Any, dtype: str, shape: tuple[int, ...] | None) -> int:
        """The address of an array that is what is asked for, if that is seen quickly; else -1."""
        kind = type(array)
        if kind is self._tensor:
            return address(array, dtype, shape, self._place.device)
        if (
            kind is DeviceArray
            and array.dtype == dtype
            and array.device == self._place.device
            and (array.shape == shape if shape is not None else len(array.shape) == 1)
        ):
            return int(array._address)
        return -1

    @classmethod
    def without_keys(cls, place: Place, n: int, stream: Stream) -> Batch:
        """Of a call that returns n rows."""
        batch = cls.__new__(cls)
        batch._start(place, stream)
        batch.n, batch.keys = n, 0
        return batch

    @classmethod
    def of(cls, place: Place, name: str, array: ArrayLike, dtype: str, stream: Stream) -> Batch:
        """Of a call that takes something else in the place of keys."""
        batch = cls.__new__(cls)
        batch._start(place, stream)
        batch._take(name, array, dtype)
        return batch

    def _address(
        self, name: str, array: ArrayLike, dtype: str, shape: tuple[int, ...], writes: bool
    ) -> int:  # fmt: skip
        at = self._at_once(array, dtype, shape)
        if at >= 0:
            return at
        return self._checked(name, view(name, array, self.stream), dtype, shape, writes)

    def _checked(
        self, name: str, v: View, dtype: str, shape: tuple[int, ...], writes: bool
    ) -> int:  # fmt: skip
        if v.device != self._place.device:
            where = "the host" if v.device < 0 else f"cuda:{v.device}"
            raise ValueError(f"hkv: {name} is on {where}; the table is on {self._place.name}")
        if v.dtype != dtype and v.dtype not in _ALIASES.get(dtype, ()):
            raise TypeError(f"hkv: {name} has dtype {v.dtype}; it must be {dtype}")
        if v.shape != shape:
            raise ValueError(f"hkv: {name} has shape {v.shape}; it must be {shape}")
        if not v.contiguous:
            raise ValueError(f"hkv: {name} is not contiguous (C order)")
        if writes and v.read_only:
            raise ValueError(f"hkv: {name} is read-only; the call writes it")
        if v.owner is not None:
            self._owners.append(v.owner)
        return v.address

    def input(self, name: str, array: ArrayLike | None, dtype: str = "uint64") -> int:
        """The address of an array of (n,) that is read; None has 0."""
        return 0 if array is None else self.input_of(name, array, dtype, (self.n,))

    def input_of(self, name: str, array: ArrayLike, dtype: str, shape: tuple[int, ...]) -> int:
        return self._address(name, array, dtype, shape, False)

    def input_rows(self, name: str, array: ArrayLike, writes: bool = False) -> int:
        place = self._place
        return self._address(name, array, place.value_dtype, (self.n, place.dim), writes)

    def output(
        self, name: str, array: ArrayLike | None, dtype: str, shape: tuple[int, ...] | None = None
    ) -> tuple[Array, int]:
        """An array of (n,) or ``shape`` that is written, a new one of zeros for None."""
        shape = (self.n,) if shape is None else shape
        if array is not None:
            return array, self._address(name, array, dtype, shape, True)
        if self._place.device < 0:
            made = np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)
            return made, made.ctypes.data
        result = DeviceArray._made(shape, dtype, self._place.device, self.stream)
        return result, result._address

    def output_rows(self, name: str, array: ArrayLike | None = None) -> tuple[Array, int]:
        place = self._place
        shape = (self.n, place.dim)
        if array is None:
            return self.output(name, None, place.value_dtype, shape)
        return array, self._address(name, array, place.value_dtype, shape, True)

    def scores_out(self, scores: ArrayLike | None) -> int:
        return 0 if scores is None else self.output("scores", scores, "uint64")[1]

    def cut(self, count: Array, *arrays: Array) -> tuple[Array, ...]:
        """The host's arrays end where what was listed ends."""
        if isinstance(count, np.ndarray):
            return tuple(a[: int(count[0])] for a in arrays if isinstance(a, np.ndarray))
        return arrays

    def call(self, method: Callable[..., None], *arguments: int) -> None:
        """method(n, keys, *arguments, stream)"""
        method(self.n, self.keys, *arguments, self.stream)
        if self._owners:
            self.done()

    def done(self) -> None:
        """The call is on its way."""
        if self._place.device < 0 or not self._owners:
            return
        pending = self._place.pending
        pending.append((_hkv.Event(self._place.device, self.stream), self._owners))
        for _ in range(len(pending)):  # other threads append and pop, too
            try:
                oldest = pending.popleft()
            except IndexError:
                return
            if not oldest[0].done():
                pending.appendleft(oldest)
                return
