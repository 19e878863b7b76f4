"""Our tables as TorchRec's compute kernel: what a lookup of a sharded collection calls."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from dynamicemb import torchrec_compat
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.dealing import constant
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.exchange import shard_options
from dynamicemb.types import DynamicEmbPoolingMode
from dynamicemb.utils import data_type_to_dtype, output_dtype

torchrec_compat.require()

from torchrec.distributed.batched_embedding_kernel import (  # noqa: E402
    BaseBatchedEmbedding,
    BaseBatchedEmbeddingBag,
)
from torchrec.optim.fused import FusedOptimizer, FusedOptimizerModule  # noqa: E402

_OWN = set(inspect.signature(BatchedDynamicEmbeddingTablesV2).parameters) - {
    "table_options", "table_names", "feature_table_map", "pooling_mode", "device", "output_dtype",
}  # fmt: skip


class DynamicOptimizer(FusedOptimizer):  # type: ignore[misc]
    """The optimizer that runs in the backward: ``param_groups[0]["lr"]`` is its learning rate."""

    def __init__(self, tables: BatchedDynamicEmbeddingTablesV2, params: dict[str, Any]) -> None:
        rate = tables.optimizer.args.learning_rate
        group = {"params": list(params.values()), "lr": rate}
        super().__init__(params, {param: {} for param in params.values()}, [group])
        self._tables = tables

    def _set_rate(self) -> None:
        rate = float(self.param_groups[0]["lr"])
        if rate != self._tables.optimizer.args.learning_rate:
            self._tables.set_learning_rate(rate)

    def zero_grad(self, set_to_none: bool = False) -> None:
        self._set_rate()

    def step(self, closure: Any = None) -> None:
        self._set_rate()


def _placeholder() -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, device="meta"))


def _table_options(table: Any, world: int) -> DynamicEmbTableOptions:
    options: DynamicEmbTableOptions = copy.copy(table.fused_params["dynamicemb_options"])
    options.dim = table.local_cols
    options.embedding_dtype = data_type_to_dtype(table.data_type)
    shard_options(options, world)
    if options.max_capacity is None:
        options.max_capacity = max(1, math.ceil(table.num_embeddings / world))
    return options


class _Kernel(FusedOptimizerModule):  # type: ignore[misc]
    """What the two kernels have in common."""

    _config: Any
    _feature_table_map: list[int]

    def _make(self, pg: Any, device: torch.device | None, pooling: DynamicEmbPoolingMode) -> None:
        params = dict(self._config.fused_params or {})
        world = pg.size() if pg is not None else 1
        if params.get("dynamicemb_whole"):  # table-wise: one rank has all rows
            world = 1
        tables = self._config.embedding_tables
        options = [_table_options(table, world) for table in tables]
        own = {name: value for name, value in params.items() if name in _OWN}
        own.setdefault("enforce_hbm", not any(one.local_hbm_for_values for one in options))
        self._emb_module = BatchedDynamicEmbeddingTablesV2(
            options,
            [table.name for table in tables],
            self._feature_table_map,
            pooling_mode=pooling,
            device=device,
            output_dtype=output_dtype(params.get("output_dtype")),
            **own,
        )
        self._names = [table.name for table in tables]
        self._params = {name: _placeholder() for name in self._names}
        keyed = {f"{name}.weight": param for name, param in self._params.items()}
        self._optim = DynamicOptimizer(self._emb_module, keyed)
        for param in self._params.values():
            param._in_backward_optimizers = [self._optim]  # type: ignore[attr-defined]

    @property
    def emb_module(self) -> BatchedDynamicEmbeddingTablesV2:
        return self._emb_module

    @property
    def fused_optimizer(self) -> DynamicOptimizer:
        return self._optim

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for name, param in self._params.items():
            yield f"{prefix}.{name}.weight" if prefix else f"{name}.weight", param

    def named_parameters_by_table(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._params.items()

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        yield from ()

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Nothing: rows are in ``DynamicEmbDump`` alone."""
        return {} if destination is None else destination

    def named_split_embedding_weights(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:
        yield from ()

    def split_embedding_weights(self) -> list[Tensor]:
        return self._emb_module.split_embedding_weights()

    def flush(self) -> None:
        self._emb_module.flush()

    def purge(self) -> None:
        self._emb_module.reset_cache_states()

    def init_parameters(self) -> None:
        """Rows are made when their keys come."""


class BatchedDynamicEmbedding(_Kernel, BaseBatchedEmbedding):  # type: ignore[misc]
    """A row for each value. Weights of the features are how often each value counts."""

    def __init__(self, config: Any, pg: Any = None, device: torch.device | None = None) -> None:
        BaseBatchedEmbedding.__init__(self, config, pg, device)
        self._make(pg, device, DynamicEmbPoolingMode.NONE)

    def forward(self, features: Any) -> Tensor:
        offsets = features.offsets().to(torch.int64)
        if features.variable_stride_per_key():
            ends = tuple(accumulate(features.stride_per_key(), initial=0))
            offsets = offsets[constant(ends, offsets.device)]
        weights = features.weights_or_none()
        counts = None if weights is None else weights.view(torch.int32).to(torch.int64)
        rows: Tensor = self._emb_module(
            features.values().to(torch.int64), offsets, frequency_counters=counts
        )
        return rows


class BatchedDynamicEmbeddingBag(_Kernel, BaseBatchedEmbeddingBag):  # type: ignore[misc]
    """Pooled rows of each feature and sample, weighted by the features' weights if it is so."""

    def __init__(
        self,
        config: Any,
        pg: Any = None,
        device: torch.device | None = None,
        sharding_type: Any = None,
    ) -> None:
        BaseBatchedEmbeddingBag.__init__(self, config, pg, device, sharding_type)
        self._make(pg, device, DynamicEmbPoolingMode[self._pooling.name])
        dims = [config.embedding_tables[t].local_cols for t in self._feature_table_map]
        self._ends = torch.tensor([0, *dims]).cumsum(0).tolist()

    def forward(self, features: Any) -> Tensor:
        values, offsets = features.values().to(torch.int64), features.offsets().to(torch.int64)
        weights = features.weights_or_none() if self._config.is_weighted else None
        if not features.variable_stride_per_key():
            out: Tensor = self._emb_module(values, offsets, weights)
            return out
        return self._of_varying(values, offsets, weights, features.stride_per_key_per_rank())

    def _of_varying(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, strides: list[list[int]]
    ) -> Tensor:
        """One row of numbers: rank by rank, feature by feature, sample by sample."""
        sizes = [sum(row) for row in strides]
        most = max([*sizes, 1])
        starts = torch.tensor([0, *sizes]).cumsum(0)
        # Each feature gets `most` bags; those behind its own are empty.
        at = torch.arange(most).clamp(max=most)[None, :]
        size = torch.tensor(sizes)[:, None]
        index = (starts[:-1, None] + torch.minimum(at, size)).reshape(-1)
        index = torch.cat([index, starts[-1:]]).to(offsets.device)
        out = self._emb_module(values, offsets[index], weights)
        parts = []
        begins = [0] * len(sizes)
        for rank in range(len(strides[0]) if strides else 0):
            for f, row in enumerate(strides):
                begin, end = begins[f], begins[f] + row[rank]
                parts.append(out[begin:end, self._ends[f] : self._ends[f + 1]].reshape(-1))
                begins[f] = end
        return torch.cat(parts) if parts else out.reshape(-1)
