"""What small batches cost, and calls over many tables: us of the host and of the GPU.

    python benchmarks/hash_small.py [--rows MILLIONS] [--dim N] [--markdown FILE] [--json FILE]

Keys are unique, 60 % of them present; "graph" is a replay of captured calls, "eager" a call and a
synchronisation, "host" the time until the call returns, of many in a row. Inserting calls find
their own keys again from the second repetition on: what is timed is the call on present keys.
The tables of a set are of one size and dim; "one by one" is the same work by a call each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import harness
import hkv
import numpy as np
import torch
from harness import best_seconds, call_us
from hash_batches import Batches

SIZES = [1 << n for n in range(12, 18)]


def graph_us(call: Callable[[int], object], calls: int = 10) -> float:
    """Of one of so many captured calls."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    call(0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            call(torch.cuda.current_stream().cuda_stream)
    return best_seconds(graph.replay, torch.cuda.synchronize) * 1e6 / calls


def run_sizes(b: Batches, table: harness.Table) -> None:
    t = b.table.native
    k, v, f, o = (a.data_ptr() for a in (b.keys, b.values, b.founds, b.keys_out))
    for load in (0.5, 1.0):
        b.fill(load)
        for n in SIZES:
            b.batch()
            calls: dict[str, Callable[[int], object]] = {
                "find": lambda s, n=n: t.find(n, k, v, f, 0, s),
                "find_or_insert*": lambda s, n=n: t.find_or_insert_pointers(
                    n, k, o, f, 0, False, 0, s),
                "insert_or_assign": lambda s, n=n: t.insert_or_assign(n, k, v, 0, False, 0, s),
            }  # fmt: skip
            for name, call in calls.items():
                eager = best_seconds(partial(call, 0), b.wait) * 1e6
                host = call_us(partial(call, 0), 20, False)
                table.row(load, n, name, host, eager, graph_us(call))
        if load < 1.0:
            b.forget(load)


def run_sets(count: int, rows: int, dim: int, batch: int, table: harness.Table) -> None:
    draw = np.random.default_rng(0)
    keys = torch.from_numpy(draw.integers(0, rows // 2, count * batch)).cuda()
    offsets = torch.arange(0, count * batch + 1, batch, device="cuda").view(torch.uint64)
    out = {
        "rows": torch.empty(count * batch, dtype=torch.int64, device="cuda").view(torch.uint64),
        "founds": torch.empty(count * batch, dtype=torch.bool, device="cuda"),
        "status": torch.empty(count * batch, dtype=torch.uint8, device="cuda"),
    }
    parts = [slice(t * batch, (t + 1) * batch) for t in range(count)]

    def together(both: hkv.TableSet, s: int) -> None:
        both.find_or_insert_rows(keys, offsets, stream=s, **out)

    def one_by_one(both: hkv.TableSet, s: int) -> None:
        for part, member in zip(parts, both.tables, strict=True):
            mine = {name: array[part] for name, array in out.items()}
            member.find_or_insert_rows(keys[part], stream=s, **mine)

    for lock in (True, False):
        both = hkv.TableSet([hkv.HashTable(rows, dim, api_lock=lock) for _ in range(count)])
        for name, work in (("together", together), ("one by one", one_by_one)):
            call = partial(work, both)
            eager = best_seconds(partial(call, 0), torch.cuda.synchronize) * 1e6
            host = call_us(partial(call, 0), 5, False)
            table.row("yes" if lock else "no", name, host, eager, graph_us(call))


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=16, help="millions (2^20) of rows")
    parser.add_argument("--dim", type=int, default=64)
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    ceilings, files = harness.Ceilings.measure(), harness.files(arguments)
    times = {"host": ">8.1f", "eager": ">8.1f", "graph": ">8.1f"}
    title = f"{arguments.rows} M rows of dim {arguments.dim}, us a call"
    columns = {"load": ">5.2f", "keys": ">8d", "call": "<17", **times}
    b = Batches(arguments.rows << 20, arguments.dim, None)
    run_sizes(b, harness.Table(ceilings, title, columns, files=files))
    del b
    title = "find_or_insert_rows of 26 tables, 1 M rows each, 4,096 keys of each, us"
    columns = {"api_lock": "<9", "calls": "<11", **times}
    run_sets(26, 1 << 20, 64, 4096, harness.Table(ceilings, title, columns, files=files))


if __name__ == "__main__":
    main()
