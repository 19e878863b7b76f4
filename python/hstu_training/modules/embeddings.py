"""The tables of a model: dynamic ones (any int64 id) and static ones (parameters).

A dynamic table's optimizer runs in the backward. Its rows' scores are the number of the step in
which they were last trained, so that a run gives the same table however often it was resumed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dynamicemb import (
    DynamicEmbeddingCollection,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbScoreStrategy,
    DynamicEmbTableOptions,
    EmbeddingConfig,
    EmbOptimType,
    KeyedJaggedTensor,
)
from torch import Tensor, nn

from hstu_training.checks import CHECKS

_SCORES = {
    "lru": DynamicEmbScoreStrategy.CUSTOMIZED,
    "lfu": DynamicEmbScoreStrategy.LFU,
    "none": DynamicEmbScoreStrategy.NO_EVICTION,
}


@dataclass(frozen=True)
class TableConfig:
    """A table.

    Args:
        name: of the table.
        features: those that it serves.
        rows: of a static table, the ids 0 to rows - 1; the capacity of a dynamic one, of all
            processes together.
        dim: of a row.
        dynamic: which of the two.
        eviction: "lru", "lfu" or "none".
        hbm_bytes: of rows in GPU memory, of all processes together; 0: all.
        caching, dist_type: see DynamicEmbeddingArgs.
    """

    name: str
    features: tuple[str, ...]
    rows: int
    dim: int
    dynamic: bool
    eviction: str = "lru"
    hbm_bytes: int = 0
    caching: bool = False
    dist_type: str = "roundrobin"


@dataclass(frozen=True)
class TableOptimizer:
    """How rows of dynamic tables learn."""

    kind: str
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def fused_params(self, seed: int) -> dict[str, Any]:
        kinds = {"adam": EmbOptimType.ADAM, "sgd": EmbOptimType.SGD}
        return {
            "optimizer": kinds[self.kind], "learning_rate": self.learning_rate,
            "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps, "seed": seed,
        }  # fmt: skip


def table_options(table: TableConfig, world: int) -> DynamicEmbTableOptions:
    """Of a process among ``world``; its part has rows to spare: no law says that ids are dealt out
    evenly."""
    rows = table.rows if world == 1 else table.rows // world + 1024
    init = DynamicEmbInitializerArgs(
        DynamicEmbInitializerMode.TRUNCATED_NORMAL, std_dev=0.02, lower=-0.04, upper=0.04
    )
    return DynamicEmbTableOptions(
        max_capacity=rows, initializer_args=init, score_strategy=_SCORES[table.eviction],
        global_hbm_for_values=table.hbm_bytes, caching=table.caching, dist_type=table.dist_type,
    )  # fmt: skip


def collection_of(
    tables: Sequence[TableConfig],
    optimizer: TableOptimizer,
    device: torch.device,
    seed: int,
    group: Any = None,
) -> nn.Module:
    """The dynamic tables, dealt out to the processes of a group where there is one."""
    world = 1 if group is None else group.size()
    return DynamicEmbeddingCollection(
        [EmbeddingConfig(t.name, t.dim, t.rows, list(t.features)) for t in tables], device=device,
        options={table.name: table_options(table, world) for table in tables},
        fused_params=optimizer.fused_params(seed), process_group=group,
    )  # fmt: skip


class _Batch(KeyedJaggedTensor):
    """Ids of each feature, whose numbers the host knows: nobody waits for a GPU."""

    def __init__(self, names: Sequence[str], ids: Sequence[Tensor]) -> None:
        values = torch.cat(list(ids))
        self._sizes = [one.numel() for one in ids]
        lengths = torch.tensor(self._sizes, pin_memory=values.is_cuda)
        super().__init__(names, values, lengths.to(values.device, non_blocking=True))

    def length_per_key_or_none(self) -> list[int]:
        return self._sizes


class Embeddings(nn.Module):
    """Looks up every feature of a batch.

    Args:
        tables: each feature belongs to one.
        collection: of the dynamic ones, or None where there are none.
        dtype: of static tables.
    """

    collection: Any

    def __init__(
        self, tables: Sequence[TableConfig], collection: nn.Module | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.table_of = {feature: table for table in tables for feature in table.features}
        self.static = nn.ModuleDict()
        for table in tables:
            if not table.dynamic:
                rows = torch.empty(table.rows, table.dim, dtype=dtype).normal_(0, 0.02)
                self.static[table.name] = nn.Embedding(table.rows, table.dim, _weight=rows)
        # Not a submodule: its rows are no parameters, and its one anchor needs no all-reduce.
        self.__dict__["collection"] = collection
        self.dynamic = [name for name, table in self.table_of.items() if table.dynamic]
        self.names = [t.name for t in tables if t.dynamic and t.eviction == "lru"]
        self.unscale: Tensor | None = None  # of float16: 1 / the loss's scale

    def train(self, mode: bool = True) -> Embeddings:
        super().train(mode)
        if self.collection is not None:
            self.collection.train(mode)
        return self

    def begin_step(self, step: int) -> None:
        """Before each forward of training: the score that its rows get."""
        if self.collection is not None and self.names:
            self.collection.set_score(dict.fromkeys(self.names, step + 1))

    def check(self, features: dict[str, Tensor]) -> None:
        """Raises ValueError where a static feature's id is beyond its table (CPU tensors)."""
        for name, ids in features.items():
            table = self.table_of[name]
            if not table.dynamic and ids.numel() and int(ids.max()) >= table.rows:
                CHECKS.fail(f"feature {name!r} has id {int(ids.max())}, table {table.name!r} has "
                            f"{table.rows} rows")  # fmt: skip

    def _unscaled(self, rows: Tensor) -> Tensor:
        if self.unscale is None or not rows.requires_grad:
            return rows
        out: Tensor = _Unscale.apply(rows, self.unscale)  # type: ignore[no-untyped-call]
        return out

    def _of_a_width(self, names: Sequence[str]) -> list[list[str]]:
        groups: dict[int, list[str]] = {}
        for name in names:
            groups.setdefault(self.table_of[name].dim, []).append(name)
        return list(groups.values())

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """(ids, dim) rows of each feature's ids."""
        found: dict[str, Tensor] = {}
        for names in self._of_a_width([name for name in features if name not in self.dynamic]):
            tables = [self.static[self.table_of[name].name].weight for name in names]
            ids = [features[name] for name in names]
            rows = _Static.apply(ids, *tables)  # type: ignore[no-untyped-call]
            found |= dict(zip(names, rows, strict=True))
        if not features.keys().isdisjoint(self.dynamic):  # the collection asks for all of its own
            nothing = next(iter(features.values())).new_zeros(0, dtype=torch.int64)
            every = [features.get(name, nothing) for name in self.dynamic]
            rows = self.collection(_Batch(self.dynamic, every))
            found |= {name: self._unscaled(rows[name].values()) for name in self.dynamic}
        return {name: found[name] for name in features}  # tokens are counted in this order


class _Static(torch.autograd.Function):
    """Rows of some tables of one width. Their gradients are added up together: for each table
    alone PyTorch sorts its ids, in several launches."""

    @staticmethod
    def forward(ctx: Any, ids: Sequence[Tensor], *tables: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*ids)
        ctx.sizes = [len(table) for table in tables]
        return tuple(table.index_select(0, one) for table, one in zip(tables, ids, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *starts, rows = itertools.accumulate(ctx.sizes, initial=0)
        ids = torch.cat(torch._foreach_add(ctx.saved_tensors, starts))
        dtables = torch.ops.aten.embedding_dense_backward(torch.cat(grads), ids, rows, -1, False)
        return None, *dtables.split(ctx.sizes)


class _Unscale(torch.autograd.Function):
    """Rows learn in the backward, before anybody can unscale their gradients: this does. One that
    overflowed is left out."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: Tensor) -> Tensor:
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.nan_to_num(grad * ctx.factor, 0.0, 0.0, 0.0), None
