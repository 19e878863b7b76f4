"""What is wrong is named, with its value and what is allowed, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2, DynamicEmbTableOptions, KVCounter
from dynamicemb.types import DynamicEmbInitializerArgs, DynamicEmbInitializerMode

from tests.dynamicemb.cases import options, tables

IDS, OFFSETS = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS.float(), OFFSETS), "indices must be a 1-D int64 tensor, got torch.float32"),
        ((IDS[None], OFFSETS), r"indices must be a 1-D int64 tensor, got torch.int64 \(1, 3\)"),
        ((IDS, OFFSETS.float()), "offsets must be a 1-D int64 tensor, got torch.float32"),
        ((IDS, torch.tensor([0, 3])), "offsets must have features"),
        ((IDS, torch.tensor([0, 2, 1])), "offsets must ascend from 0 to the number of indices, 3"),
        ((IDS, torch.tensor([0, 1, 2])), "offsets must ascend"),
        ((IDS, torch.tensor([1, 1, 3])), "offsets must ascend"),
        ((IDS, OFFSETS, torch.ones(2)), r"per_sample_weights must be floats of shape \(3,\)"),
        ((IDS, OFFSETS, IDS), "per_sample_weights must be floats"),
        ((IDS, OFFSETS, None, torch.ones(2)), "feature_requires_grad must be None"),
        ((IDS, OFFSETS, None, None, [[1]]), "batch_size_per_feature_per_rank must be None"),
    ],
)
def test_a_wrong_batch_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    module = tables([4, 4], "cpu")
    with pytest.raises(ValueError, match=message):
        module(*arguments)
    assert module.stats()["inserted"] == 0


def test_frequencies_must_fit() -> None:
    module = tables([4, 4], "cpu")
    with pytest.raises(ValueError, match=r"frequency_counters must be int64 of shape \(3,\)"):
        module(IDS, OFFSETS, frequency_counters=torch.ones(3))


def test_weights_need_a_pooling() -> None:
    module = tables([4, 4], "cpu", "NONE")
    with pytest.raises(ValueError, match="per_sample_weights need pooling_mode SUM or MEAN"):
        module(IDS, OFFSETS, torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be a number >= 0, got -1"),
        ({"eps": -1.0}, "eps must be a number >= 0"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1"),
        ({"optimizer": "LION"}, "optimizer must be one of SGD, EXACT_SGD, ADAM"),
        ({"weight_decay_mode": "X"}, "weight_decay_mode must be one of NONE, L2, DECOUPLE"),
        ({"learning_rate_power": 1.0}, "learning_rate_power must be <= 0"),
        ({"momentum": 0.5}, "momentum has no effect here; only 0.9 is allowed, got 0.5"),
        ({"eta": 0.5}, "eta has no effect here"),
        ({"use_index_dedup": True}, "use_index_dedup has no effect here"),
        ({"counter_based_regularization": 1}, "counter_based_regularization has no effect"),
        ({"cowclip_regularization": 1}, "cowclip_regularization has no effect"),
        ({"output_dtype": torch.int8}, "output_dtype must be a float dtype"),
        ({"max_capacity": 0}, "max_capacity of table .* must be an int >= 1, got 0"),
        ({"max_load_factor": 0.0}, r"max_load_factor of table .* must be in \(0, 1\]"),
        ({"init_capacity": -1}, "init_capacity of table .* must be an int >= 1"),
        ({"embedding_dtype": torch.int8}, "embedding_dtype must be one of"),
        ({"external_storage": 5}, "external_storage must be a Storage, got 5"),
        ({"feature_table_map": [1, 0]}, r"feature_table_map must ascend .*, got \[1, 0\]"),
        ({"feature_table_map": [0]}, "feature_table_map must ascend"),
    ],
)
def test_a_wrong_module_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables([4, 4], "cpu", **changes)


@pytest.mark.parametrize("dim", [0, -1, 1025])
def test_a_wrong_dim_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="dim"):
        tables([dim], "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dist_type": "x"}, "dist_type must be one of continuous, roundrobin, hash_roundrobin"),
        ({"index_type": torch.int32}, "index_type must be torch.int64 or torch.uint64"),
        ({"score_strategy": ("LFU", "STEP")}, r"score_strategy must be one strategy or \(TIMES"),
        ({"safe_check_mode": "x"}, "safe_check_mode must be one of ERROR, WARNING, IGNORE"),
        (
            {"eval_initializer_args": DynamicEmbInitializerArgs(DynamicEmbInitializerMode.UNIFORM)},
            "eval_initializer_args must be CONSTANT, got UNIFORM",
        ),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicEmbTableOptions(**changes)


def test_tables_of_one_module_must_agree() -> None:
    with pytest.raises(ValueError, match=r"table_options\[1\] and table_options\[0\] must agree"):
        BatchedDynamicEmbeddingTablesV2([options(4), options(4, score_strategy="LFU")])
    with pytest.raises(ValueError, match="table_names must be 2 distinct names"):
        BatchedDynamicEmbeddingTablesV2([options(4), options(4)], ["a", "a"], device="cpu")
    with pytest.raises(ValueError, match="table_options must hold at least one table"):
        BatchedDynamicEmbeddingTablesV2([])


def test_wrong_scores_are_refused() -> None:
    module = tables([4], "cpu", score_strategy="CUSTOMIZED")
    with pytest.raises(ValueError, match="there is no table 'x'"):
        module.set_score({"x": 1})
    with pytest.raises(ValueError, match="must be an int from 1 to"):
        module.set_score({"table0": 0})
    with pytest.raises(ValueError, match="needs score_strategy CUSTOMIZED, and it is TIMESTAMP"):
        tables([4], "cpu").set_score({"table0": 1})
    with pytest.raises(ValueError, match="threshold of table 'table0' must be an int >= 0"):
        module.incremental_dump({"table0": -1})


def test_counters_need_a_capacity() -> None:
    with pytest.raises(ValueError, match="capacity must be an int >= 1, got 0"):
        KVCounter(0)


@pytest.mark.parametrize("pooling", ["SUM", "MEAN", "NONE"])
def test_empty_batches_and_bags_work(device: str, pooling: str) -> None:
    module = tables([4, 6], device, pooling, optimizer="ADAM")
    none = torch.empty(0, dtype=torch.int64, device=device)
    for samples in (0, 3):
        offsets = torch.zeros(2 * samples + 1, dtype=torch.int64, device=device)
        for train in (True, False):
            out = module.train(train)(none, offsets)
            assert out.shape == ((0, 6) if pooling == "NONE" else (samples, 10))
            assert not out.any()
            if train:
                out.sum().backward()
    assert module.stats()["inserted"] == 0
    module.fused = False
    module.step()


def test_the_least_and_the_greatest_ids_are_keys(device: str) -> None:
    module = tables([4], device, "NONE", learning_rate=1.0)
    ids = torch.tensor([2**63 - 1, -(2**63), 0, -1], device=device)
    offsets = torch.tensor([0, 4], device=device)
    out = module(ids, offsets)
    out.backward(torch.ones_like(out))
    assert torch.allclose(module.eval()(ids, offsets), out - 1, atol=1e-6)


def test_unsigned_ids_are_the_same_keys(device: str) -> None:
    module = tables([4], device, index_type=torch.uint64)
    ids = torch.tensor([-1, 5], device=device)
    offsets = torch.tensor([0, 2], device=device)
    signed = module(ids, offsets)
    assert torch.equal(module(ids.view(torch.uint64), offsets), signed)
