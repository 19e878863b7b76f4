"""TorchRec models with dynamic tables, sharded over the ranks of a group, beside one table."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbTableOptions
from dynamicemb.incremental_dump import collections_of
from dynamicemb.planner import DynamicEmbeddingShardingPlanner, DynamicEmbParameterConstraints
from dynamicemb.shard import (
    DynamicEmbeddingBagCollectionSharder,
    DynamicEmbeddingCollectionSharder,
)
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.planner import Topology
from torchrec.distributed.types import ShardingEnv

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import FEATURES, Batch, batch, contents

DIM = 8
CAPACITY = 1024


class Model(NamedTuple):
    """One way to train with TorchRec."""

    kind: str = "sequence"  # or a pooling
    dist_type: str = "roundrobin"
    weighted: bool = False
    dedup: bool = False
    sharding: str = "row_wise"
    strategy: str = "TIMESTAMP"
    batches: str = "equal"
    static: bool = False  # the last table is TorchRec's own
    varying: bool = False  # a batch of its own for each feature
    qcomm: str = ""
    steps: int = 5


class Top(nn.Module):
    def __init__(self, sparse: nn.Module) -> None:
        super().__init__()
        self.sparse = sparse

    def forward(self, features: Any) -> dict[str, Tensor]:
        out = self.sparse(features)
        if isinstance(self.sparse, EmbeddingBagCollection) or hasattr(out, "to_dict"):
            found: dict[str, Tensor] = out.to_dict()
            return found
        return {name: part.values() for name, part in out.items()}


def _configs(model: Model) -> list[Any]:
    owned = [FEATURES[:2], FEATURES[2:3], FEATURES[3:]]
    kind: Any = EmbeddingConfig if model.kind == "sequence" else EmbeddingBagConfig
    more = {} if model.kind == "sequence" else {"pooling": PoolingType[model.kind]}
    return [
        kind(name=f"t{t}", embedding_dim=DIM, num_embeddings=1000, feature_names=owned[t], **more)
        for t in range(3)
    ]


def build(model: Model, group: Any, **params: Any) -> Any:
    """DistributedModelParallel of the model."""
    configs = _configs(model)
    meta = torch.device("meta")
    sequence = model.kind == "sequence"
    sparse: Any
    if sequence:
        sparse = EmbeddingCollection(tables=configs, device=meta)
    else:
        sparse = EmbeddingBagCollection(tables=configs, device=meta, is_weighted=model.weighted)
    fused = {"optimizer": "ADAM", "learning_rate": 0.125, "seed": 7} | params
    registry = _codecs(model.qcomm)
    sharder: Any
    if sequence:
        sharder = DynamicEmbeddingCollectionSharder(fused, registry, model.dedup)
    else:
        sharder = DynamicEmbeddingBagCollectionSharder(fused, registry)
    constraints = {}
    for t in range(3):
        if model.static and t == 2:
            one = DynamicEmbParameterConstraints(
                sharding_types=[model.sharding], compute_kernels=["fused"]
            )
        else:
            options = DynamicEmbTableOptions(
                dist_type=model.dist_type,
                score_strategy=model.strategy,
                max_capacity=CAPACITY,
                initializer_args=cases.NORMAL,
            )
            one = DynamicEmbParameterConstraints(
                sharding_types=[model.sharding], use_dynamicemb=True, dynamicemb_options=options
            )
        constraints[f"t{t}"] = one
    world = dist.get_world_size(group)
    planner = DynamicEmbeddingShardingPlanner(
        configs,
        Topology(world_size=world, compute_device="cpu", local_world_size=world),
        constraints=constraints,
        debug=False,
    )
    top = Top(sparse)
    plan = planner.collective_plan(top, [sharder], group)
    return DistributedModelParallel(
        top,
        env=ShardingEnv.from_process_group(group),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[sharder],
    )


def _codecs(name: str) -> Any:
    if not name:
        return None
    from torchrec.distributed.fbgemm_qcomm_codec import (
        CommType,
        QCommsConfig,
        get_qcomm_codecs_registry,
    )

    config = QCommsConfig(CommType[name], CommType[name])
    return get_qcomm_codecs_registry(config, device=torch.device("cpu"))


def given_batch(model: Model, rank: int, step: int) -> Batch:
    case = cases.Case(model.kind, weighted=model.weighted, batches=model.batches)
    given = batch(case, rank, step)
    if model.static:  # its table has 1,000 rows
        given = given._replace(values=given.values.remainder(1000))
    return given


def jagged(model: Model, given: Batch) -> Any:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=FEATURES,
        values=given.values,
        lengths=given.lengths.reshape(-1),
        weights=given.weights if model.weighted else None,
    )


class Holder:
    """What ``cases.contents`` wants."""

    def __init__(self, model: nn.Module) -> None:
        self.groups = [m for several in collections_of(model).values() for m in several]


def train(group: Any, model: Model) -> Any:
    rank = dist.get_rank(group)
    made = build(model, group)
    outs = []
    for step in range(model.steps):
        given = given_batch(model, rank, step)
        out = made(jagged(model, given))
        case = cases.Case(model.kind)
        cases.learn(out, cases.grads_of(case, given, out))
        outs.append({name: part.detach() for name, part in out.items()})
    assert get_gradient_division()
    return outs, contents(Holder(made)), sorted(made.state_dict())
