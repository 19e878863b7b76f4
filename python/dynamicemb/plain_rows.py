"""Rows of a tensor as the kernels see those of a table."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import Features, Lookup
from dynamicemb.key_value_table import STATE_WORDS
from dynamicemb.ops import POOLING_NONE
from dynamicemb.optimizer import WEIGHT_DTYPES, info_words, row_layout
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
    device, pooled = rows.device, pooling != POOLING_NONE
    at = torch.arange(len(rows), device=device) if slots is None else slots
    places = at * (rows.shape[1] * rows.element_size()) + rows.data_ptr()
    layout = row_layout(dim, rows.dtype, None)
    words = info_words(layout, "", 0, DynamicEmbInitializerArgs(), (0.0, 0.0), 0.0)
    known = Features(
        torch.tensor([words], dtype=torch.int64).to(device),
        WEIGHT_DTYPES[rows.dtype],
        pooling,
        torch.zeros(features, dtype=torch.int32, device=device) if pooled else None,
        torch.arange(features + 1, device=device) * dim if pooled else None,
        dim % 4 == 0,
        features * dim if pooled else dim,
        WEIGHT_DTYPES[out_dtype],
        dim,
    )
    ends = torch.arange(2, device=device) * len(at)
    state = torch.zeros(STATE_WORDS, dtype=torch.int64, device=device)
    return Lookup(state, places, places, inverse, ends, offsets), known
