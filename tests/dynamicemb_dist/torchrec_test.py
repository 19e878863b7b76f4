"""Dynamic tables under TorchRec's DistributedModelParallel train as one table would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import DIM, Model, train  # noqa: E402

DISTS = ("continuous", "roundrobin", "hash_roundrobin")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(2, ["torch", "dynamicemb.shard", "dynamicemb.planner"])
    yield made
    made.end()


def alone(model: Model, world: int) -> Any:
    """The same training by one module, its gradients divided by the number of ranks."""
    case = cases.Case(
        model.kind, model.dist_type, model.weighted, model.batches, strategy=model.strategy,
        steps=model.steps, share=1 / world, dims=(DIM, DIM, DIM),
    )  # fmt: skip
    return cases.train_alone(case, world)


def assert_same(pool: Pool, model: Model, world: int = 2, atol: float = 0.0) -> list[Any]:
    got = pool.run(train, world, model)
    outs, tables = alone(model, world)
    exact = model.kind == "sequence" and not atol
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": max(atol, 1e-5)}
    for rank in range(world):
        for mine, wanted in zip(got[rank][0], outs[rank], strict=False):
            for name in wanted:
                torch.testing.assert_close(mine[name], wanted[name], **close)
    for name, (keys, rows) in tables.items():
        parts = [got[rank][1][name] for rank in range(world) if name in got[rank][1]]
        every = torch.tensor([key for own, _ in parts for key in own])
        order = every.argsort()
        assert every[order].tolist() == keys
        found = torch.cat([part.view(-1, rows.shape[1]) for _, part in parts])[order]
        torch.testing.assert_close(found, rows, **close)
    return got


@pytest.mark.parametrize("dist_type", DISTS)
@pytest.mark.parametrize("dedup", [False, True])
def test_sequences_train_exactly_as_one_table(pool: Pool, dist_type: str, dedup: bool) -> None:
    assert_same(pool, Model("sequence", dist_type, dedup=dedup))


@pytest.mark.parametrize("dist_type", DISTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_train_as_one_table(pool: Pool, dist_type: str, weighted: bool) -> None:
    assert_same(pool, Model("SUM", dist_type, weighted))


def test_rows_are_no_parameters(pool: Pool) -> None:
    """Of SGD: means are the same to rounding; what the state dict has are placeholders."""
    for _, _, names in pool.run(train, 2, Model("SUM", steps=1)):
        assert names == [f"sparse.embedding_bags.t{t}.weight" for t in range(3)]
