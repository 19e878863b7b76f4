"""The calls of dynamicemb that succeed, on the CPU."""

from __future__ import annotations

from typing import Any

import dynamicemb as d
import torch

from tests.interface.walk import Call, Walk, kinds, needed_of

KEYS = torch.tensor([5, 7, 5])
OFFSETS = torch.tensor([0, 2, 3])
TABLE_IDS = torch.zeros(3, dtype=torch.int64)
FUNCTIONS: dict[str, dict[str, Any]] = {
    "align_to_table_size": {"rows": 3},
    "data_type_to_dtype": {"data_type": "FP32"},
    "data_type_to_dyn_emb": {"data_type": "FP32"},
    "dyn_emb_to_torch": {"dtype": d.torch_to_dyn_emb(torch.float32)},
    "torch_to_dyn_emb": {"dtype": torch.float32},
    "string_to_evict_strategy": {"name": "KLru"},
    "get_sharded_table_capacity": {
        "num_embeddings": 100, "world_size": 2, "bucket_capacity": 128,
    },
    "KVCounter": {"capacity": 10},
    "ExchangeOptions": {},
    "FrequencyAdmissionStrategy": {"threshold": 2},
    "ProbabilisticAdmissionStrategy": {"probability": 0.5},
    "EmbeddingConfig": {"name": "t", "embedding_dim": 8, "num_embeddings": 100},
    "EmbeddingBagConfig": {"name": "t", "embedding_dim": 8, "num_embeddings": 100},
    "KeyedJaggedTensor": {"keys": ["f"], "values": KEYS, "lengths": torch.tensor([2, 1])},
}  # fmt: skip


def options() -> Any:
    return d.DynamicEmbTableOptions(torch.float32, 8, 100)


def bag_config() -> Any:
    return d.EmbeddingBagConfig("t", 8, 100, ["f"])


def batch() -> Any:
    return d.KeyedJaggedTensor(["f"], KEYS, torch.tensor([2, 1]))


def tables_of(**given: Any) -> Any:
    """What options are for: they are looked at when a module is made of them."""
    return d.BatchedDynamicEmbeddingTablesV2([d.DynamicEmbTableOptions(**given)], device="cpu")


def initialized(**given: Any) -> Any:
    return tables_of(dim=8, max_capacity=100, initializer_args=d.DynamicEmbInitializerArgs(**given))


def members(name: str) -> tuple[Any, dict[str, Any]]:
    """An object with this method, and arguments that its methods take."""
    kind, _, _ = name.partition(".")
    three = {"keys": KEYS, "table_ids": TABLE_IDS, "frequencies": torch.ones_like(KEYS)}
    if kind == "KVCounter":
        return d.KVCounter(10), {**three, "table_id": 0}
    if kind == "FrequencyAdmissionStrategy":
        return d.FrequencyAdmissionStrategy(2), three
    if kind == "ProbabilisticAdmissionStrategy":
        return d.ProbabilisticAdmissionStrategy(0.5), three
    if kind == "DynamicEmbTableOptions":
        return options(), {"name": "t"}
    if kind == "BatchedDynamicEmbeddingTablesV2":
        tables = d.BatchedDynamicEmbeddingTablesV2(
            [options()], device="cpu", prefetch_pipeline=True
        )
        return tables, {"indices": KEYS, "offsets": OFFSETS}
    if kind == "DynamicEmbeddingBagCollection":
        return d.DynamicEmbeddingBagCollection([bag_config()], "cpu"), {"features": batch()}
    if kind == "DynamicEmbeddingCollection":
        return d.DynamicEmbeddingCollection([bag_config()], "cpu"), {"features": batch()}
    return batch(), {}


def call(name: str, parameter: str) -> Call:
    if name in FUNCTIONS:
        return Call(getattr(d, name), FUNCTIONS[name])
    if name == "DynamicEmbTableOptions":
        return Call(tables_of, {"dim": 8, "max_capacity": 100})
    if name == "DynamicEmbInitializerArgs":
        modes = {"value": "CONSTANT", "lower": "UNIFORM", "upper": "UNIFORM"}
        return Call(initialized, {"mode": modes.get(parameter, "NORMAL")})
    if name == "OptimizerArgs":
        return Call(d.OptimizerArgs, {})
    if name == "get_table_value_bytes":
        return Call(d.get_table_value_bytes, {"options": options()})
    if name == "BatchedDynamicEmbeddingTablesV2":
        return Call(
            d.BatchedDynamicEmbeddingTablesV2, {"table_options": [options()], "device": "cpu"}
        )
    if name in ("DynamicEmbeddingBagCollection", "DynamicEmbeddingCollection"):
        return Call(getattr(d, name), {"tables": [bag_config()], "device": "cpu"})
    if name in ("DynamicEmbDump", "DynamicEmbLoad"):
        model = d.DynamicEmbeddingBagCollection([bag_config()], "cpu")
        return Call(getattr(d, name), {"path": "/dev/null/folder", "model": model})
    made, every = members(name)
    function = getattr(made, name.partition(".")[2])
    return Call(function, {p: every[p] for p in needed_of(function)})


KINDS = {
    "integer": "DynamicEmbTableOptions(dim) DynamicEmbTableOptions(max_capacity) "
    "rows num_embeddings world_size bucket_capacity capacity threshold embedding_dim "
    "table_id seed chunks local_hbm_for_values global_hbm_for_values kept_bytes",
    "integer or None": "init_capacity device_id max_keys_per_rank get_table_value_bytes(rows) "
    "BatchedDynamicEmbeddingTablesV2(seed) total_unique_indices",
    "number": "probability mean std_dev value learning_rate eps beta1 beta2 weight_decay "
    "initial_accumulator_value max_norm max_gradient learning_rate_power ftrl_beta l1 l2 momentum "
    "eta max_load_factor",
    "number or None": "lower upper",
    "bool": "training caching use_index_dedup prefetch_pipeline enforce_hbm stochastic_rounding "
    "gradient_clipping fused capture_evicted is_weighted optim counter allow_overwrite "
    "set_to_none dedup average_gradients blocking",
    "dtype": "key_type output_dtype dtype",
    "dtype or None": "embedding_dtype index_type forward_dtype backward_dtype",
    "choice or None": "weight_decay_mode pooling_mode pooling",  # as "NONE"
    "choice": "data_type mode optimizer evict_strategy score_strategy safe_check_mode dist_type "
    "pool_at",
    "device or None": "device",
    "tensor": "values lengths indices offsets frequencies table_ids "
    "KVCounter.add(keys) KVCounter.erase(keys) FrequencyAdmissionStrategy.admit(keys) "
    "ProbabilisticAdmissionStrategy.admit(keys)",
    "tensor or None": "weights per_sample_weights frequency_counters feature_requires_grad",
    "names": "keys feature_names",
    "names or None": "table_names",
    "text": "name",
    "objects": "tables table_options features model initializer_args eval_initializer_args "
    "get_table_value_bytes(options)",
    "objects or None": "options fused_params process_group exchange external_storage "
    "admit_strategy admission_counter "
    "FrequencyAdmissionStrategy(counter) FrequencyAdmissionStrategy(initializer_args) "
    "ProbabilisticAdmissionStrategy(initializer_args) DynamicEmbDump(table_names) "
    "DynamicEmbLoad(table_names)",
    "integers or None": "feature_table_map",
    "path": "path",
    # Taken for the sake of their names, and not looked at, as the docstrings say.
    "ignored": "bounds_check_mode mem_type forward_stream pg",
    "refused or None": "batch_size_per_feature_per_rank counter_based_regularization "
    "cowclip_regularization",
}
SKIPPED = {
    "AdmissionStrategy", "Counter", "Storage", "DynamicEmbCheckMode", "DynamicEmbEvictStrategy",
    "DynamicEmbInitializerMode", "DynamicEmbPoolingMode", "DynamicEmbScoreStrategy",
    "EmbOptimType", "ScoreStrategy",
}  # fmt: skip
WALK = Walk("dynamicemb", kinds(KINDS), call, frozenset(SKIPPED))
