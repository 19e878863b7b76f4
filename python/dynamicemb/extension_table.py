"""The table of ``dynamicemb_extensions``, and its enums."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicemb.key_value_table import CUSTOMIZED, LFU, LRU, TableOptions, TableSet, Written
from dynamicemb.optimizer import padded
from dynamicemb.types import enum_of


class DynamicEmbDataType(enum.IntEnum):
    """Types of values; a ``DynamicEmbTable`` holds one of the first three."""

    Float32 = 0
    BFloat16 = 1
    Float16 = 2
    Int64 = 3
    UInt64 = 4
    Int32 = 5
    UInt32 = 6
    Size_t = 7


class EvictStrategy(enum.IntEnum):
    """What a score is: the time of the last use, how often, or what the caller says. Tables here
    have no epochs."""

    KLru = 0
    KLfu = 1
    KEpochLru = 2
    KEpochLfu = 3
    KCustomized = 4


class OptimizerType(enum.IntEnum):
    """Whose state a row has."""

    Null = 0
    SGD = 1
    Adam = 2
    AdaGrad = 3
    RowWiseAdaGrad = 4


@dataclass
class InitializerArgs:
    """First values of missing rows: ``mode`` is "constant" or "debug" (key % 100000)."""

    mode: str = "constant"
    mean: float = 0.0
    std_dev: float = 1.0
    lower: float = 0.0
    upper: float = 1.0
    value: float = 0.0


_TYPES = {
    DynamicEmbDataType.Float32: torch.float32,
    DynamicEmbDataType.BFloat16: torch.bfloat16,
    DynamicEmbDataType.Float16: torch.float16,
    DynamicEmbDataType.Int64: torch.int64,
    DynamicEmbDataType.UInt64: torch.uint64,
    DynamicEmbDataType.Int32: torch.int32,
    DynamicEmbDataType.UInt32: torch.uint32,
    DynamicEmbDataType.Size_t: torch.uint64,
}
_VALUES = dict(list(_TYPES.items())[:3])
_STRATEGIES = {
    EvictStrategy.KLru: LRU,
    EvictStrategy.KLfu: LFU,
    EvictStrategy.KCustomized: CUSTOMIZED,
}


def torch_type(dtype: DynamicEmbDataType | torch.dtype) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else _TYPES[DynamicEmbDataType(dtype)]


def _one_of(value: object, allowed: Mapping[Any, Any], kind: Any, name: str) -> Any:
    one = enum_of(kind, value, name)
    if one not in allowed:
        names = ", ".join(some.name for some in allowed)
        raise ValueError(f"dynamicemb: {name} must be one of {names}, got {one.name}")
    return one


class DynamicEmbTable:
    """A hash table of rows of one type.

    Args:
        key_type: not looked at: int64.
        value_type: Float32, BFloat16 or Float16.
        evict_type: KLru, KLfu or KCustomized.
        dim: weights of a row.
        init_capacity, max_capacity: rows.
        max_hbm_for_vectors: bytes of rows on the GPU; the rest lies in host memory.
        max_load_factor: at which it grows.
        device_id: the GPU; -1: host memory.
        initializer_args: first values of missing rows.
        optimizer_type: one of ``OptimizerType``.
        max_bucket_size, block_size, io_block_size, io_by_cpu, use_constant_memory,
        reserved_key_start_bit, num_of_buckets_per_alloc, safe_check_mode: accepted.
    """

    def __init__(
        self,
        key_type: object = None,
        value_type: DynamicEmbDataType = DynamicEmbDataType.Float32,
        evict_type: EvictStrategy = EvictStrategy.KLru,
        dim: int = 128,
        init_capacity: int = 1024,
        max_capacity: int = 2048,
        max_hbm_for_vectors: int = 0,
        max_bucket_size: int = 128,
        max_load_factor: float = 0.5,
        block_size: int = 128,
        io_block_size: int = 1024,
        device_id: int = -1,
        io_by_cpu: bool = False,
        use_constant_memory: bool = False,
        reserved_key_start_bit: int = 0,
        num_of_buckets_per_alloc: int = 1,
        initializer_args: InitializerArgs | None = None,
        safe_check_mode: object = None,
        optimizer_type: OptimizerType = OptimizerType.Null,
    ) -> None:
        self._key_type = key_type
        self._value_type = _one_of(value_type, _VALUES, DynamicEmbDataType, "value_type")
        self._evict_type = _one_of(evict_type, _STRATEGIES, EvictStrategy, "evict_type")
        self._optimizer: OptimizerType = enum_of(OptimizerType, optimizer_type, "optimizer_type")
        self.dtype = _TYPES[self._value_type]
        self.dim, self.initializer_args = dim, initializer_args or InitializerArgs()
        self._initial = 0.0
        device = torch.device("cpu") if device_id < 0 else torch.device("cuda", device_id)
        row_bytes = padded(self.width * self.dtype.itemsize)
        hbm = max_hbm_for_vectors if device_id >= 0 else 2**62
        strategy = _STRATEGIES[self._evict_type]
        self.rows = TableSet(
            [TableOptions(row_bytes, max_capacity, init_capacity, hbm, strategy, max_load_factor)],
            device,
        )

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.dim + self.optstate_dim()

    def key_type(self) -> object:
        return self._key_type

    def value_type(self) -> DynamicEmbDataType:
        found: DynamicEmbDataType = self._value_type
        return found

    def evict_strategy(self) -> EvictStrategy:
        found: EvictStrategy = self._evict_type
        return found

    def capacity(self) -> int:
        return int(self.rows.sizes()[0, 1])

    def optstate_dim(self) -> int:
        one = 16 // self.dtype.itemsize  # an accumulator takes 16 bytes
        sizes = {"Adam": 2 * self.dim, "AdaGrad": self.dim, "RowWiseAdaGrad": one}
        return sizes.get(self._optimizer.name, 0)

    def set_initial_optstate(self, x: float) -> None:
        self._initial = float(x)

    def get_initial_optstate(self) -> float:
        return self._initial

    # -- between values and words of rows

    def pack(self, values: Tensor) -> Tensor:
        """(n, words) of (n, width) or (n, dim); state that is not given is the initial one."""
        if values.dim() != 2 or values.shape[1] not in (self.width, self.dim):
            raise ValueError(
                f"dynamicemb: values must have shape (n, {self.width}) or (n, {self.dim}), got "
                f"{tuple(values.shape)}"
            )
        full = self.rows.row_bytes // self.dtype.itemsize
        packed = torch.full((len(values), full), self._initial, dtype=self.dtype)
        packed = packed.to(values.device)
        packed[:, : values.shape[1]] = values.to(self.dtype)
        return packed.view(torch.float32)

    def unpack(self, words: Tensor, width: int) -> Tensor:
        return words.view(self.dtype)[:, :width]

    def offsets(self, n: int) -> Tensor:
        return torch.tensor([0, n], dtype=torch.int64).to(self.rows.device)

    def write(
        self, mode: int, n: int, keys: Tensor, values: Tensor | None, score: Tensor | None
    ) -> Written:
        some = keys[:n].to(torch.int64).contiguous()
        scores = None
        if score is not None:
            scores = torch.as_tensor(score, device=some.device).to(torch.int64).expand(n)
            scores = scores.contiguous()
        packed = None if values is None else self.pack(values[:n])
        return self.rows.write(mode, some, self.offsets(n), values=packed, scores=scores)

    def first(self, keys: Tensor) -> Tensor:
        """(n, dim) first weights of keys."""
        if self.initializer_args.mode == "debug":
            return (keys % 100000).to(self.dtype)[:, None].expand(-1, self.dim)
        value = self.initializer_args.value
        return torch.full((len(keys), self.dim), value, dtype=self.dtype, device=keys.device)
