"""How fast the GPU hash table is, beside the floor of each call on the GPU that it runs on.

    python benchmarks/hash_table.py [--rows MILLIONS] [--dim N] [--hybrid | --hot | --host]
                                    [--evict-from both|home] [--engine native|upstream]
                                    [--markdown FILE] [--json FILE]

The method is that of HierarchicalKV's benchmark: uint64 keys, float32 values, LRU, 1,048,576 keys
per call, a table filled to a load factor with consecutive keys, batches of which 60 % of the keys
are present, host time round one call and a synchronisation, the best of several; throughput in
1024^3 keys per second. Keys of insertions that were absent are new in every call.

The floor is the bytes that any table must move for the call (the batch's keys, one 32-byte sector
with each stored key and each written score, rows read and written) over the bandwidth of a large
device-to-device copy measured in the same run. With --hybrid, half of the rows live in pinned host
memory, and the bytes of those rows per second stand beside a pinned copy over the same link. With
--hot, batches hold few keys many times, as ids of real traffic do. --host measures what small
calls cost the host instead.

``--engine upstream`` asks for a module built with --config=upstream_hkv and fails with any other.
Uses the installed package; torch holds the arrays.
"""

from __future__ import annotations

from functools import partial

import harness
import hash_host
import hkv
import numpy as np
import torch
from harness import Call, best_seconds
from hash_batches import BATCH, Batches, hot_batches

SECTOR = 32
TIMED = {"call": "<17", "us": ">8.1f", "G keys/s": ">9.3f"}
FLOOR = {"floor us": ">9.1f", "of floor": ">9.0%"}


def calls(b: Batches, hit: float, out: float) -> dict[str, tuple[bool, Call, float]]:
    """Name -> (inserts, the call, bytes per key at a hit rate and a rate of evictions)."""
    arrays = (b.keys, b.values, b.founds, b.keys_out, b.evicted, b.scores, b.count)
    k, v, f, o, e, s, c = (a.data_ptr() for a in arrays)
    t, n, key, both = b.table.native, BATCH, 8 + SECTOR, 2 * b.row
    full = 1 + b.table.load_factor() * (both + 32)
    kept = key + SECTOR + both
    return {
        "find": (False, lambda: t.find(n, k, v, f, 0, 0), key + 1 + hit * both),
        "find*": (False, lambda: t.find_pointers(n, k, o, f, 0, 0), key + 9),
        "contains": (False, lambda: t.contains(n, k, f, 0), key + 1),
        "assign": (False, lambda: t.assign(n, k, v, 0, 0, 0), key + hit * (both + SECTOR)),
        "export_batch": (False, lambda: t.export_batch(n, 0, c, o, e, s, 0), full),
        "find_or_insert": (True, lambda: t.find_or_insert(n, k, v, f, 0, 0, 0), kept + 1),
        "find_or_insert*": (
            True, lambda: t.find_or_insert_pointers(n, k, o, f, 0, False, 0, 0), key + SECTOR + 9),
        "insert_or_assign": (True, lambda: t.insert_or_assign(n, k, v, 0, False, 0, 0), kept),
        "insert_and_evict": (
            True, lambda: t.insert_and_evict(n, k, v, 0, o, e, s, c, False, 0, 0),
            kept + out * (both + 16)),
    }  # fmt: skip


def run_hbm(b: Batches, table: harness.Table) -> None:
    for load in (0.5, 0.75, 1.0):
        hit = b.fill(load)
        for name, (inserts, call, size) in calls(b, hit, 1 - hit if load == 1.0 else 0.0).items():
            seconds = best_seconds(call, b.wait, partial(b.forget, load) if inserts else None)
            floor = BATCH * size / table.ceilings.copy_tbps / 1e12
            rate = BATCH / seconds / 2**30
            table.row(load, name, seconds * 1e6, rate, floor * 1e6, floor / seconds, hit)
        b.forget(load)


def run_hybrid(b: Batches, table: harness.Table, in_host: float) -> None:
    down, up = table.ceilings.to_device_gbps, table.ceilings.from_device_gbps
    for load in (0.5, 0.75):
        hit = b.fill(load)
        every = calls(b, hit, 0.0)
        for name in ("find", "find*", "assign", "find_or_insert", "insert_or_assign"):
            inserts, call, _ = every[name]
            seconds = best_seconds(call, b.wait, partial(b.forget, load) if inserts else None)
            share = 1.0 if name in ("find*", "insert_or_assign") else hit
            host = BATCH * in_host * share * b.row / seconds / 1e9
            of_link = host / (down if name in ("find", "find_or_insert") else up)
            rate = BATCH / seconds / 2**30
            table.row(load, name, seconds * 1e6, rate, host, None if name == "find*" else of_link)


def run_hot(b: Batches, table: harness.Table) -> None:
    adds = torch.ones(BATCH, dtype=torch.bool, device="cuda")
    k, v, a = (x.data_ptr() for x in (b.keys, b.values, adds))
    t = b.table.native
    # A call, and how many rows of the batch and of the table it must move per key and distinct key.
    cases: dict[str, tuple[Call, int, int]] = {
        "find_or_insert": (lambda: t.find_or_insert(BATCH, k, v, 0, 0, 0, 0), 1, 1),
        "insert_or_assign": (lambda: t.insert_or_assign(BATCH, k, v, 0, False, 0, 0), 0, 2),
        "accum_or_assign": (lambda: t.accum_or_assign(BATCH, k, v, a, 0, 0, 0), 1, 2),
    }
    for batch, ids in hot_batches(b.random).items():
        counts = np.unique(ids, return_counts=True)[1]
        b.table.clear()
        b.put_keys(ids.astype(np.uint64) * np.uint64(7919))
        cases["insert_or_assign"][0]()
        for name, (call, of_batch, of_table) in cases.items():
            seconds = best_seconds(call, b.wait)
            moved = BATCH * (8 + of_batch * b.row)
            moved += len(counts) * (2 * SECTOR + of_table * b.row)
            floor = moved / table.ceilings.copy_tbps / 1e12
            rate = BATCH / seconds / 2**30
            row = (batch, len(counts), int(counts.max()), name, seconds * 1e6, rate)
            table.row(*row, floor * 1e6, floor / seconds)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=None, help="millions (2^20) of rows")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hybrid", action="store_true", help="16 GiB of the rows in HBM")
    parser.add_argument("--hot", action="store_true", help="few keys many times")
    parser.add_argument("--host", action="store_true", help="what a call costs the host instead")
    parser.add_argument("--evict-from", choices=["both", "home"], default="both")
    parser.add_argument("--engine", choices=["native", "upstream"], default="native")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    engine = hkv.HashTable(128, 4).engine
    if engine != arguments.engine:
        raise SystemExit(f"the installed module has the {engine} engine")
    if arguments.host:
        hash_host.measure(harness.Ceilings.measure(), harness.files(arguments))
        return
    start = partial(harness.Table, harness.Ceilings.measure(), files=harness.files(arguments))
    millions = arguments.rows or (16 if arguments.hot else 128 if arguments.hybrid else 64)
    hbm_bytes = 16 << 30 if arguments.hybrid else None
    b = Batches(millions << 20, arguments.dim, hbm_bytes, arguments.evict_from)
    title = f"{millions} M rows of dim {arguments.dim}"
    if arguments.hot:
        columns = {"batch": "<10", "distinct": ">9d", "most": ">7d", **TIMED, **FLOOR}
        run_hot(b, start(f"{title} in HBM", columns))
    elif arguments.hybrid:
        in_host = 1 - (16 << 30) / (b.row * millions << 20)
        columns = {"load": ">5.2f", **TIMED, "host GB/s": ">10.1f", "of link": ">8.0%"}
        run_hybrid(b, start(f"{title}, {in_host:.0%} of them in host memory", columns), in_host)
    else:
        columns = {"load": ">5.2f", **TIMED, **FLOOR, "hit rate": ">9.3f"}
        run_hbm(b, start(f"{title} in HBM", columns))


if __name__ == "__main__":
    main()
