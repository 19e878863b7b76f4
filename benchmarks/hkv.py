"""How fast the GPU hash table is, beside the floor of each call on the GPU that it runs on.

    python benchmarks/hkv.py [--rows MILLIONS] [--dim N] [--hybrid | --hot]
                             [--engine native|upstream]

The method is that of HierarchicalKV's benchmark: uint64 keys, float32 values, LRU, 1,048,576 keys
per call, a table filled to a load factor with consecutive keys, batches of which 60 % of the keys
are present, host time round one call and a synchronisation, the best of several; throughput in
1024^3 keys per second. Keys of insertions that were absent are new in every call.

The floor is the bytes that any table must move for the call (the batch's keys, one 32-byte sector
with each stored key and each written score, rows read and written) over the bandwidth of a large
device-to-device copy measured in the same run. With --hybrid, half of the rows live in pinned host
memory, and the bytes of those rows per second stand beside a pinned copy over the same link. With
--hot, batches hold few keys many times, as ids of real traffic do.

``--engine upstream`` asks for a module built with --config=upstream_hkv and fails with any other.
Uses the installed package; torch measures the copies.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# A script's own folder comes first in sys.path, and there this file is hkv itself.
sys.path = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import hkv  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from hkv import DeviceArray  # noqa: E402

BATCH = 1 << 20
FRESH = 1 << 62  # the bit of keys that are not in the table
SECTOR = 32
HIT_RATE = 0.6


def best_time(call: Callable[[], object], wait: Callable[[], None], prepare: Callable[[], object],
              repeats: int = 5) -> float:  # fmt: skip
    """Least seconds of call and wait; prepare runs before each, untimed."""
    times = []
    for _ in range(repeats):
        prepare()
        wait()
        begin = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - begin)
    return min(times)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a 4 GiB device-to-device copy."""
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda").uniform_()
    target = torch.empty_like(source)
    seconds = best_time(lambda: target.copy_(source), torch.cuda.synchronize, lambda: None)
    return 2 * source.nbytes / seconds


def link_bandwidth() -> tuple[float, float]:
    """Bytes per second of a 1 GiB pinned copy to the device, and from it."""
    host = torch.empty(1 << 28, dtype=torch.float32, pin_memory=True).fill_(1)
    device = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    wait = torch.cuda.synchronize
    to_device = best_time(lambda: device.copy_(host, non_blocking=True), wait, lambda: None)
    to_host = best_time(lambda: host.copy_(device, non_blocking=True), wait, lambda: None)
    return host.nbytes / to_device, host.nbytes / to_host


class Bench:
    def __init__(self, rows: int, dim: int, hbm_bytes: int | None) -> None:
        self.table = hkv.HashTable(rows, dim, key_dtype="uint64", hbm_bytes=hbm_bytes)
        self.native = self.table.native
        self.row = 4 * dim
        self.filled = 0
        self.fresh = 0
        self.random = np.random.default_rng(0)
        noise = self.random.standard_normal((BATCH, dim), dtype=np.float32)
        self.values = DeviceArray.of(noise)
        self.evicted = DeviceArray((BATCH, dim), "float32", 0)
        self.keys = DeviceArray((BATCH,), "uint64", 0)
        self.keys_out = DeviceArray((BATCH,), "uint64", 0)
        self.scores = DeviceArray((BATCH,), "uint64", 0)
        self.founds = DeviceArray((BATCH,), "bool", 0)
        self.count = DeviceArray((1,), "uint64", 0)

    def wait(self) -> None:
        self.native.synchronize(0)

    def put_keys(self, keys: np.ndarray) -> None:
        self.keys._memory.from_host(keys.ctypes.data, 0)

    def fill(self, load: float) -> None:
        """Inserts consecutive keys up to the load factor, a little beyond a full table."""
        target = int(self.table.capacity * (1.02 if load == 1.0 else load))
        while self.filled < target:
            n = min(BATCH, target - self.filled)
            self.put_keys(np.arange(self.filled, self.filled + BATCH, dtype=np.uint64))
            self.native.insert_or_assign(
                n, self.keys._memory.address, self.values._memory.address, 0, False, 0, 0
            )
            self.wait()
            self.filled += n

    def batch(self, hit_rate: float = HIT_RATE) -> None:
        """Random keys of which hit_rate were inserted (the latest ones, which are still there)."""
        oldest = max(0, self.filled - int(0.95 * self.table.capacity))
        keys = self.random.integers(oldest, self.filled, BATCH, dtype=np.uint64)
        new = self.random.random(BATCH) >= hit_rate
        keys[new] = FRESH + self.fresh + np.arange(int(new.sum()), dtype=np.uint64)
        self.fresh += int(new.sum())
        self.put_keys(keys)

    def forget(self, load: float) -> None:
        """Back to the load factor after insertions (a full table stays full by itself)."""
        if load < 1.0:
            self.table.erase_if(key_mask=FRESH, key_pattern=FRESH)
        self.batch()

    def calls(self) -> dict[str, tuple[bool, Callable[[], None], Callable[[float, float], float]]]:
        """Name -> (inserts, the call, bytes per key at a hit rate and a rate of evictions)."""
        k, v, f = (a._memory.address for a in (self.keys, self.values, self.founds))
        o, e, s, c = (
            a._memory.address for a in (self.keys_out, self.evicted, self.scores, self.count)
        )
        t, n, row = self.native, BATCH, self.row
        everything = hkv._hkv.Predicate(0, 0, 0, 2**64 - 1)
        key = 8 + SECTOR
        return {
            "find": (False, lambda: t.find(n, k, v, f, 0, 0),
                     lambda hit, _: key + 1 + hit * 2 * row),
            "find*": (False, lambda: t.find_pointers(n, k, o, f, 0, 0), lambda *_: key + 9),
            "contains": (False, lambda: t.contains(n, k, f, 0), lambda *_: key + 1),
            "assign": (False, lambda: t.assign(n, k, v, 0, 0, 0),
                       lambda hit, _: key + hit * (2 * row + SECTOR)),
            "export_batch": (False, lambda: t.export_batch_if(everything, n, 0, c, o, e, s, 0),
                             lambda *_: 1 + self.table.load_factor() * (2 * row + 32)),
            "find_or_insert": (True, lambda: t.find_or_insert(n, k, v, f, 0, 0, 0),
                               lambda *_: key + SECTOR + 1 + 2 * row),
            "find_or_insert*": (
                True, lambda: t.find_or_insert_pointers(n, k, o, f, 0, False, 0, 0),
                lambda *_: key + SECTOR + 9),
            "insert_or_assign": (True, lambda: t.insert_or_assign(n, k, v, 0, False, 0, 0),
                                 lambda *_: key + SECTOR + 2 * row),
            "insert_and_evict": (
                True, lambda: t.insert_and_evict(n, k, v, 0, o, e, s, c, False, 0, 0),
                lambda _, out: key + SECTOR + 2 * row + out * (2 * row + 16)),
        }  # fmt: skip


def run_hbm(rows: int, dim: int) -> None:
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth / 1e12:.2f} TB/s; {rows / 2**20:.0f} M rows of dim {dim} in HBM")
    print(f"{'load':>5} {'call':<17} {'us':>8} {'G keys/s':>9} {'floor us':>9} {'of floor':>9}")
    bench = Bench(rows, dim, None)
    for load in (0.5, 0.75, 1.0):
        bench.fill(load)
        bench.batch()
        hit = float(bench.table.contains(bench.keys).numpy().mean())
        for name, (inserts, call, size) in bench.calls().items():
            prepare = partial(bench.forget, load) if inserts else bench.wait
            seconds = best_time(call, bench.wait, prepare)
            floor = BATCH * size(hit, 1 - hit if load == 1.0 else 0.0) / bandwidth
            print(
                f"{load:5.2f} {name:<17} {seconds * 1e6:8.1f} {BATCH / seconds / 2**30:9.3f} "
                f"{floor * 1e6:9.1f} {floor / seconds:9.0%}",
                flush=True,
            )
        bench.forget(load)
        print(f"      load factor {bench.table.load_factor():.4f}, hit rate {hit:.3f}")


def run_hybrid(rows: int, dim: int, hbm_bytes: int) -> None:
    down, up = link_bandwidth()
    print(f"host link: {down / 1e9:.1f} GB/s to the device, {up / 1e9:.1f} GB/s from it")
    bench = Bench(rows, dim, hbm_bytes)
    in_host = 1 - hbm_bytes / (4 * dim * rows)
    print(f"{rows / 2**20:.0f} M rows of dim {dim}, {in_host:.0%} of them in host memory")
    print(f"{'load':>5} {'call':<17} {'us':>8} {'G keys/s':>9} {'host GB/s':>10} {'of link':>8}")
    for load in (0.5, 0.75):
        bench.fill(load)
        bench.batch()
        hit = float(bench.table.contains(bench.keys).numpy().mean())
        for name, (inserts, call, _) in bench.calls().items():
            if name not in ("find", "assign", "find_or_insert", "insert_or_assign", "find*"):
                continue
            prepare = partial(bench.forget, load) if inserts else bench.wait
            seconds = best_time(call, bench.wait, prepare)
            reads = name in ("find", "find_or_insert")
            share = hit if name in ("find", "assign", "find_or_insert") else 1.0
            rate = BATCH * in_host * share * bench.row / seconds
            of_link = "" if name == "find*" else f"{rate / (down if reads else up):8.0%}"
            print(
                f"{load:5.2f} {name:<17} {seconds * 1e6:8.1f} {BATCH / seconds / 2**30:9.3f} "
                f"{rate / 1e9:10.1f} {of_link}",
                flush=True,
            )


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


def run_hot(rows: int, dim: int) -> None:
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth / 1e12:.2f} TB/s; {rows / 2**20:.0f} M rows of dim {dim} in HBM")
    print(
        f"{'batch':<10} {'distinct':>9} {'most':>7} {'call':<17} {'us':>8} {'floor us':>9} "
        f"{'of floor':>9}"
    )
    bench = Bench(rows, dim, None)
    adds = DeviceArray.of(np.ones(BATCH, bool))._memory.address
    k, v = bench.keys._memory.address, bench.values._memory.address
    native = bench.native
    # A call, and how many rows of the batch and of the table it must move per key and distinct key.
    calls: dict[str, tuple[Callable[[], None], int, int]] = {
        "find_or_insert": (lambda: native.find_or_insert(BATCH, k, v, 0, 0, 0, 0), 1, 1),
        "insert_or_assign": (lambda: native.insert_or_assign(BATCH, k, v, 0, False, 0, 0), 0, 2),
        "accum_or_assign": (lambda: native.accum_or_assign(BATCH, k, v, adds, 0, 0, 0), 1, 2),
    }
    for name, ids in hot_batches(bench.random).items():
        counts = np.unique(ids, return_counts=True)[1]
        bench.table.clear()
        bench.put_keys(ids.astype(np.uint64) * np.uint64(7919))
        calls["insert_or_assign"][0]()
        for call_name, (call, of_batch, of_table) in calls.items():
            seconds = best_time(call, bench.wait, bench.wait)
            moved = BATCH * (8 + of_batch * bench.row)
            floor = (moved + len(counts) * (2 * SECTOR + of_table * bench.row)) / bandwidth
            print(
                f"{name:<10} {len(counts):9d} {counts.max():7d} {call_name:<17} "
                f"{seconds * 1e6:8.1f} {floor * 1e6:9.1f} {floor / seconds:9.0%}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=None, help="millions (2^20) of rows")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hybrid", action="store_true", help="16 GiB of the rows in HBM")
    parser.add_argument("--hot", action="store_true", help="few keys many times")
    parser.add_argument("--engine", choices=["native", "upstream"], default="native")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("hkv.py: no CUDA device, nothing can be measured")
    engine = hkv.HashTable(128, 4).engine
    if engine != arguments.engine:
        raise SystemExit(f"the installed module has the {engine} engine")
    if arguments.hot:
        run_hot((arguments.rows or 16) << 20, arguments.dim)
    elif arguments.hybrid:
        run_hybrid((arguments.rows or 128) << 20, arguments.dim, 16 << 30)
    else:
        run_hbm((arguments.rows or 64) << 20, arguments.dim)


if __name__ == "__main__":
    main()
