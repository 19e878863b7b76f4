"""The tables and batches of ``dynamicemb_dist.py``, and a link that copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from dynamicemb import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
    EmbeddingBagConfig,
    ExchangeOptions,
    KeyedJaggedTensor,
)
from dynamicemb.link import Link

LAW = 1.05


class Case(NamedTuple):
    tables: int
    lookups: int  # a table and rank
    dim: int
    hot: int = 1  # ids of a bag; 1: sequences
    rows: int = 1 << 18  # of a table, a rank


CASES = {
    "sequences": Case(26, 65_536, 128),
    "bags": Case(26, 65_530, 128, 10),
    "cpu": Case(8, 16_384, 64),
    "small": Case(4, 1024, 16),
}


def options_of(case: Case, world: int) -> dict[str, ExchangeOptions]:
    most = max(1024, case.tables * case.lookups // world)
    half = {"forward_dtype": torch.bfloat16, "backward_dtype": torch.bfloat16}
    found = {
        "dedup": ExchangeOptions(pool_at="requester"),
        "all keys": ExchangeOptions(dedup=False, pool_at="requester"),
        "4 chunks": ExchangeOptions(chunks=4, pool_at="requester"),
        "fixed": ExchangeOptions(max_keys_per_rank=most),
        "bf16": ExchangeOptions(pool_at="requester", **half),
    }
    return found | ({"at owner": ExchangeOptions(pool_at="owner")} if case.hot > 1 else {})


class CopyingLink(Link):
    """Of a rank that the others give what it gives them, without waiting."""

    def __init__(self, group: Any) -> None:
        super().__init__(group)
        self.world = SIMULATED[0]

    def gathered(self, given: Any) -> list[Any]:
        return [given] * self.world

    def all_to_all(self, given: Any, received: Any, sent: Any) -> tuple[Any, Any]:
        return given.clone(), None

    def wait(self, work: Any) -> None: ...


SIMULATED = [1]


def collection(case: Case, device: torch.device, world: int, **more: Any) -> Any:
    kind: Any = DynamicEmbeddingBagCollection if case.hot > 1 else DynamicEmbeddingCollection
    tables = [
        EmbeddingBagConfig(f"t{t}", case.dim, case.rows * world, [f"f{t}"])
        for t in range(case.tables)
    ]
    return kind(tables, device, fused_params={"optimizer": "ADAM"}, **more)


def batch(case: Case, device: torch.device, rank: int) -> KeyedJaggedTensor:
    torch.manual_seed(rank)
    bags = case.lookups // case.hot
    chances = torch.arange(1, case.rows + 1, dtype=torch.float64, device=device) ** -LAW
    ends = chances.cumsum(0) / chances.sum()
    draw = torch.rand(case.tables * case.lookups, dtype=torch.float64, device=device)
    lengths = torch.full((case.tables * bags,), case.hot, device=device)
    names = [f"f{t}" for t in range(case.tables)]
    return KeyedJaggedTensor(names, torch.searchsorted(ends, draw), lengths)


def step_of(made: Any, given: KeyedJaggedTensor) -> Callable[[], None]:
    def step() -> None:
        out = made(given)
        parts = out.values()
        flat = parts if isinstance(parts, torch.Tensor) else torch.cat([p.values() for p in parts])
        flat.backward(torch.ones_like(flat))

    return step
