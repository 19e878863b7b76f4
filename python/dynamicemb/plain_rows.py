"""Rows of a tensor as the kernels see those of a table."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import Features, Lookup
from dynamicemb.key_value_table import STATE_WORDS
from dynamicemb.ops import POOLING_NONE, ops
from dynamicemb.optimizer import (
    WEIGHT_DTYPES,
    EmbOptimType,
    OptimizerArgs,
    RowOptimizer,
    info_words,
    row_layout,
)
from dynamicemb.types import DynamicEmbInitializerArgs


def rows_of_tensor(
    rows: Tensor,
    dim: int,
    inverse: Tensor,
    offsets: Tensor | None,
    features: int,
    pooling: int,
    out_dtype: torch.dtype,
    slots: Tensor | None = None,
) -> tuple[Lookup, Features]:
    """A lookup of rows that lie in a tensor.

    Args:
        rows: (m, width) with ``width >= dim``, a multiple of four values.
        dim: values of a row that count.
        inverse: (n) int32: which row an occurrence is of.
        offsets: (features * batch + 1) int64, where bags begin; None: no pooling.
        features: of one table.
        pooling: ``DynamicEmbPoolingMode``.
        out_dtype: of what is gathered.
        slots: (k) int64: row i of ``inverse`` is ``rows[slots[i]]``; None: ``rows[i]``.
    """
    step, first, n = rows.shape[1] * rows.element_size(), rows.data_ptr(), len(rows)
    if slots is not None:
        n, places = len(slots), slots * step + first
    else:
        places = torch.arange(first, first + n * step, step, device=rows.device)
    if n:
        ends = torch.arange(0, n + 1, n, device=rows.device)  # by one launch
    else:
        ends = torch.zeros(2, dtype=torch.int64, device=rows.device)
    state = _state(rows.device)
    known = _features(rows.device, rows.dtype, dim, features, pooling, out_dtype)
    return Lookup(state, places, places, inverse, ends, offsets), known


def summed(grad: Tensor, inverse: Tensor, n: int) -> Tensor:
    """(n, dim): the sums of the gradients of each row, always in the same order.

    Args:
        grad: (m, dim) contiguous.
        inverse: (m) int32: the row that each is of; every row occurs.
    """
    dim = grad.shape[1]
    lookup, features = rows_of_tensor(grad, dim, inverse, None, 1, POOLING_NONE, grad.dtype)
    ids, order = ops.sort_rows(inverse)
    sums: Tensor = ops.reduce_grads(
        grad, *lookup.source(features), *lookup.bags(features, None), None, ids, order,
        *_plain(grad.device).schema(), dim,
    )  # fmt: skip
    return sums[:n].to(grad.dtype)


@functools.lru_cache(16)
def _state(device: torch.device) -> Tensor:
    """Of no table: what is asked of such rows neither reads nor changes it."""
    with torch.inference_mode(False):
        return torch.zeros(STATE_WORDS, dtype=torch.int64, device=device)


@functools.lru_cache(16)
def _plain(device: torch.device) -> RowOptimizer:
    return RowOptimizer(EmbOptimType.SGD, OptimizerArgs(), device)


@functools.lru_cache(256)
def _features(
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    features: int,
    pooling: int,
    out_dtype: torch.dtype,
) -> Features:
    """Made once: it is copied to the device, which then has to be waited for."""
    pooled = pooling != POOLING_NONE
    words = info_words(
        row_layout(dim, dtype, None), "", 0, DynamicEmbInitializerArgs(), (0.0, 0.0), 0.0
    )
    with torch.inference_mode(False):
        return Features(
            torch.tensor([words], dtype=torch.int64).to(device),
            WEIGHT_DTYPES[dtype],
            pooling,
            torch.zeros(features, dtype=torch.int32, device=device) if pooled else None,
            torch.arange(features + 1, device=device) * dim if pooled else None,
            dim % 4 == 0,
            features * dim if pooled else dim,
            WEIGHT_DTYPES[out_dtype],
            dim,
        )
