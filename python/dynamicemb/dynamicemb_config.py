"""The options of a dynamic table, and what is reckoned from them.

Field names, order and defaults are those of NVIDIA recsys-examples' dynamicemb.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from dynamicemb.arguments import checks, whole
from dynamicemb.optimizer import WEIGHT_DTYPES, EmbOptimType, OptimizerArgs, padded, row_layout
from dynamicemb.types import (
    AdmissionStrategy,
    Counter,
    DynamicEmbCheckMode,
    DynamicEmbEvictStrategy,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbPoolingMode,
    DynamicEmbScoreStrategy,
    ScoreStrategy,
    enum_of,
)
from dynamicemb.utils import (
    data_type_to_dtype,
    data_type_to_dyn_emb,
    dyn_emb_to_torch,
    string_to_evict_strategy,
    torch_to_dyn_emb,
)

BUCKET_ALIGNMENT = 16
DEMB_TABLE_ALIGN_SIZE = 16
MAX_BUCKET_CAPACITY = 2**63 - 1
BATCH_SIZE_PER_DUMP = 65536
DIST_TYPES = ("continuous", "roundrobin", "hash_roundrobin")


def _eval_default() -> DynamicEmbInitializerArgs:
    return DynamicEmbInitializerArgs(mode=DynamicEmbInitializerMode.CONSTANT, value=0.0)


@dataclass(eq=False)
class DynamicEmbTableOptions:
    """One table. Tables whose options are equal share a module.

    Args:
        embedding_dtype: of the weights; float32, float16, bfloat16 or float64.
        dim: values of a row, 1 to 1024.
        max_capacity: rows; beyond it the least score leaves. With NO_EVICTION the rows at first.
        evict_strategy: the older name of what ``score_strategy`` says; not looked at.
        local_hbm_for_values: bytes of rows in GPU memory, the others in pinned host memory. With
            ``caching`` the size of the cache.
        device_id: CUDA ordinal; None: the current device.
        training: False: rows hold no optimizer state and cannot be trained.
        initializer_args: the first row of a key.
        eval_initializer_args: a CONSTANT: what a missing key reads as in evaluation.
        caching: a table in GPU memory before one in host memory that holds every row.
        init_capacity: rows at first; the table doubles up to ``max_capacity``.
        max_load_factor: it doubles beyond this share.
        score_strategy: what a score is; (TIMESTAMP, LFU) in either order ranks by LFU and keeps the
            time for ``incremental_dump``.
        bucket_capacity: what capacities are rounded to by ``get_sharded_table_capacity``.
        safe_check_mode: what happens when a key finds no room.
        global_hbm_for_values: ``local_hbm_for_values`` of all ranks together; a planner divides it.
        external_storage: a ``Storage`` or a class of it: the last tier.
        index_type: torch.int64 or torch.uint64.
        dist_type: how keys go to ranks.
        admit_strategy: which missing keys get a row; None: all.
        admission_counter: the counter of a strategy that has none.
    """

    embedding_dtype: torch.dtype | None = None
    dim: int | None = None
    max_capacity: int | None = None
    evict_strategy: DynamicEmbEvictStrategy = DynamicEmbEvictStrategy.LRU
    local_hbm_for_values: int = 0
    device_id: int | None = None
    training: bool = True
    initializer_args: DynamicEmbInitializerArgs = field(default_factory=DynamicEmbInitializerArgs)
    eval_initializer_args: DynamicEmbInitializerArgs = field(default_factory=_eval_default)
    caching: bool = False
    init_capacity: int | None = None
    max_load_factor: float = 0.5
    score_strategy: Any = DynamicEmbScoreStrategy.TIMESTAMP
    bucket_capacity: int = 128
    safe_check_mode: DynamicEmbCheckMode = DynamicEmbCheckMode.IGNORE
    global_hbm_for_values: int = 0
    external_storage: Any = None
    index_type: torch.dtype | None = None
    dist_type: str = "roundrobin"
    admit_strategy: AdmissionStrategy | None = None
    admission_counter: Counter | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.dist_type not in DIST_TYPES:
            raise ValueError(
                f"dynamicemb: dist_type must be one of {', '.join(DIST_TYPES)}, got "
                f"{self.dist_type!r}"
            )
        if self.index_type is None:
            self.index_type = torch.int64
        if self.index_type not in (torch.int64, torch.uint64):
            raise ValueError(
                f"dynamicemb: index_type must be torch.int64 or torch.uint64, got "
                f"{self.index_type!r}"
            )
        self.score_strategy = _strategies(self.score_strategy)
        self.safe_check_mode = enum_of(DynamicEmbCheckMode, self.safe_check_mode, "safe_check_mode")
        mode = enum_of(
            DynamicEmbInitializerMode, self.eval_initializer_args.mode, "eval_initializer_args.mode"
        )
        if mode is not DynamicEmbInitializerMode.CONSTANT:
            raise ValueError(f"dynamicemb: eval_initializer_args must be CONSTANT, got {mode.name}")

    def _check_kinds(self) -> None:
        if self.device_id is not None:
            checks.integer(self.device_id, "device_id", 0)
        for name in ("training", "caching"):
            checks.boolean(getattr(self, name), name)
        for name in ("initializer_args", "eval_initializer_args"):
            checks.instance(getattr(self, name), DynamicEmbInitializerArgs, name)
        self.evict_strategy = enum_of(
            DynamicEmbEvictStrategy, self.evict_strategy, "evict_strategy"
        )
        for name, kind in (("admit_strategy", AdmissionStrategy), ("admission_counter", Counter)):
            if (given := getattr(self, name)) is not None:
                checks.instance(given, kind, name)
        if self.embedding_dtype is not None and self.embedding_dtype not in WEIGHT_DTYPES:
            allowed = ", ".join(map(str, WEIGHT_DTYPES))
            checks.fail(f"embedding_dtype must be one of {allowed}, got {self.embedding_dtype!r}")

    def get_grouped_key(self) -> tuple[Any, ...]:
        return (
            self.training,
            self.caching,
            self.external_storage,
            self.index_type,
            self.score_strategy,
            self.dist_type,
            self.admit_strategy,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DynamicEmbTableOptions):
            return NotImplemented
        return self.get_grouped_key() == other.get_grouped_key()

    def __hash__(self) -> int:
        return hash(self.get_grouped_key())

    @property
    def scores(self) -> DynamicEmbScoreStrategy:
        """The strategy that ranks."""
        if isinstance(self.score_strategy, tuple):
            return DynamicEmbScoreStrategy.LFU
        return DynamicEmbScoreStrategy(self.score_strategy)

    @property
    def stamped(self) -> bool:
        return isinstance(self.score_strategy, tuple)

    def check(self, name: str) -> None:
        """Raises ValueError where the numbers of this table make none."""
        checks.instance(name, str, "name")

        whole(self.dim, f"dim of table {name!r}", 1)
        whole(self.max_capacity, f"max_capacity of table {name!r}", 1)
        whole(self.bucket_capacity, f"bucket_capacity of table {name!r}", 1)
        whole(self.local_hbm_for_values, f"local_hbm_for_values of table {name!r}", 0)
        whole(self.global_hbm_for_values, f"global_hbm_for_values of table {name!r}", 0)
        if self.init_capacity is not None:
            whole(self.init_capacity, f"init_capacity of table {name!r}", 1)
        checks.number(self.max_load_factor, f"max_load_factor of table {name!r}")
        if not 0 < self.max_load_factor <= 1:
            raise ValueError(
                f"dynamicemb: max_load_factor of table {name!r} must be in (0, 1], got "
                f"{self.max_load_factor!r}"
            )


def _strategies(given: Any) -> Any:
    pair = {DynamicEmbScoreStrategy.TIMESTAMP, DynamicEmbScoreStrategy.LFU}
    if not isinstance(given, (tuple, list)):
        return enum_of(DynamicEmbScoreStrategy, given, "score_strategy")
    several = tuple(enum_of(DynamicEmbScoreStrategy, one, "score_strategy") for one in given)
    if len(several) == 1:
        return several[0]
    if len(several) == 2 and set(several) == pair:
        return tuple(sorted(pair))
    raise ValueError(
        f"dynamicemb: score_strategy must be one strategy or (TIMESTAMP, LFU), got {given!r}"
    )


def align_to_table_size(rows: int) -> int:
    """The next multiple of DEMB_TABLE_ALIGN_SIZE."""
    whole(rows, "rows", 0)
    return padded(rows, DEMB_TABLE_ALIGN_SIZE)


def get_table_value_bytes(
    options: DynamicEmbTableOptions, optimizer: object = EmbOptimType.SGD, rows: int | None = None
) -> int:
    """Bytes of the rows of a table, weights and state, without keys and scores.

    Example::

        >>> options = DynamicEmbTableOptions(torch.float32, 64, max_capacity=1000)
        >>> get_table_value_bytes(options, EmbOptimType.SGD)
        256000
    """
    checks.instance(options, DynamicEmbTableOptions, "options")
    if rows is not None:
        whole(rows, "rows", 0)
    chosen = enum_of(EmbOptimType, optimizer, "optimizer")
    kind = chosen if options.training else None
    assert options.dim is not None and options.embedding_dtype is not None
    layout = row_layout(options.dim, options.embedding_dtype, kind, options.stamped)
    count = options.max_capacity if rows is None else rows
    assert count is not None
    return count * layout.row_bytes


def get_sharded_table_capacity(num_embeddings: int, world_size: int, bucket_capacity: int) -> int:
    """Rows of a rank: a share of ``num_embeddings``, in whole buckets."""
    whole(num_embeddings, "num_embeddings", 0)
    whole(world_size, "world_size", 1)
    whole(bucket_capacity, "bucket_capacity", 1)
    return padded(math.ceil(num_embeddings / world_size), bucket_capacity)


__all__ = [
    "BATCH_SIZE_PER_DUMP",
    "BUCKET_ALIGNMENT",
    "DEMB_TABLE_ALIGN_SIZE",
    "MAX_BUCKET_CAPACITY",
    "DynamicEmbCheckMode",
    "DynamicEmbEvictStrategy",
    "DynamicEmbInitializerArgs",
    "DynamicEmbInitializerMode",
    "DynamicEmbPoolingMode",
    "DynamicEmbScoreStrategy",
    "DynamicEmbTableOptions",
    "EmbOptimType",
    "OptimizerArgs",
    "ScoreStrategy",
    "align_to_table_size",
    "data_type_to_dtype",
    "data_type_to_dyn_emb",
    "dyn_emb_to_torch",
    "get_sharded_table_capacity",
    "get_table_value_bytes",
    "string_to_evict_strategy",
    "torch_to_dyn_emb",
]
