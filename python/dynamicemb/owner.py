"""What a rank does for the others: the rows of the keys that it owns, read and updated."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import Features, Lookup, gather
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.ops import POOLING_NONE
from dynamicemb.optimizer import WEIGHT_DTYPES
from dynamicemb.sorting import Sorted
from dynamicemb.types import DynamicEmbPoolingMode


class Served(NamedTuple):
    """Rows handed out, and how their gradients come back."""

    out: Tensor
    prepared: Any  # None: an evaluation
    lookup: Lookup
    features: Features
    weights: Tensor | None


class Owner:
    """A module of tables with one dim, as the exchange uses it.

    Args:
        module: the tables.
        world: ranks that ask.
        dtype: of the rows that are handed out; None: float32, float64 of such tables.
    """

    def __init__(
        self, module: BatchedDynamicEmbeddingTablesV2, world: int, dtype: torch.dtype | None
    ) -> None:
        self.module, self.world = module, world
        weight_dtype = module.options[0].embedding_dtype
        self.real = torch.float64 if weight_dtype == torch.float64 else torch.float32
        self.dtype = dtype or self.real
        self.dim = module.layouts[0].dim
        self.width = -(-self.dim // 4) * 4
        self.features = len(module.feature_table_map)
        f, code = module._features, WEIGHT_DTYPES[self.dtype]
        self._rows = f._replace(
            pooling=POOLING_NONE, feature_table=None, dim_offsets=None, whole=True,
            width=self.width, out_dtype=code,
        )  # fmt: skip
        self._sums = f._replace(pooling=int(DynamicEmbPoolingMode.SUM), out_dtype=code)
        # A batch of one sample in which the first feature of each table has all its keys.
        ends = [t + 1 for t in module.feature_table_map]
        self._segment_of = torch.tensor([0, *ends]).to(module.device)

    @property
    def trains(self) -> bool:
        return self.module.training and self.module.trains

    @property
    def counts(self) -> bool:
        """How often a key occurs must come with it."""
        module = self.module
        return module._scores.counts or module._strategy is not None

    def check(self) -> None:
        if self.trains:
            self.module._scores.check()

    def rows(
        self, keys: Tensor, segments: Tensor, order: Tensor, counts: Tensor | None, gaps: bool
    ) -> Served:
        """(n, width) rows, in the order of ``order``.

        Args:
            keys: (n) int64, table by table; those behind the segments are none.
            segments: (tables + 1) int64.
            order: (n) int64: output row i is that of ``keys[order[i]]``.
            counts: (n) int64 occurrences, or None.
            gaps: whether there are keys that are none; their rows are anything.
        """
        offsets = segments[self._segment_of]
        if gaps and keys.device.type == "cpu":
            keys = keys[: int(segments[-1])]
            counts = None if counts is None else counts[: len(keys)]
        prepared, lookup = self._lookup(keys, offsets, counts)
        rows, known, inverse = lookup.rows, lookup.keys, lookup.inverse
        if gaps:  # the last row is none, for the keys that are none; no number exceeds the order's
            at = torch.arange(len(rows), device=rows.device)
            rows = torch.where(at < lookup.row_offsets[-1], rows, torch.zeros_like(rows))
            if len(rows) < len(order):
                rows, known = (torch.nn.functional.pad(x, (0, 1)) for x in (rows, known))
            behind = len(rows) - 1
            inverse = torch.arange(len(keys), device=rows.device) if inverse is None else inverse
            inverse = torch.nn.functional.pad(
                inverse.int(), (0, len(order) - len(inverse)), value=behind
            )
            inverse = torch.where(order < segments[-1], inverse[order], behind).int()
        else:
            inverse = order.int() if inverse is None else inverse[order]
        lookup = lookup._replace(rows=rows, keys=known, inverse=inverse)
        return self._served(prepared, lookup, self._rows, None)

    def sums(self, keys: Tensor, offsets: Tensor, weights: Tensor | None) -> Served:
        """(batch, features * dim) sums of the bags of all ranks, feature by feature."""
        prepared, lookup = self._lookup(keys, offsets, None)
        if weights is not None:
            weights = weights.to(self.real)
        return self._served(prepared, lookup, self._sums, weights)

    def _lookup(self, keys: Tensor, offsets: Tensor, counts: Tensor | None) -> tuple[Any, Lookup]:
        module = self.module
        if self.trains:
            prepared = module._prepare(keys, offsets, counts)
            module._scores.advance()
            return prepared, prepared.lookup
        segments = module._segments(keys, offsets)
        rows, memory = module.tiers.evaluate(keys, segments)
        lookup = Lookup(module.tiers.first.state, rows, keys, None, segments, offsets)
        return memory, lookup

    def _served(
        self, prepared: Any, lookup: Lookup, features: Features, weights: Tensor | None
    ) -> Served:
        infos = self.module._refused_infos if self.trains else None
        out = gather(lookup, features, weights, self.trains, infos)
        return Served(out, prepared if self.trains else None, lookup, features, weights)

    def update(self, served: Served, grad: Tensor) -> None:
        """Updates the rows, or keeps the gradients for ``step``."""
        lookup = served.lookup
        moved = self.module._refreshed(served.prepared, lookup)
        if moved is not lookup:  # what lies behind the keys is none
            at = torch.arange(len(moved.rows), device=moved.rows.device)
            none = torch.zeros_like(moved.rows)
            moved = moved._replace(rows=torch.where(at < moved.row_offsets[-1], moved.rows, none))
        self.module._keep_for_snapshot(served.prepared, moved)
        assert moved.inverse is not None
        order = Sorted(moved.inverse, None)
        self.module._update(grad.contiguous(), None, served.weights, moved, order, served.features)
