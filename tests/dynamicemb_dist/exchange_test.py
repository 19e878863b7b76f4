"""Tables dealt out to the ranks of a group train as one table would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamicemb import ExchangeOptions
from dynamicemb.dealing import owners

from tests.dynamicemb_dist.cases import Case, train, train_alone
from tests.dynamicemb_dist.pool import Pool

DISTS = ("continuous", "roundrobin", "hash_roundrobin")
NO_DEDUP = ExchangeOptions(dedup=False)
AT_OWNER, AT_REQUESTER = (ExchangeOptions(pool_at=where) for where in ("owner", "requester"))
FIXED = ExchangeOptions(max_keys_per_rank=64)


def assert_same(pool: Pool, case: Case, world: int) -> list[Any]:
    got = pool.run(train, world, case)
    outs, tables = train_alone(case, world)
    exact = case.kind == "sequence"
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for rank in range(world):
        for step, (mine, wanted) in enumerate(zip(got[rank][0], outs[rank], strict=True)):
            for name in wanted:
                torch.testing.assert_close(
                    mine[name], wanted[name], **close, msg=lambda m, s=step: f"step {s}: {m}"
                )
    for name, (keys, rows) in tables.items():
        parts = [got[rank][1][name] for rank in range(world)]
        for rank, (own, _) in enumerate(parts):
            mine = owners(torch.tensor(own, dtype=torch.int64), case.dist_type, world, 1000)
            assert (mine == rank).all(), f"rank {rank} has keys of other ranks"
        every = torch.tensor([key for own, _ in parts for key in own])
        order = every.argsort()
        assert every[order].tolist() == keys
        found = torch.cat([part.view(-1, rows.shape[1]) for _, part in parts])[order]
        torch.testing.assert_close(found, rows, **close)
    return got


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("dist_type", DISTS)
def test_sequences_train_exactly_as_one_table(pool: Pool, dist_type: str, world: int) -> None:
    assert_same(pool, Case("sequence", dist_type), world)


@pytest.mark.parametrize("where", [AT_OWNER, AT_REQUESTER], ids=["owner", "requester"])
@pytest.mark.parametrize(
    ("dist_type", "world"),
    [("continuous", 1), ("continuous", 2), ("roundrobin", 3), ("roundrobin", 4), (DISTS[2], 2)],
)
def test_sums_train_as_one_table(
    pool: Pool, dist_type: str, world: int, where: ExchangeOptions
) -> None:
    assert_same(pool, Case("SUM", dist_type, exchange=where), world)


@pytest.mark.parametrize("kind", ["SUM", "MEAN"])
@pytest.mark.parametrize(
    "where", [AT_OWNER, AT_REQUESTER, FIXED], ids=["owner", "requester", "fixed"]
)
@pytest.mark.parametrize("batches", ["uneven", "empty", "none"])
def test_weighted_bags_of_any_batches_train_as_one_table(
    pool: Pool, kind: str, where: ExchangeOptions, batches: str
) -> None:
    assert_same(pool, Case(kind, "hash_roundrobin", True, batches, where), 3)


@pytest.mark.parametrize("batches", ["uneven", "empty", "none"])
@pytest.mark.parametrize(
    "exchange", [ExchangeOptions(), NO_DEDUP, FIXED], ids=["dedup", "all", "fixed"]
)
def test_sequences_of_any_batches_train_exactly(
    pool: Pool, batches: str, exchange: ExchangeOptions
) -> None:
    assert_same(pool, Case("sequence", batches=batches, exchange=exchange), 3)


@pytest.mark.parametrize("kind", ["sequence", "MEAN"])
@pytest.mark.parametrize("chunks", [1, 4])
def test_chunks_change_no_number(pool: Pool, kind: str, chunks: int) -> None:
    options = ExchangeOptions(chunks=chunks, pool_at="requester")
    assert_same(pool, Case(kind, exchange=options), 2)


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("strategy", ["LFU", "STEP"])
def test_occurrences_count_for_scores(pool: Pool, strategy: str, dedup: bool) -> None:
    options = ExchangeOptions(dedup=dedup)
    assert_same(pool, Case("sequence", strategy=strategy, exchange=options), 2)


@pytest.mark.parametrize("optimizer", ["SGD", "EXACT_ADAGRAD", "EXACT_ROWWISE_ADAGRAD", "FTRL"])
def test_every_optimizer_trains_exactly(pool: Pool, optimizer: str) -> None:
    assert_same(pool, Case("sequence", optimizer=optimizer), 2)


@pytest.mark.parametrize("where", [AT_OWNER, AT_REQUESTER], ids=["owner", "requester"])
def test_gradients_are_clipped_before_they_are_summed(pool: Pool, where: ExchangeOptions) -> None:
    assert_same(pool, Case("SUM", exchange=where, clip=True), 2)


def test_averaged_gradients_move_rows_by_a_share(pool: Pool) -> None:
    """Of SGD with a rate of 1/8 and two ranks, exactly half of what sums do."""
    base = Case("sequence", optimizer="SGD", steps=1)
    averaged = base._replace(exchange=ExchangeOptions(average_gradients=True))
    before, after, half = (
        pool.run(train, 2, case) for case in (base._replace(learning_rate=0.0), base, averaged)
    )
    for rank in range(2):
        for name, (keys, rows) in before[rank][1].items():
            assert keys == after[rank][1][name][0] == half[rank][1][name][0]
            moved = after[rank][1][name][1] - rows
            torch.testing.assert_close(half[rank][1][name][1] - rows, moved / 2, rtol=0, atol=1e-7)


def test_auto_pools_where_fewer_bytes_move(pool: Pool) -> None:
    got = assert_same(pool, Case("SUM"), 4)
    chosen = [ends for _, _, ends in got]
    assert all(one == chosen[0] for one in chosen)
    assert set(chosen[0]) <= {"owner", "requester"}
