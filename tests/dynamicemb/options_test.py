"""Every option and every constructor argument does something, which is seen here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamicemb import (
    BatchedDynamicEmbeddingTablesV2,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbTableOptions,
    FrequencyAdmissionStrategy,
    KVCounter,
    ProbabilisticAdmissionStrategy,
    get_sharded_table_capacity,
    get_table_value_bytes,
)
from torch import Tensor

from tests.dynamicemb.cases import options, tables

CONSTANT = DynamicEmbInitializerArgs(DynamicEmbInitializerMode.CONSTANT, value=3.0)


def train(module: BatchedDynamicEmbeddingTablesV2, keys: list[int], **more: Any) -> Tensor:
    ids = torch.tensor(keys, dtype=torch.int64, device=module.device)
    offsets = torch.tensor([0, len(keys)], device=module.device)
    out: Tensor = module.train()(ids, offsets, **more)
    return out


def present(module: BatchedDynamicEmbeddingTablesV2, table: str = "table0") -> set[int]:
    return {key for keys, _ in module.export_keys_values(table) for key in keys.tolist()}


def test_defaults_are_those_that_callers_know() -> None:
    made = DynamicEmbTableOptions()
    assert (made.max_load_factor, made.bucket_capacity, made.dist_type) == (0.5, 128, "roundrobin")
    assert made.index_type == torch.int64 and made.training and not made.caching
    assert made.score_strategy == 0 and made.safe_check_mode == 2 and made.init_capacity is None
    assert made.eval_initializer_args.mode is DynamicEmbInitializerMode.CONSTANT
    names = list(DynamicEmbTableOptions.__dataclass_fields__)
    assert names[:5] == [
        "embedding_dtype", "dim", "max_capacity", "evict_strategy", "local_hbm_for_values",
    ]  # fmt: skip
    assert len(names) == 21


@pytest.mark.parametrize(
    "change",
    [
        {"training": False}, {"caching": True}, {"external_storage": object()},
        {"index_type": torch.uint64}, {"score_strategy": "LFU"}, {"dist_type": "continuous"},
        {"admit_strategy": FrequencyAdmissionStrategy(2)},
    ],
)  # fmt: skip
def test_tables_are_equal_by_what_makes_them_one_module(change: dict[str, Any]) -> None:
    assert options(4) == options(8, 77, max_load_factor=0.7)
    assert hash(options(4)) == hash(options(8))
    assert options(4) != options(4, **change)


def test_equal_strategies_are_equal() -> None:
    assert FrequencyAdmissionStrategy(2, KVCounter(4)) == FrequencyAdmissionStrategy(2)
    assert FrequencyAdmissionStrategy(2) != FrequencyAdmissionStrategy(3)
    assert ProbabilisticAdmissionStrategy(0.5) == ProbabilisticAdmissionStrategy(0.5)
    assert ProbabilisticAdmissionStrategy(0.5) != ProbabilisticAdmissionStrategy(0.25)


def test_a_missing_key_reads_as_the_constant_of_evaluation(device: str) -> None:
    module = tables([4], device, eval_initializer_args=CONSTANT)
    ids, offsets = torch.tensor([5], device=device), torch.tensor([0, 1], device=device)
    assert module.eval()(ids, offsets).tolist() == [[3.0] * 4]
    assert not present(module)


def test_each_table_has_its_own_initializer(device: str) -> None:
    first = options(2, initializer_args=CONSTANT)
    second = options(2, initializer_args=DynamicEmbInitializerArgs(CONSTANT.mode, value=7.0))
    module = BatchedDynamicEmbeddingTablesV2([first, second], device=device)
    ids, offsets = torch.tensor([1, 1], device=device), torch.tensor([0, 1, 2], device=device)
    assert module(ids, offsets).tolist() == [[3.0, 3.0, 7.0, 7.0]]


def test_least_recently_used_rows_leave_first(device: str) -> None:
    module = tables([4], device, max_capacity=100)
    train(module, list(range(100)))
    train(module, list(range(50)))
    train(module, list(range(1000, 1040)))
    assert len(present(module)) == 100 and set(range(1000, 1040)) <= present(module)
    assert len(present(module) & set(range(50))) == 50
    assert module.stats()["evicted"] == 40


def test_least_frequent_rows_leave_first(device: str) -> None:
    module = tables([4], device, max_capacity=100, score_strategy="LFU")
    train(module, list(range(100)) + list(range(60)) * 3)
    often = torch.full((40,), 2, dtype=torch.int64, device=device)
    train(module, list(range(1000, 1040)), frequency_counters=often)
    assert present(module) == set(range(60)) | set(range(1000, 1040))


def test_scores_of_one_s_own_rank(device: str) -> None:
    module = tables([4], device, max_capacity=10, score_strategy="CUSTOMIZED")
    with pytest.raises(ValueError, match="needs set_score before a forward"):
        train(module, [1])
    module.set_score({"table0": 10})
    train(module, list(range(10)))
    with pytest.warns(UserWarning, match="falls from 10 to 5"):
        module.set_score({"table0": 5})
    train(module, [100])
    assert present(module) == set(range(10)) and module.stats()["refused"] == 1
    module.set_score({"table0": 20})
    train(module, [100])
    assert 100 in present(module)
    assert module.get_score() == {"table0": 20}


def test_steps_are_counted_by_forwards(device: str) -> None:
    module = tables([4], device, score_strategy="STEP")
    assert module.get_score() == {"table0": 1}
    train(module, [1]), train(module, [2])
    assert module.get_score() == {"table0": 3}
    found, _ = module.incremental_dump(2)
    assert found["table0"][0].tolist() == [2]


def test_without_eviction_a_table_grows(device: str) -> None:
    module = tables([4], device, max_capacity=16, score_strategy="NO_EVICTION")
    train(module, list(range(500)))
    assert present(module) == set(range(500))


def test_a_table_grows_from_its_first_capacity_by_its_load_factor(device: str) -> None:
    def capacity(**changes: Any) -> int:
        module = tables([4], device, max_capacity=4096, **changes)
        train(module, list(range(300)))
        return int(module.stats()["tables"]["table0"]["capacity"])

    assert capacity() == 4096
    assert capacity(init_capacity=256) == 1024
    assert capacity(init_capacity=256, max_load_factor=0.9) == 512


@pytest.mark.parametrize("mode", ["ERROR", "WARNING", "IGNORE"])
def test_keys_without_room_are_told_as_asked(device: str, mode: str) -> None:
    module = tables([4], device, max_capacity=4, safe_check_mode=mode)
    if mode == "ERROR":
        with pytest.raises(RuntimeError, match="found no room"):
            train(module, list(range(20)))
    elif mode == "WARNING":
        with pytest.warns(UserWarning, match="found no room"):
            train(module, list(range(20)))
        train(module, list(range(20, 40)))  # once
    else:
        train(module, list(range(20)))
    assert module.stats()["refused"] >= 16 and len(present(module)) == 4


def test_keys_are_admitted_once_they_are_frequent(device: str) -> None:
    counter = KVCounter(100)
    strategy = FrequencyAdmissionStrategy(3, counter, CONSTANT)
    module = tables([2], device, "NONE", admit_strategy=strategy, learning_rate=1.0)
    out = train(module, [5, 5, 6])
    assert out.tolist() == [[3.0, 3.0]] * 3 and not present(module)
    out.sum().backward()
    assert not present(module)
    train(module, [5])
    assert present(module) == {5} and counter.tables == {0: {6: 1}}
    train(module, [6], frequency_counters=torch.tensor([2], device=device))
    assert present(module) == {5, 6} and counter.memory_usage() == 0


def test_the_counter_of_the_options_serves_a_strategy_without_one(device: str) -> None:
    module = tables(
        [2], device, admit_strategy=FrequencyAdmissionStrategy(2), admission_counter=KVCounter(9)
    )
    train(module, [1])
    assert not present(module)
    train(module, [1])
    assert present(module) == {1}


def test_keys_are_admitted_by_chance(device: str) -> None:
    module = tables([2], device, admit_strategy=ProbabilisticAdmissionStrategy(0.3))
    train(module, list(range(2000)))
    assert 500 < len(present(module)) < 700


def test_untrained_tables_are_read_alone(device: str) -> None:
    module = tables([4], device, training=False)
    assert train(module, [1]).tolist() == [[0.0] * 4] and not present(module)
    assert module.layouts[0].row_bytes == 16


def test_cached_rows_come_back_from_the_host(device: str) -> None:
    module = tables(
        [4], device, "NONE", caching=True, max_capacity=4096, local_hbm_for_values=1024 * 16,
        learning_rate=1.0,
    )  # fmt: skip
    first = train(module, list(range(1000)))
    first.backward(torch.ones_like(first))
    train(module, list(range(10000, 11000)))
    assert module.cache is not None and module.stats()["evicted"] > 0
    again = train(module, list(range(1000)))
    assert torch.allclose(again, first - 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"caching needs local_hbm_for_values >= 16384 bytes"):
        tables([4], device, caching=True, local_hbm_for_values=100)


def test_prefetched_rows_stay_until_their_backward(device: str) -> None:
    module = tables([4], device, max_capacity=8, prefetch_pipeline=True, learning_rate=1.0)
    ids, offsets = torch.arange(8, device=device), torch.tensor([0, 8], device=device)
    module.prefetch(ids, offsets)
    assert module.stats()["tables"]["table0"]["held"] == 8 and module.enable_prefetch
    other = ids + 100
    module.prefetch(other, offsets)  # no row is free
    assert module.stats()["refused"] == 8
    out = module(ids, offsets)
    out.sum().backward()
    assert module.stats()["tables"]["table0"]["held"] == 0
    with pytest.raises(ValueError, match="not those that were prefetched"):
        module(ids[:3], torch.tensor([0, 3], device=device))
    module.reset_cache_states()


def test_keys_that_leave_are_kept_for_the_reader(device: str) -> None:
    module = tables([4, 4], device, max_capacity=8, capture_evicted=True)
    for start in (0, 100):
        ids = torch.arange(start, start + 8, device=device).repeat(2)
        module(ids, torch.tensor([0, 8, 16], device=device))
    gone = module.pop_evicted_keys()
    assert set(gone["table0"].tolist()) == set(gone["table1"].tolist()) == set(range(8))
    assert not module.pop_evicted_keys()["table0"].numel()
    with pytest.raises(RuntimeError, match="needs capture_evicted=True"):
        tables([4], device).pop_evicted_keys()


def test_tables_can_be_filled(device: str) -> None:
    module = tables([4], device, max_capacity=1000)
    module.fill_tables(0.5)
    assert 490 <= module.stats()["tables"]["table0"]["rows"] <= 510


def test_a_table_s_bytes_are_reckoned_as_they_are_laid_out() -> None:
    given = options(128, 1000)
    assert get_table_value_bytes(given, "SGD") == 512 * 1000
    assert get_table_value_bytes(given, "ADAM") == (3 * 512 + 32) * 1000
    assert get_table_value_bytes(given, "EXACT_ROWWISE_ADAGRAD", rows=10) == (512 + 32) * 10
    assert get_sharded_table_capacity(1000, 3, 128) == 384


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_have_the_dtype_that_is_asked_for(device: str, dtype: torch.dtype) -> None:
    module = tables([4], device, output_dtype=dtype, embedding_dtype=torch.bfloat16)
    out = train(module, [1, 2])
    out.sum().backward()
    assert out.dtype == dtype
