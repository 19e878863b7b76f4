"""How kernels are launched here: the device, Triton's interpreter, what follows from them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from generative_recommenders._checks import CHECKS

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def on_gpu(t: Tensor, name: str) -> None:
    """Kernels need a GPU, or Triton's interpreter."""
    if not t.is_cuda and not INTERPRETED:
        CHECKS.fail(f"{name} is on {t.device}: TRITON needs a GPU; PYTORCH runs there")


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def capability(t: Tensor) -> tuple[int, int]:
    """The compute capability of the GPU of ``t``; (0, 0) where it is not on an NVIDIA GPU."""
    if not t.is_cuda or torch.version.hip is not None:
        return (0, 0)
    return _capability(t.device.index)


@functools.cache
def _name(index: int) -> str:
    return torch.cuda.get_device_name(index)


def gpu_name(t: Tensor) -> str:
    """Of the GPU of ``t``; "" where it is not on one."""
    return _name(t.device.index) if t.is_cuda else ""


@functools.cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def processors(t: Tensor) -> int:
    """Multiprocessors of the GPU of ``t``; 2 for the interpreter."""
    return _processors(t.device.index) if t.is_cuda else 2


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device="cuda")


def descriptors(*tensors: Tensor) -> bool:
    """Whether tensors of 16 bits or more, rows without gaps, can be read by descriptors here: the
    GPU has them, and all rows begin at multiples of 16 bytes. If so, Triton gets its memory."""
    if not INTERPRETED and capability(tensors[0])[0] < 9:
        return False
    for t in tensors:
        size = t.element_size()
        aligned = [t.data_ptr(), *(s * size for s in t.stride()[:-1])]
        if any(n % 16 for n in aligned) or t.shape[-1] * size < 16:
            return False
    if not INTERPRETED:
        triton.set_allocator(_scratch)
    return True


def on_nvidia(t: Tensor) -> bool:
    """Whether kernels may have instructions of an NVIDIA GPU."""
    return capability(t) >= (7, 5)


def fast_tanh(t: Tensor) -> bool:
    """Whether the GPU has tanh.approx, and ``t`` so few bits that it is exact enough."""
    return on_nvidia(t) and t.dtype != torch.float32


def precision(t: Tensor) -> str:
    """What ``tl.dot`` does with float32 operands."""
    tf32 = t.is_cuda and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if tf32 and t.dtype == torch.float32 else "ieee"


def upcast(t: Tensor) -> bool:
    """Triton's interpreter multiplies the bits of bfloat16 numbers."""
    return INTERPRETED and t.dtype == torch.bfloat16


class Call(NamedTuple):
    """A kernel and what it is launched with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def launch(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants)


_compiled: set[Hashable] = set()


def compile_at_once(key: Hashable, calls: Callable[[], list[Call]]) -> None:
    """Compiles the kernels of ``calls``, each in a thread of its own, for later launches; only the
    first time for each ``key``. A kernel that cannot be compiled says so where it is launched."""
    if INTERPRETED or key in _compiled:
        return
    _compiled.add(key)
    every = calls()
    pool = ThreadPoolExecutor(len(every))
    with pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for call in every:
            call.kernel.warmup(*call.arguments, grid=call.grid, **call.constants)
