"""The tables of ``dynamicemb_dist.py`` under TorchRec's DistributedModelParallel."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from dynamicemb.planner import DynamicEmbeddingShardingPlanner, DynamicEmbParameterConstraints
from dynamicemb.shard import (
    DynamicEmbeddingBagCollectionSharder,
    DynamicEmbeddingCollectionSharder,
)
from sharded_tables import Case
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.planner import Topology

MEMORY = 120 << 30  # bytes of a GPU that a plan may use


def sharded(case: Case, device: torch.device, dedup: bool) -> Any:
    """Row-wise dynamic tables; with ``dedup`` (of sequences) a key crosses once."""
    world, meta = dist.get_world_size(), torch.device("meta")
    kind: Any = EmbeddingBagConfig if case.hot > 1 else EmbeddingConfig
    tables = [
        kind(
            name=f"t{t}",
            embedding_dim=case.dim,
            num_embeddings=case.rows * world,
            feature_names=[f"f{t}"],
        )
        for t in range(case.tables)
    ]
    params = {"optimizer": "ADAM"}
    sharder: Any
    if case.hot > 1:
        model: Any = EmbeddingBagCollection(tables=tables, device=meta)
        sharder = DynamicEmbeddingBagCollectionSharder(params)
    else:
        model = EmbeddingCollection(tables=tables, device=meta)
        sharder = DynamicEmbeddingCollectionSharder(params, use_index_dedup=dedup)
    planner = DynamicEmbeddingShardingPlanner(
        tables,
        Topology(world_size=world, compute_device=device.type, hbm_cap=MEMORY),
        constraints={
            one.name: DynamicEmbParameterConstraints(use_dynamicemb=True) for one in tables
        },
        debug=False,
    )
    model = torch.nn.Sequential(model)
    plan = planner.collective_plan(model, [sharder])
    return DistributedModelParallel(model, device=device, plan=plan, sharders=[sharder])


def jagged(case: Case, given: Any) -> KeyedJaggedTensor:
    """A new one, as a loader makes it: the CPU knows how many keys each feature has."""
    return KeyedJaggedTensor(
        given.keys(),
        given.values(),
        lengths=given.lengths(),
        stride=case.lookups // case.hot,
        length_per_key=[case.lookups] * case.tables,
    )
