"""A step of row-wise dynamic tables under TorchRec, without its awaitables.

TorchRec's own way goes through awaitables of splits, keys, rows and results, each with marks for a
profiler: half of what the host does in a step. It is left to what asks for it: pipelines, which
call its parts; several shardings or groups of tables; batches that vary by feature; codecs for the
link; trackers and hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicemb import torchrec_compat
from dynamicemb.batched_dynamicemb_compute_kernel import (
    BatchedDynamicEmbedding,
    BatchedDynamicEmbeddingBag,
)
from dynamicemb.input_dist import RwSparseFeaturesDist
from dynamicemb.keys_dist import Keys, Sizes, link_of
from dynamicemb.rows_dist import PooledDist, SequenceDist

torchrec_compat.require()

from torchrec import KeyedJaggedTensor  # noqa: E402
from torchrec.distributed.types import LazyAwaitable, LazyGetItemMixin  # noqa: E402

_KERNELS = (BatchedDynamicEmbedding, BatchedDynamicEmbeddingBag)
_TRACKERS = ("post_lookup_tracker_fn", "post_odist_tracker_fn")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Made(LazyGetItemMixin, LazyAwaitable):  # type: ignore[misc]
    """What is made of rows that may be on their way: a Tensor, or an awaitable of one."""

    def __init__(self, rows: Any, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._rows, self._make = rows, make

    def _wait_impl(self) -> Any:
        rows = self._rows
        return self._make(rows if isinstance(rows, Tensor) else arrived(rows))

    def wait(self) -> Any:
        return arrived(self)


def arrived(awaitable: Any) -> Any:
    """Its ``wait()``, without a mark for a profiler."""
    found = awaitable._wait_impl()
    for callback in awaitable.callbacks:
        found = callback(found)
    return found


def kernel_of(module: Any, features: Any, permutes: Any) -> Any:
    """The lookup that gives all of this rank's rows for a batch; None: TorchRec's way.

    Args:
        module: a sharded collection.
        features: of the batch.
        permutes: whether features come in another order than that of the tables.
    """
    if module._has_uninitialized_input_dist or permutes or len(module._lookups) != 1:
        return None
    lookup: Any = module._lookups[0]
    kernels: Any = lookup._emb_modules
    if len(kernels) != 1 or not isinstance(kernels[0], _KERNELS):
        return None
    tracked = any(getattr(module, name, None) is not None for name in _TRACKERS)
    tracked = tracked or getattr(lookup, "optim_state_tracker_fn", None) is not None
    tracked = tracked or any(getattr(lookup, name) for name in _HOOKS)
    tracked = tracked or getattr(module, "_enabled_feature_score_auto_collection", False)
    if tracked or not isinstance(features, KeyedJaggedTensor):
        return None
    if features.variable_stride_per_key() or features.stride() == 0:
        return None
    if module._env.world_size > 1:
        given, back = module._input_dists[0], module._output_dists[0]
        ours = isinstance(given, RwSparseFeaturesDist) and isinstance(
            back, (SequenceDist, PooledDist)
        )
        if not ours or back.coded:
            return None
    return kernels[0]


def crossed(module: Any, features: Any, pooled: bool) -> tuple[Keys, Any, Tensor | None]:
    """What the keys of a batch cost to send, those that this rank got, and where each value's row
    will be among those that come back."""
    dist = module._input_dists[0]
    with torch.no_grad():
        dealt, place = dist.bucketizer(features)
        keys = Sizes(link_of(dist.group), dealt, pooled)._wait_impl()
        return keys, keys._wait_impl(), place
