"""Collections that are trained on the ranks of a group, and the same ones trained alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from dynamicemb import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbTableOptions,
    EmbeddingBagConfig,
    EmbeddingConfig,
    ExchangeOptions,
    KeyedJaggedTensor,
    dump_load,
)
from torch import Tensor

STEPS = 20
NORMAL = DynamicEmbInitializerArgs(DynamicEmbInitializerMode.NORMAL, std_dev=0.5)
KEYS = 60
FEATURES = ["f", "g", "h", "i"]
DIMS = [8, 8, 6]  # of the tables; the first has features f and g


class Case(NamedTuple):
    """One way to train."""

    kind: str = "sequence"  # or a pooling
    dist_type: str = "roundrobin"
    weighted: bool = False
    batches: str = "equal"  # "uneven", "empty": rank 1 has no keys, "none": nor samples
    exchange: ExchangeOptions = ExchangeOptions()
    optimizer: str = "ADAM"
    strategy: str = "TIMESTAMP"
    clip: bool = False
    steps: int = STEPS
    learning_rate: float = 0.125
    share: float = 1.0  # of the gradients that one table sees
    dims: tuple[int, ...] = tuple(DIMS)


class Batch(NamedTuple):
    lengths: Tensor  # (features, samples)
    values: Tensor
    weights: Tensor
    grads: Tensor  # what a number is to the loss; taken from the front


def batch(case: Case, rank: int, step: int) -> Batch:
    """Numbers are multiples of 1/8, so that their sums are the same in every order."""
    draw = torch.Generator().manual_seed(1000 * step + rank)
    samples = {"uneven": 3 + 2 * rank, "none": 0 if rank == 1 else 5}.get(case.batches, 5)
    longest = 0 if case.batches == "empty" and rank == 1 else 4
    lengths = torch.randint(0, longest + 1, (len(FEATURES), samples), generator=draw)
    n = int(lengths.sum())
    values = (KEYS * torch.rand(n, generator=draw) ** 2).long() * 7919 - 100_000
    weights = torch.randint(1, 9, (n,), generator=draw) / 8
    grads = torch.randint(-8, 9, (4096,), generator=draw) / 8
    return Batch(lengths, values, weights, grads)


def collection(case: Case, group: Any, **changes: Any) -> Any:
    owned, tables = [FEATURES[:2], FEATURES[2:3], FEATURES[3:]], changes.pop("tables", 3)
    options = {
        f"t{t}": DynamicEmbTableOptions(
            dist_type=case.dist_type,
            score_strategy=case.strategy,
            max_capacity=1024,
            initializer_args=NORMAL,
        )
        for t in range(tables)
    }
    params = {"optimizer": case.optimizer, "learning_rate": case.learning_rate, "seed": 7}
    if case.clip:
        params |= {"gradient_clipping": True, "max_gradient": 0.5}
    more: dict[str, Any] = {"device": "cpu", "options": options, "fused_params": params}
    if group is not None:
        more |= {"process_group": group, "exchange": case.exchange}
    more |= changes
    if case.kind == "sequence":
        rows = [EmbeddingConfig(f"t{t}", case.dims[t], 1000, owned[t]) for t in range(tables)]
        return DynamicEmbeddingCollection(rows, **more)
    bags = [
        EmbeddingBagConfig(f"t{t}", case.dims[t], 1000, owned[t], "FP32", case.kind)
        for t in range(tables)
    ]
    return DynamicEmbeddingBagCollection(bags, is_weighted=case.weighted, **more)


def look_up(case: Case, made: Any, given: Batch) -> dict[str, Tensor]:
    """Feature -> rows."""
    weights = given.weights if case.weighted else None
    jagged = KeyedJaggedTensor(FEATURES, given.values, given.lengths.reshape(-1), weights)
    out = made(jagged)
    if case.kind == "sequence":
        return {name: out[name].values() for name in FEATURES}
    return {name: out[name] for name in FEATURES}


def learn(out: dict[str, Tensor], grads: list[Tensor]) -> None:
    loss = sum((out[name] * grad).sum() for name, grad in zip(FEATURES, grads, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()


def grads_of(case: Case, given: Batch, out: dict[str, Tensor]) -> list[Tensor]:
    found, at = [], 0
    for name in FEATURES:
        n = out[name].numel()
        found.append(given.grads[at : at + n].reshape(out[name].shape))
        at += n
    return found


def contents(made: Any) -> dict[str, tuple[list[int], Tensor]]:
    """Table -> its keys and rows (weights, state), sorted by key."""
    found = {}
    for module in made.groups:
        for t, name in enumerate(module.table_names):
            keys, rows = [torch.empty(0, dtype=torch.int64)], [torch.empty(0)]
            for some, words, _ in module.tiers.export(t):
                parts = [
                    dump_load.weights_of(module, t, words),
                    dump_load.state_of(module, t, words),
                ]
                keys.append(some)
                rows.append(torch.cat(parts, 1))
            every, order = torch.cat(keys).sort()
            values = torch.cat([r for r in rows if r.dim() == 2] or [torch.empty(0, 1)])
            found[name] = (every.tolist(), values[order])
    return found


def train(group: Any, case: Case) -> Any:
    """Of one rank: what each step gave, and its rows at the end."""
    made = collection(case, group)
    rank = dist.get_rank(group)
    outs = []
    for step in range(case.steps):
        given = batch(case, rank, step)
        out = look_up(case, made, given)
        learn(out, grads_of(case, given, out))
        outs.append({name: part.detach() for name, part in out.items()})
    ends = look_up(case, made.eval(), batch(case, rank, case.steps))
    outs.append({name: part.detach() for name, part in ends.items()})
    return outs, contents(made), [e.pool_at for e in made._exchanges]


def train_alone(case: Case, world: int, batches: Callable[[Case, int, int], Batch] = batch) -> Any:
    """What all ranks of ``train`` give, reckoned by one module that sees all their batches."""
    made = collection(case, None)
    outs: list[list[dict[str, Tensor]]] = [[] for _ in range(world)]
    for step in range(case.steps + 1):
        given = [batches(case, rank, step) for rank in range(world)]
        parts = [b.values.split(b.lengths.sum(1).tolist()) for b in given]
        weights = [b.weights.split(b.lengths.sum(1).tolist()) for b in given]
        together = Batch(
            torch.cat([b.lengths for b in given], 1),
            torch.cat([part[f] for f in range(len(FEATURES)) for part in parts]),
            torch.cat([part[f] for f in range(len(FEATURES)) for part in weights]),
            torch.empty(0),
        )
        if step == case.steps:
            made.eval()
        out = look_up(case, made, together)
        sizes = {
            name: [
                int(b.lengths[f].sum()) if case.kind == "sequence" else b.lengths.shape[1]
                for b in given
            ]
            for f, name in enumerate(FEATURES)
        }
        split = {name: out[name].split(sizes[name]) for name in FEATURES}
        mine = [{name: split[name][rank] for name in FEATURES} for rank in range(world)]
        if step < case.steps:
            grads = [grads_of(case, b, m) for b, m in zip(given, mine, strict=True)]
            learn(
                out, [case.share * torch.cat([g[f] for g in grads]) for f in range(len(FEATURES))]
            )
        for rank in range(world):
            outs[rank].append({name: part.detach() for name, part in mine[rank].items()})
    return outs, contents(made)
