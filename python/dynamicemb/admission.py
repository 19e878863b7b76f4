"""Which missing keys get a row: those that occur often enough, or by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamicemb.arguments import checks, whole
from dynamicemb.types import AdmissionStrategy, Counter, DynamicEmbInitializerArgs


def _check_keys(**tensors: Tensor) -> None:
    """Integers, as many of each."""
    first = tensors["keys"]
    for name, given in tensors.items():
        checks.tensor(given, name)
        if given.dtype not in (torch.int64, torch.uint64) or given.shape != first.shape:
            checks.fail(
                f"{name} must be int64, as many as keys, got {given.dtype} {tuple(given.shape)}"
            )


class KVCounter(Counter):
    """Counts of up to ``capacity`` keys a table; beyond it those of the smallest counts leave.

    Args:
        capacity: keys of each table.
        bucket_capacity: accepted for the sake of its name; nothing is bucketed.
        key_type: torch.int64.
    """

    def __init__(
        self, capacity: int, bucket_capacity: int = 1024, key_type: torch.dtype = torch.int64
    ) -> None:
        for name, value in (("capacity", capacity), ("bucket_capacity", bucket_capacity)):
            whole(value, name, 1)
        if key_type != torch.int64:
            raise ValueError(f"dynamicemb: key_type must be torch.int64, got {key_type!r}")
        self.capacity = capacity
        self.tables: dict[int, dict[int, int]] = {}

    def add(self, keys: Tensor, table_ids: Tensor, frequencies: Tensor) -> Tensor:
        _check_keys(keys=keys, table_ids=table_ids, frequencies=frequencies)
        sums = []
        rows = (t.tolist() for t in (keys, table_ids, frequencies))
        for key, table, frequency in zip(*rows, strict=True):
            counts = self.tables.setdefault(table, {})
            counts[key] = counts.get(key, 0) + frequency
            sums.append(counts[key])
        for counts in self.tables.values():
            if (excess := len(counts) - self.capacity) > 0:
                for key in sorted(counts, key=counts.__getitem__)[:excess]:
                    del counts[key]
        return torch.tensor(sums, dtype=torch.int64, device=keys.device)

    def erase(self, keys: Tensor, table_ids: Tensor) -> None:
        _check_keys(keys=keys, table_ids=table_ids)
        for key, table in zip(keys.tolist(), table_ids.tolist(), strict=True):
            self.tables.get(table, {}).pop(key, None)

    def memory_usage(self, mem_type: object = None) -> int:
        return sum(16 * len(counts) for counts in self.tables.values())

    def export(self, table_id: int) -> tuple[Tensor, Tensor]:
        checks.integer(table_id, "table_id", 0)
        counts = self.tables.get(table_id, {})
        return torch.tensor(list(counts)), torch.tensor(list(counts.values()))


class FrequencyAdmissionStrategy(AdmissionStrategy):
    """A missing key is counted, and gets a row once it has occurred ``threshold`` times.

    Args:
        threshold: occurrences, >= 1.
        counter: where they are counted; None: the table's ``admission_counter``.
        initializer_args: what a key without a row reads as; None: as its first row would.
    """

    def __init__(
        self,
        threshold: int,
        counter: Counter | None = None,
        initializer_args: DynamicEmbInitializerArgs | None = None,
    ) -> None:
        if isinstance(counter, DynamicEmbInitializerArgs):  # the older second argument
            counter, initializer_args = None, counter
        whole(threshold, "threshold", 1)
        if counter is not None:
            checks.instance(counter, Counter, "counter")
        if initializer_args is not None:
            checks.instance(initializer_args, DynamicEmbInitializerArgs, "initializer_args")
        self.threshold, self.counter = threshold, counter
        self.initializer_args = initializer_args

    def admit(self, keys: Tensor, frequencies: Tensor) -> Tensor:
        _check_keys(keys=keys, frequencies=frequencies)
        return frequencies >= self.threshold

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrequencyAdmissionStrategy) and (
            (self.threshold, self.initializer_args) == (other.threshold, other.initializer_args)
        )

    def __hash__(self) -> int:
        return hash(("frequency", self.threshold))


class ProbabilisticAdmissionStrategy(AdmissionStrategy):
    """A missing key gets a row with ``probability`` each time that it occurs; nothing is counted.

    Args:
        probability: in (0, 1].
        initializer_args: what a key without a row reads as; None: as its first row would.
        seed: of the draws.
    """

    def __init__(
        self,
        probability: float,
        initializer_args: DynamicEmbInitializerArgs | None = None,
        seed: int = 0,
    ) -> None:
        checks.number(probability, "probability")
        checks.integer(seed, "seed", -(2**63), 2**64 - 1)
        if initializer_args is not None:
            checks.instance(initializer_args, DynamicEmbInitializerArgs, "initializer_args")
        if not 0 < probability <= 1:
            raise ValueError(f"dynamicemb: probability must be in (0, 1], got {probability!r}")
        self.probability, self.initializer_args = probability, initializer_args
        self.generator = torch.Generator().manual_seed(seed)

    def admit(self, keys: Tensor, frequencies: Tensor) -> Tensor:
        _check_keys(keys=keys, frequencies=frequencies)
        chance = 1 - (1 - self.probability) ** frequencies.cpu().double()
        drawn = torch.rand(len(keys), dtype=torch.float64, generator=self.generator)
        return (drawn < chance).to(keys.device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProbabilisticAdmissionStrategy) and (
            (self.probability, self.initializer_args) == (other.probability, other.initializer_args)
        )

    def __hash__(self) -> int:
        return hash(("probability", self.probability))
