"""Checks of tensors: dtype, device, shape, strides. They cost nothing and can be compiled.

Messages are put together on failure alone: a size in an f-string would become a constant of
compiled code.
"""

from __future__ import annotations

import itertools
import reprlib
from typing import Any

import torch
from torch import Tensor

from .checks import Checks


def shape_text(t: Tensor) -> str:
    return str(tuple(t.shape))


class TensorChecks(Checks):
    """Checks of the tensors of one package; ``like`` is the tensor that the others must match."""

    integers = (int, torch.SymInt)

    def number(self, value: Any, name: str) -> None:
        if not torch.compiler.is_compiling():  # a symbolic one is left to the op
            super().number(value, name)

    def torch_device(self, value: Any, name: str) -> torch.device:
        """``value`` as a device of the CPU or a CUDA GPU."""
        try:
            device = torch.device(value) if isinstance(value, (str, torch.device)) else None
        except (RuntimeError, ValueError):
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            self.fail(f"{name} must be cpu, cuda or cuda:N, got {value!r}")
        return device

    def tensor(self, t: object, name: str) -> None:
        if not isinstance(t, Tensor):
            self.fail(f"{name} must be a tensor, got {type(t).__name__}: {reprlib.repr(t)}")
        if t.layout != torch.strided or t.is_nested:
            kind = "a nested tensor" if t.is_nested else f"one of layout {t.layout}"
            self.fail(f"{name} must be a dense tensor, got {kind}")

    def device(self, t: Tensor, name: str, like: Tensor, of: str) -> None:
        if t.device != like.device:
            self.fail(
                f"{name} is on {t.device}, but {of} is on {like.device}: they must be on one device"
            )

    def last_stride(self, t: Tensor, name: str, hint: str = "") -> None:
        if t.stride(t.dim() - 1) != 1:
            self.fail(f"{name} must have last stride 1, got strides {tuple(t.stride())}{hint}")

    def like(self, t: Tensor, name: str, like: Tensor, of: str) -> None:
        """A tensor with the dtype and the device of ``like``, which is called ``of``."""
        self.tensor(t, name)
        if t.dtype != like.dtype:
            self.fail(f"{name} is {t.dtype}, but {of} is {like.dtype}: they must agree")
        self.device(t, name, like, of)

    def int32(self, t: Tensor, name: str, like: Tensor, of: str) -> None:
        """An int32 tensor on the device of ``like``."""
        self.tensor(t, name)
        if t.dtype != torch.int32:
            self.fail(f"{name} must be int32, got {t.dtype}")
        self.device(t, name, like, of)

    def index(
        self, t: Tensor, name: str, size: int | None, meaning: str, like: Tensor, of: str
    ) -> None:
        """A 1-D contiguous int32 tensor of ``size`` elements (None: any); ``meaning`` is its shape
        in words."""
        self.int32(t, name, like, of)
        if t.dim() != 1 or (size is not None and t.shape[0] != size):
            needed = "" if size is None else f" = ({size},)"
            self.fail(f"{name} must have shape {meaning}{needed}, got {shape_text(t)}")
        if not t.is_contiguous():
            self.fail(f"{name} must be contiguous, got strides {t.stride()}")

    def prefix_sums(self, starts: list[int], name: str, total: int, of: str) -> list[int]:
        """The lengths behind prefix sums that start at 0, do not fall and end within ``total``."""
        if starts[0] != 0:
            self.fail(f"{name} must start at 0, got {starts[0]}")
        lengths = [b - a for a, b in itertools.pairwise(starts)]
        for b, length in enumerate(lengths):
            if length < 0:
                self.fail(
                    f"{name} must not decrease, got {name}[{b}] = {starts[b]} > "
                    f"{name}[{b + 1}] = {starts[b + 1]}"
                )
        if starts[-1] > total:
            self.fail(f"{name} must end within the {total} {of}, got {name}[-1] = {starts[-1]}")
        return lengths
