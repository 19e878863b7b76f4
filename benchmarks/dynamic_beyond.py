"""How fast a table trains whose rows are more than GPU memory holds, until it is full and past it.

    python benchmarks/dynamic_beyond.py [--rows N] [--hbm GB] [--markdown FILE] [--json FILE]

One table of dim 64 with SGD, --hbm GB of its rows in GPU memory, the others in pinned host memory;
a step is 1,048,576 keys that were never seen before, which are inserted, read and updated. A tenth
more steps than fill the table, so that the last ones evict. `GB/s`: a row of host memory is written
as a new one, read by the lookup, read and written by the update; the bytes of that over the time.
"""

from __future__ import annotations

import sys
import time

import harness
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbPoolingMode, DynamicEmbTableOptions

STEP, DIM = 1 << 20, 64
COLUMNS = {"rows": ">11d", "host share": ">10.0%", "build s": ">8.1f", "step ms": ">8.2f"}
COLUMNS |= {"past full ms": ">12.2f", "M keys/s": ">9.1f", "host GB/s": ">9.1f"}
Seconds = tuple[float, float]


def train(made: Module, steps: int, full: int) -> Seconds:
    """Seconds of a step until the table is full, and after that."""
    ends = torch.arange(0, STEP + 1, device="cuda")
    grad = torch.ones(STEP, DIM, device="cuda")
    times = [time.perf_counter()]
    for at in range(steps):
        if at == full:
            torch.cuda.synchronize()
            times.append(time.perf_counter())
        elif at % 64 == 0 and at > 0:
            torch.cuda.synchronize()
            ms = 1e3 * (time.perf_counter() - times[0]) / at
            print(f"{at * STEP} rows, {ms:.1f} ms a step", file=sys.stderr, flush=True)
        made(torch.arange(at * STEP, (at + 1) * STEP, device="cuda"), ends).backward(grad)
    torch.cuda.synchronize()
    times.append(time.perf_counter())
    return (times[1] - times[0]) / full, (times[2] - times[1]) / (steps - full)


def measure(rows: int, hbm: float, table: harness.Table) -> None:
    options = DynamicEmbTableOptions(torch.float32, DIM, rows, local_hbm_for_values=int(hbm * 1e9))
    begin = time.perf_counter()
    made = Module(
        [options], device="cuda", optimizer="SGD", pooling_mode=DynamicEmbPoolingMode.NONE
    )
    built = time.perf_counter() - begin
    full = -(-rows // STEP)
    steps = full + max(1, full // 10)
    filling, past = train(made, steps, full)
    stats = made.stats()
    live = stats["tables"]["t_0"]["rows"]
    if live != stats["inserted"] or steps * STEP != live + stats["evicted"] + stats["refused"]:
        raise SystemExit(f"rows were lost: {stats}")
    row_bytes = made.tiers.first.row_bytes
    share = max(0.0, 1 - hbm * 1e9 / (rows * row_bytes))
    rate = 4 * STEP * row_bytes * share / filling / 1e9
    table.row(live, share, built, 1e3 * filling, 1e3 * past, STEP / filling / 1e6, rate)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=400_000_000)
    parser.add_argument("--hbm", type=float, default=30.0, help="GB of rows in GPU memory")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    title = "dim 64, float32, SGD; new keys in every step"
    table = harness.Table(harness.Ceilings.measure(), title, COLUMNS, harness.files(arguments))
    measure(arguments.rows, arguments.hbm, table)


if __name__ == "__main__":
    main()
