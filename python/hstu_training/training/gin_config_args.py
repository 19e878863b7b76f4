"""Every setting of a training run, as gin classes.

Names and defaults are those of NVIDIA recsys-examples' ``examples/hstu``; what is ours comes last
in each class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gin

from hstu_training.configs.hstu_config import BIASES
from hstu_training.configs.task_config import ACTIVATIONS, SAMPLINGS
from hstu_training.modules.hstu_attention import ONLY_CUTLASS
from hstu_training.training.gin_file import ConfigError, at_least, check_types, fail

PIPELINES = ("none", "native", "prefetch")
DTYPES = ("bfloat16", "float16", "float32", "float64")
EVICTION = ("lru", "lfu", "none")
SPLITS = ("auto", "users", "leave_one_out", "last")


@gin.configurable
@dataclass
class TrainerArgs:
    """The loop.

    Args:
        train_batch_size, eval_batch_size: sequences of one process.
        eval_interval, log_interval: in steps.
        max_train_iters: steps; None: one epoch.
        max_eval_iters: batches of an evaluation; None: all of them.
        seed: of everything drawn.
        profile, profile_step_start, profile_step_end: a trace of these steps, ``profile.json``.
        ckpt_save_interval: in steps; -1: only at the end, where there is a folder.
        ckpt_save_dir: None: nothing is saved.
        ckpt_load_dir: a folder ``iterN``, or "latest" of ckpt_save_dir.
        pipeline_type: "none"; "native" and "prefetch": batches are prepared ahead, in pinned memory
            for a GPU.
        enable_balanced_shuffler: sequences go to processes by their attention's cost.
        deterministic: equal bits in every run.
        device: "cuda" or "cpu"; None: what the command line says.
        num_workers: threads that prepare batches.
        ckpt_keep: checkpoints that are kept.
    """

    train_batch_size: int
    eval_batch_size: int
    eval_interval: int = 100
    log_interval: int = 100
    max_train_iters: int | None = None
    max_eval_iters: int | None = None
    seed: int = 1234
    profile: bool = False
    profile_step_start: int = 100
    profile_step_end: int = 200
    ckpt_save_interval: int = -1
    ckpt_save_dir: str | None = None
    ckpt_load_dir: str | None = None
    pipeline_type: str = "native"
    enable_balanced_shuffler: bool = False
    deterministic: bool = True
    device: str | None = None
    num_workers: int = 1
    ckpt_keep: int = 3

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "train_batch_size", "eval_batch_size", "eval_interval", "log_interval",
                 "max_train_iters", "max_eval_iters", "num_workers", "ckpt_keep")  # fmt: skip
        at_least(self, 0, "seed", "profile_step_start")
        if self.ckpt_save_interval != -1:
            at_least(self, 1, "ckpt_save_interval")
        if self.profile_step_end <= self.profile_step_start:
            fail(self, "profile_step_end", f"> profile_step_start = {self.profile_step_start}")
        if self.pipeline_type not in PIPELINES:
            fail(self, "pipeline_type", f"one of {PIPELINES}")
        if self.device not in (None, "cpu", "cuda"):
            fail(self, "device", "'cpu' or 'cuda'")
        if self.ckpt_load_dir == "latest" and self.ckpt_save_dir is None:
            fail(self, "ckpt_load_dir", "a folder where there is no ckpt_save_dir")


@gin.configurable
@dataclass
class DatasetArgs:
    """What is trained on.

    Args:
        dataset_name: a name that ``hstu_training.preprocess`` knows, or "benchmark".
        max_history_seqlen: events that are kept of a sequence, the most recent ones.
        dataset_path: a folder that ``hstu_training.preprocess`` wrote; None: data/<dataset_name>.
        max_num_candidates: the last events of a sequence, whose actions are predicted; 0: all.
        shuffle: sequences, anew in each epoch.
        split: "users": the first 70 % of them train, the others evaluate; "leave_one_out": the
            last event is for the test, the one before for validation; "last": the last
            max_num_candidates events evaluate, all before train, each of them predicted;
            "auto": leave_one_out for retrieval, users for ranking.
        positive_action: an action counts as 1 from here on, where the model has one binary task;
            None: every action but 0.
        contextual_features: a token each before the history; None: all that the data has and
            "user_id" for ranking, none for retrieval.
    """

    dataset_name: str
    max_history_seqlen: int
    dataset_path: str | None = None
    max_num_candidates: int = 0
    shuffle: bool = False
    split: str = "auto"
    positive_action: int | None = None
    contextual_features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "max_history_seqlen")
        at_least(self, 0, "max_num_candidates")
        if self.split not in SPLITS:
            fail(self, "split", f"one of {SPLITS}")


@gin.configurable
@dataclass
class EmbeddingArgs:
    """A static table, a parameter of every process.

    Args:
        feature_names: the features that it serves.
        table_name: its name.
        item_vocab_size_or_capacity: rows.
        sharding_type: "data_parallel".
    """

    feature_names: tuple[str, ...]
    table_name: str
    item_vocab_size_or_capacity: int
    sharding_type: str = "data_parallel"

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "item_vocab_size_or_capacity")
        if self.sharding_type != "data_parallel" and type(self) is EmbeddingArgs:
            fail(self, "sharding_type", "'data_parallel'; DynamicEmbeddingArgs are sharded")


@gin.configurable
@dataclass
class DynamicEmbeddingArgs(EmbeddingArgs):
    """A dynamic table, any int64 key, sharded by rows over all processes.

    Args:
        global_hbm_for_values: bytes of rows in GPU memory, of all processes together.
        item_vocab_gpu_capacity: the same in rows.
        item_vocab_gpu_capacity_ratio: the same as a share of the capacity. None of the three: all.
        evict_strategy: which row leaves a full table: "lru", "lfu" or "none" (it grows).
        caching: GPU memory is a cache of host memory.
        dist_type: how keys go to processes.
    """

    sharding_type: str = "row_wise"
    global_hbm_for_values: int | None = None
    item_vocab_gpu_capacity: int | None = None
    item_vocab_gpu_capacity_ratio: float | None = None
    evict_strategy: str = "lru"
    caching: bool = False
    dist_type: str = "roundrobin"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "global_hbm_for_values", "item_vocab_gpu_capacity")
        ratio = self.item_vocab_gpu_capacity_ratio
        if ratio is not None and not 0.0 < ratio <= 1.0:
            fail(self, "item_vocab_gpu_capacity_ratio", "in (0, 1]")
        if self.evict_strategy.lower() not in EVICTION:
            fail(self, "evict_strategy", f"one of {EVICTION}")

    def hbm_bytes(self, row_bytes: int) -> int:
        """Bytes of rows in GPU memory; 0: all."""
        if self.global_hbm_for_values is not None:
            return self.global_hbm_for_values
        if self.item_vocab_gpu_capacity is not None:
            return self.item_vocab_gpu_capacity * row_bytes
        ratio = self.item_vocab_gpu_capacity_ratio
        return 0 if ratio is None else int(ratio * self.item_vocab_size_or_capacity) * row_bytes


@gin.configurable
@dataclass
class RandomDistribution:
    """How made-up numbers are distributed.

    Args:
        dist_type: "uniform", "normal" or "zipf".
        alpha: exponent of "zipf".
        low, high: the least one, and the one behind the greatest.
    """

    dist_type: str = "uniform"
    alpha: float | None = None
    low: int = 0
    high: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.dist_type not in ("uniform", "normal", "zipf"):
            fail(self, "dist_type", "'uniform', 'normal' or 'zipf'")
        if self.dist_type == "zipf" and not (self.alpha is not None and self.alpha > 1.0):
            fail(self, "alpha", "> 1 for zipf")


@gin.configurable
@dataclass
class FeatureArgs:
    """A made-up feature.

    Args:
        feature_names: one name, or item and action.
        max_sequence_length: events of a sequence; 1: a contextual feature.
        is_jagged: lengths differ.
        seqlen_dist, value_dists: of lengths and ids.
        vocab_size: ids, where value_dists does not say.
    """

    feature_names: tuple[str, ...]
    max_sequence_length: int
    is_jagged: bool = False
    seqlen_dist: RandomDistribution | None = None
    value_dists: Any = None
    vocab_size: int = 100_000

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "max_sequence_length", "vocab_size")


@gin.configurable
@dataclass
class BenchmarkDatasetArgs:
    """Made-up data for DatasetArgs.dataset_name = "benchmark".

    Args:
        feature_args: FeatureArgs of item and action, and of each contextual feature.
        embedding_args: tables; what has none gets one of the feature's size.
        item_feature_name, action_feature_name, contextual_feature_names: which is which.
        max_num_candidates: as in DatasetArgs.
        num_generated_batches: sequences are made for so many.
    """

    feature_args: tuple[Any, ...] = ()
    embedding_args: tuple[Any, ...] = ()
    item_feature_name: str = "item"
    contextual_feature_names: tuple[str, ...] = ()
    action_feature_name: str = "action"
    max_num_candidates: int = 0
    num_generated_batches: int = 100

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "num_generated_batches")


@gin.configurable
@dataclass
class NetworkArgs:
    """The model; see ``HSTUConfig``.

    Args:
        dtype_str: "bfloat16", "float16", "float32" or "float64".
        kernel_backend: "cutlass".
        num_position_buckets: rows of the table of positions.
        item_embedding_dim, contextual_embedding_dim: of the tables; -1: hidden_size.
        scaling_seqlen: what attention is divided by; -1: the configured maximum length.
        embedding_backend: who deals tables out to processes: "torchrec"
            (DistributedModelParallel with dynamicemb's planner) or "native" (dynamicemb alone).
            None: torchrec with more than one process where it is installed, else native.
        disable_contextual_mask: contextual tokens see what is before them, as others do.
        attention_alpha: None: 1 / sqrt(kv_channels).
        layer_type: "FUSED", "NATIVE" or "DEBUG".
        learnable_norm, uvqk_bias, proj_bias: parameters that a layer has.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    kv_channels: int
    hidden_dropout: float = 0.2
    norm_epsilon: float = 1e-5
    is_causal: bool = True
    dtype_str: str = "bfloat16"
    kernel_backend: str = "cutlass"
    target_group_size: int = 1
    num_position_buckets: int = 8192
    recompute_input_layernorm: bool = False
    recompute_input_silu: bool = False
    item_embedding_dim: int = -1
    contextual_embedding_dim: int = -1
    scaling_seqlen: int = -1
    embedding_backend: str | None = None
    disable_contextual_mask: bool = False
    relative_bias: str = "none"
    attention_alpha: float | None = None
    targets_only_last_layer: bool = True
    layer_type: str = "FUSED"
    learnable_norm: bool = True
    uvqk_bias: bool = True
    proj_bias: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.kernel_backend.lower() != "cutlass":
            try:
                fail(self, "kernel_backend", "'cutlass'")
            except ConfigError as error:
                raise ConfigError(f"{ONLY_CUTLASS}: {error}") from None
        at_least(self, 1, "num_layers", "hidden_size", "num_attention_heads", "kv_channels",
                 "target_group_size", "num_position_buckets")  # fmt: skip
        if self.kv_channels > 256:
            fail(self, "kv_channels", "<= 256")
        if not 0.0 <= self.hidden_dropout < 1.0:
            fail(self, "hidden_dropout", "in [0, 1)")
        if not self.norm_epsilon > 0.0:
            fail(self, "norm_epsilon", "> 0")
        for name, allowed in (
            ("dtype_str", DTYPES),
            ("relative_bias", BIASES),
            ("embedding_backend", (None, "native", "torchrec")),
            ("layer_type", ("FUSED", "NATIVE", "DEBUG")),
        ):
            if getattr(self, name) not in allowed:
                fail(self, name, f"one of {allowed}")
        for name in ("item_embedding_dim", "contextual_embedding_dim", "scaling_seqlen"):
            if getattr(self, name) != -1:
                at_least(self, 1, name)


@gin.configurable
@dataclass
class OptimizerArgs:
    """Of dense parameters and of rows of tables.

    Args:
        optimizer_str: "adam" (with weight_decay > 0: decoupled) or "sgd".
        learning_rate, adam_beta1, adam_beta2, adam_eps: of both.
        weight_decay: of dense parameters.
    """

    optimizer_str: str
    learning_rate: float
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.optimizer_str.lower() not in ("adam", "sgd"):
            fail(self, "optimizer_str", "'adam' or 'sgd'")
        at_least(self, 0.0, "learning_rate", "weight_decay", "adam_eps")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                fail(self, name, "in [0, 1)")


@gin.configurable
@dataclass
class TensorModelParallelArgs:
    """Args: tensor_model_parallel_size: 1; attention is not divided over GPUs."""

    tensor_model_parallel_size: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        if self.tensor_model_parallel_size != 1:
            fail(self, "tensor_model_parallel_size", "1: tensor parallelism is not here")


@gin.configurable
@dataclass
class RankingArgs:
    """See ``RankingConfig``."""

    prediction_head_arch: tuple[int, ...]
    prediction_head_act_type: str = "relu"
    prediction_head_bias: bool = True
    num_tasks: int = 1
    eval_metrics: tuple[str, ...] = ("AUC",)

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "num_tasks")
        if not self.prediction_head_arch or min(self.prediction_head_arch) < 1:
            fail(self, "prediction_head_arch", "widths >= 1")
        if self.prediction_head_act_type not in ACTIVATIONS:
            fail(self, "prediction_head_act_type", f"one of {ACTIVATIONS}")
        if self.num_tasks not in (1, self.prediction_head_arch[-1]):
            fail(self, "num_tasks", f"1 or the last width, {self.prediction_head_arch[-1]}")


@gin.configurable
@dataclass
class RetrievalArgs:
    """See ``RetrievalConfig``."""

    num_negatives: int = -1
    temperature: float = 0.05
    l2_norm_eps: float = 1e-6
    eval_metrics: tuple[str, ...] = field(default=("HR@10", "NDCG@10"))
    sampling: str = "in_batch"

    def __post_init__(self) -> None:
        check_types(self)
        if self.num_negatives != -1:
            at_least(self, 1, "num_negatives")
        for name in ("temperature", "l2_norm_eps"):
            if not getattr(self, name) > 0.0:
                fail(self, name, "> 0")
        if self.sampling not in SAMPLINGS:
            fail(self, "sampling", f"one of {SAMPLINGS}")
        if self.sampling == "uniform" and self.num_negatives == -1:
            fail(self, "num_negatives", ">= 1 with sampling = 'uniform'")
