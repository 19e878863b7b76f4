"""Arrays of any library as addresses, by ``__cuda_array_interface__``, DLPack or NumPy's interface.

NumPy has no bfloat16: on the host, bfloat16 values are ``ml_dtypes.bfloat16`` arrays or ``uint16``
arrays of their bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, Union

import numpy as np

from hkv import _checks, _hkv
from hkv._torch import reader

_DL_CPU, _DL_CUDA, _DL_CUDA_HOST = 1, 2, 3
_DL_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float32": 4, "float16": 2, "bfloat16": 2,
}  # fmt: skip
_DL_TYPES = {
    "bool": (6, 8), "uint8": (1, 8), "int32": (0, 32), "uint32": (1, 32), "int64": (0, 64),
    "uint64": (1, 64), "float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16),
}  # fmt: skip


class SupportsDLPack(Protocol):
    """torch, CuPy, JAX, ..."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsCudaArray(Protocol):
    """Numba, CuPy, torch, ..."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class CupyStream(Protocol):
    @property
    def ptr(self) -> int: ...


class TorchStream(Protocol):
    @property
    def cuda_stream(self) -> int: ...


Array: TypeAlias = Union[np.ndarray, "DeviceArray", SupportsDLPack, SupportsCudaArray]
ArrayLike: TypeAlias = Array
Stream: TypeAlias = int | CupyStream | TorchStream | None  # an int is a cudaStream_t


class View(NamedTuple):
    """An array's memory. ``owner`` keeps it alive where the array alone would not."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int  # CUDA ordinal, -1: host
    contiguous: bool
    read_only: bool
    owner: Any = None


class DeviceArray:
    """A result on the GPU, for any library: it has ``__dlpack__`` and (but for bfloat16, which the
    interface lacks) ``__cuda_array_interface__``. ``numpy()`` copies it to the host.

    Its memory is freed in the order of ``stream``, the stream it was made for: an array that a call
    on another stream uses must be kept until that call is done.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: str, device: int, stream: Stream = None
    ) -> None:
        if not isinstance(shape, Sequence) or isinstance(shape, str):
            raise TypeError(f"hkv: shape is {shape!r}; it must be a tuple of integers >= 0")
        self.shape = tuple(_checks.integer("shape", extent) for extent in shape)
        self.dtype = _checks.dtype("dtype", dtype, tuple(_ITEM_BYTES))
        self.device = _checks.integer("device", device, 0, 2**31 - 1)
        self._stream = stream_address(stream)
        self._allocate()

    def _allocate(self) -> None:
        size = math.prod(self.shape) * _ITEM_BYTES[self.dtype]
        self._memory = _hkv.DeviceMemory(size, self.device, self._stream)
        self._address = self._memory.address

    @classmethod
    def _made(cls, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> DeviceArray:
        """What the constructor makes, of arguments that need no check."""
        array = cls.__new__(cls)
        array.shape, array.dtype, array.device, array._stream = shape, dtype, device, stream
        array._allocate()
        return array

    @classmethod
    def of(
        cls,
        array: np.ndarray,
        device: int = 0,
        dtype: str | None = None,
        stream: Stream = None,
    ) -> DeviceArray:
        """A copy of a NumPy array (``dtype="bfloat16"``: of its bits) on the GPU."""
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError("hkv: array is masked; give .filled(...), which says what stands there")
        kind, array = type(array).__name__, np.ascontiguousarray(array)
        if array.dtype.name not in (*_ITEM_BYTES, "uint16"):
            raise TypeError(
                f"hkv: array is a {kind} of dtype {array.dtype.name}; its dtype must be one of "
                f"{', '.join(_ITEM_BYTES)}, or uint16 for the bits of bfloat16"
            )
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        result = cls(array.shape, dtype or array.dtype.name, device, stream)
        if array.nbytes != result._memory.bytes:
            raise ValueError(f"hkv: an array of {array.dtype} does not hold {dtype} values")
        result._memory.from_host(array.ctypes.data, result._stream)
        return result

    @property
    def address(self) -> int:
        """Where its memory begins on the device; 0 if it has none."""
        return self._address

    def numpy(self) -> np.ndarray:
        """A copy on the host (bfloat16: the bits as uint16). Waits for the array's stream."""
        name = "uint16" if self.dtype == "bfloat16" else self.dtype
        result = np.empty(self.shape, np.dtype(name))
        self._memory.to_host(result.ctypes.data, self._stream)
        return result

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype == "bfloat16":
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "version": 3,
            "stream": self._stream or 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DL_CUDA, self.device)

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        if stream != -1 and (stream or 1) != (self._stream or 1):
            _hkv.synchronize_stream(self._stream)
        return _hkv.to_dlpack(self._memory, list(self.shape), *_DL_TYPES[self.dtype])

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device='cuda:{self.device}')"


def stream_address(stream: Stream) -> int:
    """The ``cudaStream_t`` of None (the legacy default stream), an int, or a stream object."""
    if stream is None:
        return 0
    if isinstance(stream, int):
        return _checks.integer("stream", stream)
    for name in ("ptr", "cuda_stream"):
        address = getattr(stream, name, None)
        if isinstance(address, int):
            return address
    raise TypeError(
        f"hkv: stream is a {type(stream).__name__}, {stream!r}; it must be None, an address, or "
        "have .ptr (CuPy) or .cuda_stream (torch)"
    )


@functools.lru_cache(64)
def _dtype_name(dtype: np.dtype) -> str:
    """Its name, which NumPy puts together anew at every question."""
    return str(dtype.name)


def _numpy_view(name: str, array: np.ndarray) -> View:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"hkv: {name} is masked; give .filled(...), which says what stands there")
    if not array.dtype.isnative:
        raise TypeError(
            f"hkv: {name} has dtype {array.dtype.str}; its bytes must be in the machine's order: "
            "give .astype(x.dtype.newbyteorder('='))"
        )
    flags = array.flags
    return View(
        array.ctypes.data, array.shape, _dtype_name(array.dtype), -1, flags.c_contiguous,
        not flags.writeable,
    )  # fmt: skip


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, item: int) -> bool:
    if strides is None or 0 in shape:
        return True
    expected = item
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def _cuda_interface_view(name: str, array: Any, interface: dict[str, Any], stream: int) -> View:
    shape = tuple(interface["shape"])
    dtype = np.dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise TypeError(f"hkv: {name} is masked; the table has no place for masks")
    if not dtype.isnative:
        raise TypeError(f"hkv: {name} has dtype {dtype.str}, not the machine's byte order")
    producer = interface.get("stream")
    if producer is not None and producer != (stream or 1):
        _hkv.synchronize_stream(0 if producer == 1 else producer)
    address, read_only = interface["data"]
    ordinal = 0
    if hasattr(array, "__dlpack_device__"):
        ordinal = int(array.__dlpack_device__()[1])
    contiguous = _is_contiguous(shape, interface.get("strides"), dtype.itemsize)
    return View(address, shape, dtype.name, ordinal, contiguous, read_only)


def _refuse_lazy(name: str, array: Any) -> None:
    """Tensors of torch whose memory does not hold what they stand for."""
    if getattr(array, "requires_grad", False) is True:
        raise TypeError(f"hkv: {name} requires grad; give .detach(), the table has no gradients")
    for bit, mend in (("is_neg", "resolve_neg"), ("is_conj", "resolve_conj")):
        asked = getattr(array, bit, None)
        if callable(asked) and asked() is True:
            raise TypeError(f"hkv: {name} has its {bit} bit set; give .{mend}()")


def _dlpack_view(name: str, array: Any, stream: int) -> View:
    _refuse_lazy(name, array)
    try:
        kind, _ = array.__dlpack_device__()
        options: dict[str, Any] = {"stream": stream or 1} if kind == _DL_CUDA else {}
        try:
            capsule = array.__dlpack__(max_version=(1, 0), **options)
        except TypeError:  # a library that knows DLPack before version 1 only
            capsule = array.__dlpack__(**options)
    except Exception as error:
        raise TypeError(
            f"hkv: {name} is a {type(array).__name__} that DLPack cannot hand over ({error}); "
            "it must be a dense array on the table's device"
        ) from error
    address, device_type, device_id, code, bits, shape, strides, read_only = _hkv.from_dlpack(
        capsule
    )
    if int(device_type) not in (_DL_CPU, _DL_CUDA, _DL_CUDA_HOST):
        raise TypeError(
            f"hkv: {name} is on DLPack device type {device_type}, neither host nor CUDA"
        )
    dtype = "bool" if code == 6 else f"{_DL_CODES.get(code, 'type')}{bits}"
    return View(
        address,
        tuple(shape),
        dtype,
        device_id if device_type == _DL_CUDA else -1,
        _is_contiguous(tuple(shape), None if strides is None else tuple(strides), 1),
        read_only,
        capsule,
    )


def view(name: str, array: ArrayLike, stream: int = 0) -> View:
    """The memory of ``array``; TypeError names the argument when it has no known interface."""
    if isinstance(array, np.ndarray):
        return _numpy_view(name, array)
    if isinstance(array, DeviceArray):
        return View(array.address, array.shape, array.dtype, array.device, True, False)
    reader.meet(array)
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _dlpack_view(name, array, stream)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _cuda_interface_view(name, array, interface, stream)
    raise TypeError(
        f"hkv: {name} is a {type(array).__name__}; it must be an array with DLPack, "
        "__cuda_array_interface__ or a NumPy array"
    )
