"""One lookup as autograd sees it: rows gathered in the forward, updated in the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb.ops import POOLING_NONE, ops


class Features(NamedTuple):
    """What of a module's lookups never changes."""

    infos: Tensor  # (tables, words) int64
    weight_dtype: int
    pooling: int
    feature_table: Tensor | None  # (features) int32, of a pooled lookup
    dim_offsets: Tensor | None  # (features + 1) int64
    whole: bool
    width: int
    out_dtype: int
    max_dim: int


class Lookup(NamedTuple):
    """The rows of one batch. ``inverse`` None: a row for each occurrence."""

    state: Tensor
    rows: Tensor
    keys: Tensor
    inverse: Tensor | None
    row_offsets: Tensor
    offsets: Tensor | None  # of bags

    def source(self, features: Features, infos: Tensor | None = None) -> tuple[Any, ...]:
        """The arguments ``state`` ... ``weight_dtype`` of the ops."""
        infos = features.infos if infos is None else infos
        return (*self[:5], infos, features.weight_dtype)

    def bags(self, features: Features, weights: Tensor | None) -> tuple[Any, ...]:
        """The arguments ``offsets`` ... ``whole``."""
        offsets = None if features.pooling == POOLING_NONE else self.offsets
        where = (offsets, features.feature_table, features.dim_offsets, weights)
        return (*where, features.pooling, features.whole)


def gather(
    lookup: Lookup, f: Features, weights: Tensor | None, initialize: bool, infos: Tensor | None
) -> Tensor:
    """(n, width), or (batch, width) of a pooled lookup."""
    out: Tensor = ops.lookup_forward(
        *lookup.source(f, infos), *lookup.bags(f, weights), f.width, f.out_dtype, initialize
    )
    return out


class LookupFunction(torch.autograd.Function):
    """Gradients: of the weights per sample to autograd, of the rows to ``update``.

    ``anchor`` is a tensor that requires a gradient and gets none: without it there would be no
    backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        weights: Tensor | None,
        lookup: Lookup,
        features: Features,
        infos: Tensor | None,
        update: Callable[[Tensor, Tensor | None, Tensor | None], None],
        refreshed: Callable[[Lookup], Lookup],
    ) -> Tensor:
        ctx.lookup, ctx.features, ctx.infos = lookup, features, infos
        ctx.update, ctx.refreshed = update, refreshed
        ctx.save_for_backward(weights)
        return gather(lookup, features, weights, True, infos)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        features: Features = ctx.features
        (weights,) = ctx.saved_tensors
        lookup: Lookup = ctx.refreshed(ctx.lookup)
        grad = grad.contiguous()
        bag_of = weight_grads = None
        if weights is not None and ctx.needs_input_grad[1]:
            assert lookup.offsets is not None and lookup.inverse is not None
            bag_of = ops.expand_bags(lookup.offsets, lookup.inverse.numel())
            weight_grads = ops.weight_grads(
                grad,
                *lookup.source(features, ctx.infos),
                *lookup.bags(features, weights),
                bag_of,
                True,
            )
        ctx.update(grad, bag_of, weights, lookup)
        return None, weight_grads, None, None, None, None, None
