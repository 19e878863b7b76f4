"""What the options of dynamic embeddings are made of, and the interfaces that users implement."""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class DynamicEmbCheckMode(enum.IntEnum):
    """What happens when a key finds no room: raise, warn once, or only count it in ``stats()``."""

    ERROR = 0
    WARNING = 1
    IGNORE = 2


class DynamicEmbPoolingMode(enum.IntEnum):
    SUM = 0
    MEAN = 1
    NONE = 2


class DynamicEmbEvictStrategy(enum.Enum):
    """Which key of a full table leaves first: the hash table's strategies."""

    LRU = "lru"
    LFU = "lfu"
    EPOCH_LRU = "epoch_lru"
    EPOCH_LFU = "epoch_lfu"
    CUSTOMIZED = "customized"


class DynamicEmbScoreStrategy(enum.IntEnum):
    """What a key's score is: the least leaves first.

    TIMESTAMP: when it was last trained. STEP: the step in which it was. CUSTOMIZED: what
    ``set_score`` said before that step. LFU: how often it occurred. NO_EVICTION: nothing leaves,
    the table grows.
    """

    TIMESTAMP = 0
    STEP = 1
    CUSTOMIZED = 2
    LFU = 3
    NO_EVICTION = 4


ScoreStrategy = DynamicEmbScoreStrategy


class DynamicEmbInitializerMode(enum.Enum):
    NORMAL = "normal"
    TRUNCATED_NORMAL = "truncated_normal"
    UNIFORM = "uniform"
    CONSTANT = "constant"
    DEBUG = "debug"


@dataclass
class DynamicEmbInitializerArgs:
    """The first row of a key.

    Args:
        mode: NORMAL and TRUNCATED_NORMAL (inside ``lower`` and ``upper``) with ``mean`` and
            ``std_dev``; UNIFORM from ``lower`` (default 0) to ``upper`` (default 1); CONSTANT is
            ``value``; DEBUG is the key modulo 100,000.
    """

    mode: DynamicEmbInitializerMode = DynamicEmbInitializerMode.UNIFORM
    mean: float = 0.0
    std_dev: float = 1.0
    lower: float | None = None
    upper: float | None = None
    value: float = 0.0


class FindResult(NamedTuple):
    """What ``Storage.find`` found; the missing arrays are as long as ``num_missing``."""

    num_missing: int
    missing_keys: Tensor
    missing_indices: Tensor
    missing_table_ids: Tensor
    missing_scores: Tensor | None
    founds: Tensor
    output_scores: Tensor | None
    values: Tensor


class Storage(abc.ABC):
    """Rows that live outside: what leaves the last tier goes there, missing keys come from there.

    A row is ``value_dim`` float32 words: the embedding as its table stores it, and the optimizer's
    state. Tensors are on the CPU.
    """

    @abc.abstractmethod
    def find(
        self,
        unique_keys: Tensor,
        table_ids: Tensor,
        copy_mode: object = None,
        lfu_accumulated_frequency: Tensor | None = None,
    ) -> FindResult:
        """(n) int64 keys of the tables ``table_ids`` (n); ``values`` is (n, widest value_dim)."""

    @abc.abstractmethod
    def insert(
        self,
        keys: Tensor,
        table_ids: Tensor,
        values: Tensor,
        scores: Tensor | None = None,
        preserve_existing: bool = False,
    ) -> None:
        """Keeps rows; a present key is overwritten unless ``preserve_existing``."""

    @abc.abstractmethod
    def export_keys_values(
        self, table_id: int, device: torch.device, batch_size: int = 65536
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows of one table."""

    def erase(self, keys: Tensor, table_ids: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} cannot erase")


class Counter(abc.ABC):
    """How often keys that are not admitted yet have occurred."""

    @abc.abstractmethod
    def add(self, keys: Tensor, table_ids: Tensor, frequencies: Tensor) -> Tensor:
        """Adds (n) int64 frequencies and returns the sums so far."""

    @abc.abstractmethod
    def erase(self, keys: Tensor, table_ids: Tensor) -> None: ...

    @abc.abstractmethod
    def memory_usage(self, mem_type: object = None) -> int:
        """Bytes."""

    @abc.abstractmethod
    def export(self, table_id: int) -> tuple[Tensor, Tensor]:
        """Keys and frequencies of one table, for a dump."""


class AdmissionStrategy(abc.ABC):
    """Which missing keys get a row."""

    initializer_args: DynamicEmbInitializerArgs | None = None
    counter: Counter | None = None

    @abc.abstractmethod
    def admit(self, keys: Tensor, frequencies: Tensor) -> Tensor:
        """(n) bool for (n) keys and how often each occurred so far, this batch included."""


def enum_of(kind: type[Any], value: object, name: str) -> Any:
    """A member of ``kind``, from one of it or of an enum with its names, or from a name."""
    if isinstance(value, kind):
        return value
    wanted = str(getattr(value, "name", value)).upper()
    for member in kind:
        if member.name == wanted:
            return member
    allowed = ", ".join(member.name for member in kind)
    raise ValueError(f"dynamicemb: {name} must be one of {allowed}, got {value!r}")
