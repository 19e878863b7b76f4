"""Loads libmustafar.so and completes its torch ops in Python.

The library defines ``torch.ops.mustafar.{decode, append, prefill, compress_rows, tile_bitmaps,
tile_pack, tile_keys, tile_values}`` and implements them for CUDA, and ``decode`` for the CPU. Here
the others get their CPU implementation (ref.py), and all of them fake kernels. ``append`` and
``prefill`` write to the cache. None has a gradient: a cache is filled without one.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mustafar import ref
from mustafar._core import library

PACKAGE = "mustafar"
LIBRARY = Path(__file__).with_name("libmustafar.so")
MINIMUM_TORCH = (2, 10)

library.load(PACKAGE, LIBRARY, MINIMUM_TORCH)


def build_info() -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda."""
    return library.build_info(PACKAGE)


def _compress_rows(a: Any) -> tuple[Tensor, Tensor]:
    return ref.compress_rows(a.x, a.kept)


def _fake_rows(a: Any) -> tuple[Tensor, Tensor]:
    rows, head_dim = a.x.shape
    bitmaps = a.x.new_empty((rows, head_dim // 32), dtype=torch.int32)
    return bitmaps, a.x.new_empty((rows, a.kept))


def _fake_bitmaps(a: Any) -> tuple[Tensor, Tensor]:
    heads, tokens, head_dim = a.x.shape
    shape = (heads, tokens * head_dim // ref.BLOCK)
    return a.x.new_empty(shape, dtype=torch.int64), a.x.new_empty(shape, dtype=torch.int32)


def _nothing(a: Any) -> None:
    return None


def _complete(name: str, cpu: Callable[[Any], Any] | None, fake: Callable[[Any], Any]) -> Any:
    """Gives an op its CPU and fake kernels, which take its arguments as one value."""
    overload = getattr(torch.ops.mustafar, name).default
    fields = [a.name for a in overload._schema.arguments]
    arguments: Any = namedtuple("arguments", fields)  # type: ignore[misc]
    if cpu is not None:
        torch.library.impl(f"{PACKAGE}::{name}", "cpu", lambda *inputs: cpu(arguments(*inputs)))
    torch.library.register_fake(f"{PACKAGE}::{name}", lambda *inputs: fake(arguments(*inputs)))
    return overload


decode = _complete("decode", None, lambda a: a.q.new_empty(a.q.shape))
append = _complete("append", ref.append, _nothing)
prefill = _complete("prefill", ref.prefill, _nothing)
compress_rows = _complete("compress_rows", _compress_rows, _fake_rows)
tile_bitmaps = _complete("tile_bitmaps", lambda a: ref.tile_bitmaps(*a), _fake_bitmaps)
tile_pack = _complete("tile_pack", lambda a: ref.tile_pack(*a), lambda a: a.x.new_empty(a.total))
tile_keys = _complete(
    "tile_keys",
    lambda a: ref.tile_product(a, keys=True),
    lambda a: a.b.new_empty((a.b.shape[0], 8, a.tokens)),
)
tile_values = _complete(
    "tile_values",
    lambda a: ref.tile_product(a, keys=False),
    lambda a: a.b.new_empty((a.b.shape[0], 8, a.head_dim)),
)
