"""Loads libdynamicemb.so and gives its torch ops fake kernels, for torch.compile and torch.export.

The library implements every op for CPU and CUDA tensors. Ops that read or write rows take
``state``, a tensor that stands for the tables: functionalization keeps their order by it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicemb._core import library

PACKAGE = "dynamicemb"
LIBRARY = Path(__file__).with_name("libdynamicemb.so")
MINIMUM_TORCH = (2, 10)

library.load(PACKAGE, LIBRARY, MINIMUM_TORCH)

ops: Any = torch.ops.dynamicemb

_REALS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
POOLING_NONE = 2


def build_info() -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda."""
    return library.build_info(PACKAGE)


def _fake(name: str) -> Callable[[Any], Any]:
    register: Callable[[Any], Any] = torch.library.register_fake(f"{PACKAGE}::{name}")
    return register


def _ints(like: Tensor, n: Any, dtype: torch.dtype = torch.int64) -> Tensor:
    return like.new_empty((n,), dtype=dtype)


def _sum_dtype(weight_dtype: int) -> torch.dtype:
    return torch.float64 if weight_dtype == 3 else torch.float32


@_fake("segmented_unique")
def _(keys: Tensor, offsets: Tensor, frequencies: Tensor | None, counted: bool) -> Any:
    n = keys.shape[0]
    inverse = _ints(keys, n, torch.int32)
    return _ints(keys, n), inverse, _ints(keys, offsets.shape[0]), _ints(keys, n if counted else 0)


@_fake("lookup_forward")
def _(
    state: Tensor, rows: Tensor, keys: Tensor, inverse: Tensor | None, row_offsets: Tensor,
    infos: Tensor, weight_dtype: int, offsets: Tensor | None, feature_table: Tensor | None,
    dim_offsets: Tensor | None, weights: Tensor | None, pooling: int, whole: bool, width: int,
    out_dtype: int, initialize: bool,
) -> Tensor:  # fmt: skip
    n = (rows if inverse is None else inverse).shape[0]
    if pooling != POOLING_NONE:
        assert offsets is not None and feature_table is not None
        n = (offsets.shape[0] - 1) // feature_table.shape[0]
    return rows.new_empty((n, width), dtype=_REALS[out_dtype])


@_fake("weight_grads")
def _(grads: Tensor, state: Tensor, rows: Tensor, keys: Tensor, inverse: Tensor | None,
      row_offsets: Tensor, infos: Tensor, weight_dtype: int, *rest: Any) -> Tensor:  # fmt: skip
    n = (rows if inverse is None else inverse).shape[0]
    return rows.new_empty((n,), dtype=_sum_dtype(weight_dtype))


@_fake("expand_bags")
def _(offsets: Tensor, n: int) -> Tensor:
    return _ints(offsets, n, torch.int32)


@_fake("expand_ids")
def _(offsets: Tensor, n: int) -> Tensor:
    return _ints(offsets, n, torch.int32)


@_fake("sort_rows")
def _(inverse: Tensor) -> Any:
    return torch.empty_like(inverse), torch.empty_like(inverse)


@_fake("reduce_grads")
def _(grads: Tensor, state: Tensor, rows: Tensor, keys: Tensor, inverse: Tensor | None,
      row_offsets: Tensor, infos: Tensor, weight_dtype: int, *rest: Any) -> Tensor:  # fmt: skip
    n = (rows if inverse is None else inverse).shape[0]
    return rows.new_empty((n, rest[-1]), dtype=_sum_dtype(weight_dtype))


@_fake("reduce_update")
def _(*arguments: Any) -> None:
    return None


@_fake("update_rows")
def _(*arguments: Any) -> None:
    return None


@_fake("init_rows")
def _(*arguments: Any) -> None:
    return None


@_fake("load_rows")
def _(state: Tensor, rows: Tensor, bytes: int) -> Tensor:
    return rows.new_empty((rows.shape[0], bytes // 4), dtype=torch.float32)


@_fake("store_rows")
def _(*arguments: Any) -> None:
    return None


@_fake("flagged_compact")
def _(flags: Tensor, inputs: Tensor | None) -> Any:
    return _ints(flags, flags.shape[0]), _ints(flags, 1)


@_fake("tighten_lists")
def _(keys: Tensor, values: Tensor, scores: Tensor, offsets: Tensor, ends: Tensor) -> Any:
    return torch.empty_like(keys), torch.empty_like(values), torch.empty_like(scores)


@_fake("refused_keys")
def _(keys: Tensor, offsets: Tensor, rows: Tensor, scores: Tensor | None) -> Any:
    n = keys.shape[0]
    some = _ints(keys, 0 if scores is None else n)
    return _ints(keys, n), _ints(keys, n), some, _ints(keys, offsets.shape[0]), _ints(keys, 1)


@_fake("take_rows")
def _(state: Tensor, below: Tensor, rows: Tensor, status: Tensor, bytes: int) -> Tensor:
    return torch.empty_like(status)


@_fake("place_rows")
def _(*arguments: Any) -> None:
    return None


@_fake("block_bucketize")
def _(keys: Tensor, offsets: Tensor, dist: Tensor, block_sizes: Tensor | None,
      weights: Tensor | None, world: int) -> Any:  # fmt: skip
    n = keys.shape[0]
    lengths = _ints(keys, (offsets.shape[0] - 1) * world)
    new_weights = _ints(keys, 0 if weights is None else n, torch.float32)
    return lengths, _ints(keys, n), new_weights, _ints(keys, n)


@_fake("permute_rows")
def _(permute: Tensor, lengths: Tensor, values: Tensor, weights: Tensor | None, n: int) -> Any:
    moved = _ints(values, 0, values.dtype) if weights is None else _ints(weights, n, weights.dtype)
    new_lengths = lengths.new_empty((permute.shape[0], lengths.shape[1]))
    return new_lengths, _ints(values, n, values.dtype), moved


@_fake("deal_keys")
def _(keys: Tensor, offsets: Tensor, dist: Tensor, block_sizes: Tensor | None, world: int) -> Any:
    n = keys.shape[0]
    return _ints(keys, (offsets.shape[0] - 1) * world), _ints(keys, n), _ints(keys, n)


@_fake("move_rows")
def _(rows: Tensor, order: Tensor, scatter: bool, factor: float) -> Tensor:
    return rows.new_empty((order.shape[0], rows.shape[1]))


@_fake("ends_of")
def _(lengths: Tensor) -> Tensor:
    return _ints(lengths, lengths.shape[0] + 1)


# What the fake kernels must know of a set of tables: handle -> (tables, float words of a row).
SETS: dict[int, tuple[int, int]] = {}


@_fake("table_set_find")
def _(keys: Tensor, offsets: Tensor, set: int, state: Tensor, scored: bool) -> Any:
    n = keys.shape[0]
    return _ints(keys, n), _ints(keys, n if scored else 0)


@_fake("table_set_write")
def _(
    keys: Tensor, offsets: Tensor, set: int, state: Tensor, values: Tensor | None,
    scores: Tensor | None, mode: int, verbatim: bool, pin: bool, report: bool,
) -> Any:  # fmt: skip
    n, (tables, words) = keys.shape[0], SETS[set]
    listed = n if report or mode == 2 else 0
    evicted = keys.new_empty((listed, words), dtype=torch.float32)
    count = _ints(keys, tables if report or mode == 2 else 0)
    rows, status = _ints(keys, n if mode == 0 else 0), _ints(keys, n, torch.uint8)
    return rows, status, _ints(keys, listed), evicted, _ints(keys, listed), count


@_fake("table_set_unlock")
def _(*arguments: Any) -> None:
    return None


@_fake("cache_seek")
def _(
    keys: Tensor, offsets: Tensor, set: int, state: Tensor, scores: Tensor | None, pin: bool
) -> Any:
    n, (tables, words) = keys.shape[0], SETS[set]
    parts = [n] * 12 + [tables, tables + 1, tables + 1, (max(n, tables) + 2047) // 2048 + 1]
    between = _ints(keys, sum((8 * part + 255) // 256 * 256 for part in parts), torch.uint8)
    left = keys.new_empty((n, words), dtype=torch.float32)
    return _ints(keys, n), _ints(keys, n, torch.uint8), left, _ints(keys, 1), between


@_fake("cache_move")
def _(*arguments: Any) -> None:
    return None


@_fake("table_set_clear")
def _(*arguments: Any) -> None:
    return None


@_fake("table_set_reserve")
def _(*arguments: Any) -> None:
    return None
