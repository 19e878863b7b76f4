"""The dynamic tables behind TorchRec's DistributedModelParallel, planned by dynamicemb.

To be imported where ``dynamicemb.torchrec_compat.require`` is satisfied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from dynamicemb import torchrec_compat
from dynamicemb.dump_ranks import Part
from dynamicemb.get_planner import get_planner
from dynamicemb.incremental_dump import collections_of
from dynamicemb.link import Link
from dynamicemb.shard import DynamicEmbeddingCollectionSharder
from torch import nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.comm_ops import set_gradient_division

from hstu_training.modules.embeddings import TableConfig, TableOptimizer, table_options


class TorchRecCollection(nn.Module):
    """As ``DynamicEmbeddingCollection`` over the default process group, whose gradients are summed:
    TorchRec then divides none in this process.

    Args:
        tables, optimizer, device, seed: as ``collection_of`` takes them.
    """

    def __init__(
        self,
        tables: Sequence[TableConfig],
        optimizer: TableOptimizer,
        device: torch.device,
        seed: int,
    ) -> None:
        super().__init__()
        set_gradient_division(False)
        if device.type == "cuda":
            torchrec_compat.register_cuda_ops()
        group = dist.group.WORLD
        configs = [
            EmbeddingConfig(
                name=t.name, embedding_dim=t.dim, num_embeddings=t.rows,
                feature_names=list(t.features),
            )
            for t in tables
        ]  # fmt: skip
        options = {t.name: table_options(t, dist.get_world_size()) for t in tables}
        params = optimizer.fused_params(seed)
        planner = get_planner(configs, (), options, device, optimizer=params["optimizer"])
        sharder = DynamicEmbeddingCollectionSharder(params, use_index_dedup=True)
        whole = _Alone(EmbeddingCollection(tables=configs, device=torch.device("meta")))
        plan = planner.collective_plan(whole, [sharder], group)
        self.sharded = DistributedModelParallel(
            whole, device=device, plan=plan, sharders=[sharder], init_data_parallel=False
        )
        # TorchRec keeps lookups outside the tree of modules.
        found = collections_of(self.sharded).values()
        self.groups = [module for modules in found for module in modules]
        rows = {t.name: t.rows for t in tables}
        for module in self.groups:
            module.part = Part(Link(group), [rows[name] for name in module.table_names])

    def train(self, mode: bool = True) -> TorchRecCollection:
        super().train(mode)
        for module in self.groups:
            module.train(mode)
        return self

    def set_score(self, scores: Mapping[str, int]) -> None:
        for module in self.groups:
            module.set_score({n: s for n, s in scores.items() if n in module.table_names})

    def forward(self, features: Any) -> Any:
        """Rows of every feature: see ``DynamicEmbeddingCollection``."""
        given = KeyedJaggedTensor(
            features.keys(), features.values(), lengths=features.lengths(), stride=1,
            length_per_key=features.length_per_key_or_none(),
        )  # fmt: skip
        return self.sharded(given)


class _Alone(nn.Module):
    """A model of one collection: TorchRec shards parts of a model, not the whole."""

    def __init__(self, collection: EmbeddingCollection) -> None:
        super().__init__()
        self.collection = collection

    def forward(self, features: KeyedJaggedTensor) -> Any:
        return self.collection(features)
