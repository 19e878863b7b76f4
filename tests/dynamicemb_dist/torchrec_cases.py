"""TorchRec models with dynamic tables, sharded over the ranks of a group, beside one table."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbTableOptions
from dynamicemb.incremental_dump import collections_of
from dynamicemb.link import LinkBytes
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
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.planner import Topology
from torchrec.distributed.types import CommOp, ShardingEnv

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import FEATURES, Batch, batch, contents
from tests.dynamicemb_dist.pool import Pool

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
    optimizer: str = "ADAM"
    learning_rate: float = 0.125
    node: int = 0  # ranks of a node; 0: all
    counted: bool = False  # bytes; of groups of all ranks
    steps: int = 5
    device: str = "cpu"


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
    fused = {"optimizer": model.optimizer, "learning_rate": model.learning_rate, "seed": 7} | params
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
    node = model.node or world
    os.environ["LOCAL_WORLD_SIZE"] = str(node)  # what TorchRec looks at
    planner = DynamicEmbeddingShardingPlanner(
        configs,
        Topology(world_size=world, compute_device=model.device, local_world_size=node),
        constraints=constraints,
        debug=False,
    )
    top = Top(sparse)
    plan = planner.collective_plan(top, [sharder], group)
    return DistributedModelParallel(
        top,
        env=ShardingEnv.from_process_group(group),
        device=torch.device(model.device),
        plan=plan,
        sharders=[sharder],
    )


def _codecs(name: str) -> Any:
    """Each kind's own codec: TorchRec's registry takes fp16 for bf16 with gloo."""
    if not name:
        return None
    config = QCommsConfig(CommType[name], CommType[name])
    return {op.name: get_qcomm_codecs(config) for op in CommOp}


def given(model: Model, rank: int, step: int) -> tuple[Any, Batch]:
    """What TorchRec gets, and the batch that it stands for."""
    case = cases.Case(model.kind, weighted=model.weighted, batches=model.batches)
    whole = batch(case, rank, step)
    if model.static:  # its table has 1,000 rows
        whole = whole._replace(values=whole.values.remainder(1000))
    if model.varying:
        return _varying(model, whole, rank, step)
    jagged = KeyedJaggedTensor.from_lengths_sync(
        keys=FEATURES,
        values=whole.values,
        lengths=whole.lengths.reshape(-1),
        weights=whole.weights if model.weighted else None,
    )
    return jagged, whole


def _varying(model: Model, few: Batch, rank: int, step: int) -> tuple[Any, Batch]:
    """Feature f has ``2 + f`` bags, each that of one or more of five samples."""
    draw = torch.Generator().manual_seed(77 * step + rank)
    counts = [2 + f for f in range(len(FEATURES))]
    which = torch.stack([(torch.randperm(5, generator=draw) + step).remainder(n) for n in counts])
    bags: list[list[Tensor]] = []
    weights: list[list[Tensor]] = []
    begin = 0
    for lengths, n in zip(few.lengths.tolist(), counts, strict=True):
        sizes = lengths[:n]
        bags.append(list(few.values[begin : begin + sum(sizes)].split(sizes)))
        weights.append(list(few.weights[begin : begin + sum(sizes)].split(sizes)))
        begin += sum(lengths)
    jagged = KeyedJaggedTensor(
        keys=FEATURES,
        values=torch.cat([bag for of in bags for bag in of]),
        lengths=torch.tensor([len(bag) for of in bags for bag in of]),
        weights=torch.cat([w for of in weights for w in of]) if model.weighted else None,
        stride_per_key_per_rank=[[n] for n in counts],
        inverse_indices=(FEATURES, which),
    )
    chosen = [[(f, b) for b in row] for f, row in enumerate(which.tolist())]
    whole = few._replace(
        lengths=torch.tensor([[len(bags[f][b]) for f, b in row] for row in chosen]),
        values=torch.cat([bags[f][b] for row in chosen for f, b in row]),
        weights=torch.cat([weights[f][b] for row in chosen for f, b in row]),
    )
    return jagged, whole


class Holder:
    """What ``cases.contents`` wants."""

    def __init__(self, model: nn.Module) -> None:
        self.groups = [m for several in collections_of(model).values() for m in several]


def _static_rows(made: Any) -> list[tuple[int, Tensor]]:
    """(first row, rows) of this rank's shards of the static table."""
    state = made.state_dict()
    [entry] = [part for name, part in state.items() if name.endswith(".t2.weight")]
    shards = entry.local_shards()
    return [(s.metadata.shard_offsets[0], s.tensor.detach().clone()) for s in shards]


def train(group: Any, model: Model) -> Any:
    """Of one rank: what each step gave, its rows, names of the state, the static table's rows
    before and after, bytes that it handed to others."""
    rank = dist.get_rank(group)
    made = build(model, group)
    before = _static_rows(made) if model.static else []
    outs = []
    case = cases.Case(model.kind)
    counted = LinkBytes()
    with counted if model.counted else nullcontext():
        for step in range(model.steps):
            jagged, whole = given(model, rank, step)
            out = made(jagged)
            cases.learn(out, cases.grads_of(case, whole, out))
            outs.append({name: part.detach() for name, part in out.items()})
    assert get_gradient_division()
    after = _static_rows(made) if model.static else []
    return outs, contents(Holder(made)), sorted(made.state_dict()), (before, after), counted.total


def alone(model: Model, world: int) -> Any:
    """The same training by one module, its gradients divided by the number of ranks."""
    case = cases.Case(
        model.kind, model.dist_type, model.weighted, model.batches, optimizer=model.optimizer,
        strategy=model.strategy, learning_rate=model.learning_rate, steps=model.steps,
        share=1 / world, dims=(DIM, DIM, DIM),
    )  # fmt: skip
    return cases.train_alone(case, world, lambda _, rank, step: given(model, rank, step)[1])


def assert_same(pool: Pool, model: Model, world: int = 2, atol: float = 0.0) -> list[Any]:
    """Outputs and rows are one table's: of sequences exactly, of sums to rounding, or to atol."""
    got = pool.run(train, world, model)
    outs, tables = alone(model, world)
    exact = model.kind == "sequence" and not atol
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": max(atol, 1e-5)}
    names = FEATURES[:3] if model.static else FEATURES
    for rank in range(world):
        assert len(got[rank][0]) == model.steps
        for mine, wanted in zip(got[rank][0], outs[rank], strict=False):
            for name in names:
                torch.testing.assert_close(mine[name], wanted[name], **close)
    for name, (keys, rows) in tables.items():
        if model.static and name == "t2":
            continue
        parts = [got[rank][1][name] for rank in range(world) if name in got[rank][1]]
        every = torch.tensor([key for own, _ in parts for key in own])
        order = every.argsort()
        assert every[order].tolist() == keys
        found = torch.cat([part.view(-1, rows.shape[1]) for _, part in parts])[order]
        torch.testing.assert_close(found, rows, **close)
    return got
