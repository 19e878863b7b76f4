"""Every way in which TorchRec shards, pools and moves dynamic tables."""

from __future__ import annotations

import pytest
import torch

from tests.dynamicemb_dist.cases import FEATURES
from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import Model, assert_same, given  # noqa: E402

# Means are dyadic no more: Adam's first steps would turn a sum's rounding around.
MEAN = Model("MEAN", optimizer="SGD")


@pytest.mark.parametrize(
    "model",
    [
        Model("sequence"),
        Model("sequence", dedup=True),
        Model("SUM"),
        Model("SUM", weighted=True),
        MEAN,
    ],
)
def test_whole_tables_on_a_rank_train_as_one_table(pool: Pool, model: Model) -> None:
    got = assert_same(pool, model._replace(sharding="table_wise"))
    owned = [sorted(name for name, (keys, _) in rank[1].items() if keys) for rank in got]
    assert sorted(owned[0] + owned[1]) == ["t0", "t1", "t2"]


def test_means_train_as_one_table(pool: Pool) -> None:
    assert_same(pool, MEAN)


@pytest.mark.parametrize(
    "model",
    [
        Model("SUM"),
        Model("SUM", weighted=True),
        Model("SUM", "continuous", sharding="table_wise"),
    ],
)
def test_a_batch_of_its_own_for_each_feature_trains_as_one_table(pool: Pool, model: Model) -> None:
    assert_same(pool, model._replace(varying=True))


@pytest.mark.parametrize("kind", ["sequence", "SUM"])
def test_a_rank_without_keys_trains_as_one_table(pool: Pool, kind: str) -> None:
    assert_same(pool, Model(kind, batches="empty"))


def test_counts_of_distinct_keys_rank_as_occurrences(pool: Pool) -> None:
    assert_same(pool, Model("sequence", dedup=True, strategy="LFU"))


@pytest.mark.parametrize("comm", ["FP16", "BF16"])
def test_rows_cross_rounded_and_in_half_the_bytes(pool: Pool, comm: str) -> None:
    dtype = {"FP16": torch.float16, "BF16": torch.bfloat16}[comm]
    model = Model("sequence", optimizer="SGD", learning_rate=1.0, steps=2, counted=True)
    plain = assert_same(pool, model)
    short = assert_same(pool, model._replace(qcomm=comm), atol=0.05)
    ids = 2 * (8 + 1) * sum(len(given(model, 0, step)[1].values) for step in range(2))
    for rank in range(2):
        for name in FEATURES:
            rounded = plain[rank][0][0][name].to(dtype).float()
            assert torch.equal(short[rank][0][0][name], rounded)
        assert short[rank][4] - ids < 0.6 * (plain[rank][4] - ids)
