"""Rows for a stream of item ids, in a hash table that is smaller than the catalogue.

Runs on the GPU if there is one, else with the same table in host memory:

    python examples/simple_hash_table.py
"""

from __future__ import annotations

import hkv
import numpy as np

ROWS, DIM = 10_000, 16
BATCHES, BATCH = 40, 1_000


def main() -> None:
    device = "cuda" if hkv.device_count() else "cpu"
    table = hkv.HashTable(ROWS, DIM, device=device, evict_strategy="lru")
    random = np.random.default_rng(0)

    def put(array: np.ndarray) -> np.ndarray | hkv.DeviceArray:
        return array if device == "cpu" else hkv.DeviceArray.of(array)

    def get(array: np.ndarray | hkv.DeviceArray) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else array.numpy()

    # Popular ids come often; the rows that nobody asked for longest make room for new ones.
    known = 0
    for _ in range(BATCHES):
        ids = random.zipf(1.1, BATCH).astype(np.int64)
        rows = put(random.standard_normal((BATCH, DIM), np.float32))  # where a new id starts
        founds, _ = table.find_or_insert(put(ids), rows)  # rows now holds those of known ids
        known += int(get(founds).sum())

    assert 0 < known < BATCHES * BATCH and len(table) <= ROWS
    print(f"device: {table.device}")
    print(f"{BATCHES * BATCH} ids, {known} of them known: {len(table)} of {ROWS} rows used")

    # A step of gradient descent: the deltas of equal ids add up.
    ids = np.array([1, 2, 1], np.int64)
    deltas = put(np.full((3, DIM), -0.25, np.float32))
    table.insert_or_assign(put(ids), put(np.ones((3, DIM), np.float32)))
    table.accum_or_assign(put(ids), deltas, put(np.ones(3, bool)))
    rows, _ = table.find(put(ids))
    assert (get(rows)[:, 0] == [0.5, 0.75, 0.5]).all()
    print(f"id 1 moved from 1 to {get(rows)[0, 0]}, id 2 to {get(rows)[1, 0]}")


if __name__ == "__main__":
    main()
