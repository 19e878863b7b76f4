"""Arrays of any library as addresses, by ``__cuda_array_interface__``, DLPack or NumPy's interface.

NumPy has no bfloat16: on the host, bfloat16 values are ``ml_dtypes.bfloat16`` arrays or ``uint16``
arrays of their bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hkv import _hkv

ArrayLike: TypeAlias = Any  # NumPy, CuPy, JAX, torch, ...: what has one of the interfaces above
Stream: TypeAlias = Any  # None, an address, or an object with .ptr or .cuda_stream

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


class View(NamedTuple):
    """An array's memory. ``owner`` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int  # CUDA ordinal, -1: host
    contiguous: bool
    read_only: bool
    owner: Any


class DeviceArray:
    """A result on the GPU, for any library: it has ``__dlpack__`` and (but for bfloat16, which the
    interface lacks) ``__cuda_array_interface__``. ``numpy()`` copies it to the host.

    Its memory is freed in the order of ``stream``, the stream it was made for: an array that a call
    on another stream uses must be kept until that call is done.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: str, device: int, stream: Stream = None
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self._stream = stream_address(stream)
        size = int(np.prod(self.shape, dtype=np.int64)) * _ITEM_BYTES[dtype]
        self._memory = _hkv.DeviceMemory(size, device, self._stream)

    @classmethod
    def of(
        cls,
        array: np.ndarray,
        device: int = 0,
        dtype: str | None = None,
        stream: Stream = None,
    ) -> DeviceArray:
        """A copy of a NumPy array (``dtype="bfloat16"``: of its bits) on the GPU."""
        array = np.ascontiguousarray(array)
        result = cls(array.shape, dtype or array.dtype.name, device, stream)
        if array.nbytes != result._memory.bytes:
            raise ValueError(f"hkv: an array of {array.dtype} does not hold {dtype} values")
        result._memory.from_host(array.ctypes.data, result._stream)
        return result

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
            "data": (self._memory.address, False),
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
        return stream
    for name in ("ptr", "cuda_stream"):
        address = getattr(stream, name, None)
        if isinstance(address, int):
            return address
    raise TypeError(
        f"hkv: stream is a {type(stream).__name__}; it must be None, an address, or have .ptr "
        "(CuPy) or .cuda_stream (torch)"
    )


def _numpy_view(array: np.ndarray) -> View:
    dtype = "bfloat16" if array.dtype.name == "bfloat16" else array.dtype.name
    return View(
        array.ctypes.data,
        array.shape,
        dtype,
        -1,
        array.flags.c_contiguous,
        not array.flags.writeable,
        array,
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, item: int) -> bool:
    if strides is None or 0 in shape:
        return True
    expected = item
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def _cuda_interface_view(array: Any, interface: dict[str, Any], stream: int) -> View:
    shape = tuple(interface["shape"])
    dtype = np.dtype(interface["typestr"])
    producer = interface.get("stream")
    if producer is not None and producer != (stream or 1):
        _hkv.synchronize_stream(0 if producer == 1 else producer)
    address, read_only = interface["data"]
    ordinal = 0
    if hasattr(array, "__dlpack_device__"):
        ordinal = int(array.__dlpack_device__()[1])
    return View(
        address,
        shape,
        dtype.name,
        ordinal,
        _is_contiguous(shape, interface.get("strides"), dtype.itemsize),
        read_only,
        array,
    )


def _dlpack_view(array: Any, stream: int) -> View:
    kind, _ = array.__dlpack_device__()
    capsule = array.__dlpack__(stream=stream or 1) if kind == _DL_CUDA else array.__dlpack__()
    address, device_type, device_id, code, bits, shape, strides = _hkv.from_dlpack(capsule)
    if int(device_type) not in (_DL_CPU, _DL_CUDA, _DL_CUDA_HOST):
        raise TypeError(f"hkv: DLPack device type {device_type} is neither host nor CUDA memory")
    dtype = "bool" if code == 6 else f"{_DL_CODES.get(code, 'type')}{bits}"
    return View(
        address,
        tuple(shape),
        dtype,
        device_id if device_type == _DL_CUDA else -1,
        _is_contiguous(tuple(shape), None if strides is None else tuple(strides), 1),
        False,
        (array, capsule),
    )


def view(name: str, array: ArrayLike, stream: int = 0) -> View:
    """The memory of ``array``; TypeError names the argument when it has no known interface."""
    if isinstance(array, np.ndarray):
        return _numpy_view(array)
    if isinstance(array, DeviceArray):
        address = array._memory.address
        return View(address, array.shape, array.dtype, array.device, True, False, array)
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _dlpack_view(array, stream)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _cuda_interface_view(array, interface, stream)
    raise TypeError(
        f"hkv: {name} is a {type(array).__name__}; it must be an array with DLPack, "
        "__cuda_array_interface__ or a NumPy array"
    )
