"""Tensors of torch without DLPack, which costs more host time than a whole call may."""

from __future__ import annotations

import sys
from typing import Any

_NAMES = ("bool", "uint8", "int32", "int64", "uint64", "float32", "float16", "bfloat16")
_FLOATS = frozenset(_NAMES[-3:])


dtypes: dict[str, Any] = {}  # of torch, once a tensor was met


class Reader:
    """Knows at once whether a tensor is what a call wants. ``tensor`` is torch.Tensor once one was
    met: torch is never imported here."""

    def __init__(self) -> None:
        self.tensor: type | None = None
        self._raw_stream: Any = None

    def meet(self, array: object) -> None:
        """``array`` is of a type that is not known yet."""
        torch = sys.modules.get("torch")
        if self.tensor is None and torch is not None and type(array) is torch.Tensor:
            dtypes.update((n, getattr(torch, n)) for n in _NAMES if hasattr(torch, n))
            self._raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
            self.tensor = torch.Tensor

    def in_order(self, device: int, stream: int) -> bool:
        """Whether the call comes on torch's current stream: then a tensor is ready for it, and
        stays until it has ended, as with any op of torch."""
        return device < 0 or (self._raw_stream is not None and self._raw_stream(device) == stream)


def address(t: Any, dtype: str, shape: tuple[int, ...] | None, device: int) -> int:
    """Where a dense tensor lies that is just so (shape None: of one dimension); else -1."""
    try:
        if (
            t.dtype is dtypes.get(dtype)
            and (t.shape == shape if shape is not None else t.dim() == 1)
            and t.is_contiguous()
            and (t.is_cpu if device < 0 else t.is_cuda and t.get_device() == device)
            and (dtype not in _FLOATS or not (t.requires_grad or t.is_neg()))
        ):
            return t.data_ptr()  # type: ignore[no-any-return]
    except RuntimeError:  # sparse, nested, a transform's
        pass
    return -1


reader = Reader()
