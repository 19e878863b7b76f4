"""A hundred ranks in one process, a thousand by flag; sixteen processes by flag."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from dynamicemb import (
    BatchedDynamicEmbeddingTablesV2,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbPoolingMode,
    DynamicEmbTableOptions,
    ExchangeOptions,
)
from dynamicemb.dealing import owners
from dynamicemb.exchange import Exchange, exchanged
from torch import Tensor

from tests.dynamicemb_dist import dump_test, exchange_test
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.fake_group import FakeLink, Meeting
from tests.dynamicemb_dist.pool import Pool

LONG = os.environ.get("DYNAMICEMB_LONG_TESTS") == "1"
DIST, DIM, RATE = "hash_roundrobin", 4, 0.5
WORLD, KEYS, STEPS = (1024, 102_400_000, 8) if LONG else (128, 102_400, 2)
EACH = KEYS // STEPS // WORLD  # distinct keys of a rank's batch; the last is the next rank's first


def keys_of(rank: int, step: int) -> Tensor:
    """Neighbours share one key; some are negative."""
    numbers = torch.arange(EACH + 1) + rank * EACH
    numbers[-1] %= WORLD * EACH
    return (numbers + step * WORLD * EACH) * 7919 - 10**9


def first_rows(keys: Tensor) -> Tensor:
    return (keys % 100000).float()[:, None].expand(-1, DIM)


def one_rank(link: FakeLink) -> int:
    """Trains a step on each batch, reads all of them again; the rows that it has in the end."""
    room = KEYS // WORLD * 11 // 10 + 512
    debug = DynamicEmbInitializerArgs(DynamicEmbInitializerMode.DEBUG)
    options = DynamicEmbTableOptions(
        torch.float32, DIM, room, dist_type=DIST, initializer_args=debug, init_capacity=room
    )
    module = BatchedDynamicEmbeddingTablesV2(
        [options], ["t"], pooling_mode=DynamicEmbPoolingMode.NONE, device="cpu", optimizer="SGD",
        learning_rate=RATE, enforce_hbm=True,
    )  # fmt: skip
    like: Any = link
    groups = [Exchange(module, [KEYS], like, ExchangeOptions(), None)]
    offsets = torch.tensor([0, EACH + 1])
    for step in range(STEPS):
        keys = keys_of(link.rank, step)
        (out,) = exchanged(groups, [(keys, offsets, None)])
        assert torch.equal(out, first_rows(keys)), f"rank {link.rank} gets other keys' rows"
        out.backward(torch.ones_like(out))
    module.eval()
    for step in range(STEPS):
        keys = keys_of(link.rank, step)
        (out,) = exchanged(groups, [(keys, offsets, None)])
        wanted = first_rows(keys) - RATE
        wanted[[0, -1]] -= RATE  # what two ranks asked for learned from both
        assert torch.equal(out, wanted), f"rank {link.rank} reads other rows than it trained"
    rows = 0
    for keys, _, _ in module.tiers.export(0):
        assert (owners(keys, DIST, WORLD) == link.rank).all()
        rows += len(keys)
    return rows


def test_ranks_of_one_process_deal_out_train_and_read_their_keys() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = torch.tensor(Meeting(WORLD).run(one_rank)).double()
    finally:
        torch.set_num_threads(threads)
    assert rows.sum() == WORLD * EACH * STEPS  # none lost, none twice
    sigma = float((rows.mean() * (1 - 1 / WORLD)) ** 0.5)
    assert (rows - rows.mean()).abs().max() <= 5 * sigma


@pytest.mark.parametrize("world", [8, 16])
def test_real_processes_train_dump_and_load_at_another_number(tmp_path: Any, world: int) -> None:
    if not LONG:
        pytest.skip("a long test: DYNAMICEMB_LONG_TESTS=1 runs it")
    pool = Pool(world, ["torch", "dynamicemb"], timeout=120)
    try:
        exchange_test.assert_same(pool, Case("sequence", DIST, steps=1), world)
        dump_test.test_other_ranks_load_the_same_rows(pool, tmp_path, world, 3, DIST, "continuous")
    finally:
        pool.end()
