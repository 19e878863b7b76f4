"""A GPU hash table for benchmarks, the batches of keys it is given, and the arrays they lie in."""

from __future__ import annotations

from functools import partial

import hkv
import numpy as np
import torch

BATCH = 1 << 20
FRESH = 1 << 62  # the bit of keys that are not in the table
HIT_RATE = 0.6


class Batches:
    """A table, and the arrays of one batch."""

    def __init__(
        self, rows: int, dim: int, hbm_bytes: int | None, evict_from: str = "both"
    ) -> None:
        self.table = hkv.HashTable(
            rows, dim, key_dtype="uint64", hbm_bytes=hbm_bytes, evict_from=evict_from
        )
        self.row = 4 * dim
        self.filled = self.fresh = 0
        self.random = np.random.default_rng(0)
        empty = partial(torch.empty, BATCH, dtype=torch.int64, device="cuda")
        self.keys, self.keys_out, self.scores, self.count = (empty() for _ in range(4))
        self.founds = torch.empty(BATCH, dtype=torch.bool, device="cuda")
        self.values, self.evicted = (torch.randn(BATCH, dim, device="cuda") for _ in range(2))

    def wait(self) -> None:
        torch.cuda.synchronize()

    def put_keys(self, keys: np.ndarray) -> None:
        self.keys.copy_(torch.from_numpy(keys.view(np.int64)))

    def fill(self, load: float) -> float:
        """Inserts consecutive keys up to the load factor, a little beyond a full table.

        Returns the share of present keys in the batch that lies ready then.
        """
        target = int(self.table.capacity * (1.02 if load == 1.0 else load))
        keys, values = self.keys.data_ptr(), self.values.data_ptr()
        while self.filled < target:
            n = min(BATCH, target - self.filled)
            self.put_keys(np.arange(self.filled, self.filled + BATCH, dtype=np.uint64))
            self.table.native.insert_or_assign(n, keys, values, 0, False, 0, 0)
            self.wait()
            self.filled += n
        self.batch()
        self.table.native.contains(BATCH, keys, self.founds.data_ptr(), 0)
        return self.founds.float().mean().item()

    def batch(self) -> None:
        """Random keys of which HIT_RATE were inserted (the latest ones, which are still there)."""
        oldest = max(0, self.filled - int(0.95 * self.table.capacity))
        keys = self.random.integers(oldest, self.filled, BATCH, dtype=np.uint64)
        new = self.random.random(BATCH) >= HIT_RATE
        keys[new] = FRESH + self.fresh + np.arange(int(new.sum()), dtype=np.uint64)
        self.fresh += int(new.sum())
        self.put_keys(keys)

    def forget(self, load: float) -> None:
        """Back to the load factor after insertions (a full table stays full by itself)."""
        if load < 1.0:
            self.table.erase_if(key_mask=FRESH, key_pattern=FRESH)
        self.batch()
        self.wake()

    def wake(self) -> None:
        """A GPU that slept while the host drew keys takes 30 us more for the next call."""
        for _ in range(4):
            self.evicted.copy_(self.values)


def hot_batches(random: np.random.Generator, ids: int = 10_000_000) -> dict[str, np.ndarray]:
    """Batches of ids by what they are drawn from."""

    def zipf(exponent: float) -> np.ndarray:
        shares = np.cumsum(np.arange(1.0, ids + 1) ** -exponent)
        return np.searchsorted(shares, random.random(BATCH) * shares[-1])

    return {
        "unique": random.permutation(BATCH),
        "uniform": random.integers(0, ids, BATCH),
        "Zipf 0.8": zipf(0.8),
        "Zipf 1.05": zipf(1.05),
        "Zipf 1.2": zipf(1.2),
        "100 ids": random.integers(0, 100, BATCH),
    }
