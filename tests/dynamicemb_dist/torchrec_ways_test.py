"""Every way in which TorchRec shards, pools and moves dynamic tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import FEATURES
from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import DIM, Model, assert_same, build, given  # noqa: E402

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
        Model("sequence"),
        Model("sequence", "hash_roundrobin", dedup=True, sharding="table_wise"),
        Model("sequence", "continuous", dedup=True, static=True, optimizer="SGD"),
    ],
)
def test_a_batch_of_its_own_for_each_feature_trains_as_one_table(pool: Pool, model: Model) -> None:
    assert_same(pool, model._replace(varying=True))


@pytest.mark.parametrize("model", [Model(), Model(dedup=True), Model("SUM"), MEAN])
def test_batches_of_other_sizes_train_as_one_table(pool: Pool, model: Model) -> None:
    assert_same(pool, model._replace(batches="uneven"), world=4)


def without_samples(group: Any) -> None:
    none = torch.empty(0, dtype=torch.int64)
    build(Model(), group)(torchrec.KeyedJaggedTensor(FEATURES, none, lengths=none, stride=0))


def test_sequences_of_no_sample_are_named(pool: Pool) -> None:
    for said in pool.errors(without_samples, 2):
        assert "features must have one sample or more on each rank, got none" in said


@pytest.mark.parametrize(
    ("kind", "batches"), [("sequence", "empty"), ("SUM", "empty"), ("SUM", "none")]
)
def test_a_rank_without_keys_or_samples_trains_as_one_table(
    pool: Pool, kind: str, batches: str
) -> None:
    assert_same(pool, Model(kind, batches=batches))


def test_counts_of_distinct_keys_rank_as_occurrences(pool: Pool) -> None:
    assert_same(pool, Model("sequence", dedup=True, strategy="LFU"))


@pytest.mark.parametrize("kind", ["sequence", "SUM"])
def test_static_and_dynamic_tables_train_twenty_steps_as_one_table_each(
    pool: Pool, kind: str
) -> None:
    model = Model(kind, static=True, optimizer="SGD", steps=20)
    got = assert_same(pool, model)
    first, last = (
        torch.cat([part for _, part in sorted(p for rank in got for p in rank[3][when])])
        for when in (0, 1)
    )
    case = cases.Case(kind)
    for step in range(model.steps):
        change = torch.zeros_like(first)
        for rank, (outs, *_) in enumerate(got):
            _, whole = given(model, rank, step)
            ids = whole.values.split(whole.lengths.sum(1).tolist())[3]
            grad = cases.grads_of(case, whole, outs[step])[3]
            wanted = first[ids]
            if kind == "SUM":
                bag = torch.repeat_interleave(torch.arange(len(grad)), whole.lengths[3])
                wanted = torch.zeros_like(grad).index_add_(0, bag, wanted)
                grad = grad[bag]
            torch.testing.assert_close(outs[step]["i"], wanted)
            change.index_add_(0, ids, grad)
        first -= model.learning_rate * change / len(got)
    torch.testing.assert_close(last, first)


def test_sums_cross_rounded_and_in_half_the_bytes(pool: Pool) -> None:
    """Partial sums in the forward, gradients in the backward."""
    model = Model("SUM", optimizer="SGD", learning_rate=1.0, steps=2, counted=True)
    plain = assert_same(pool, model)
    rows = 2 * 2 * len(FEATURES) * 5 * DIM * 4  # bytes: two steps, there and back, five samples
    for comm, dtype in {"FP16": torch.float16, "BF16": torch.bfloat16}.items():
        short = assert_same(pool, model._replace(qcomm=comm), atol=0.2)
        for rank in range(2):
            for name in FEATURES:
                first, exact = short[rank][0][0][name], plain[rank][0][0][name]
                assert not torch.equal(first, exact)
                torch.testing.assert_close(
                    first, exact, rtol=0, atol=8 * float(torch.finfo(dtype).eps)
                )
            assert plain[rank][4] - short[rank][4] == rows // 2


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
