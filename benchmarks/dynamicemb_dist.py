"""How fast tables that are dealt out to ranks train, beside what they must do, and what crosses.

    torchrun --nproc-per-node 2 benchmarks/dynamicemb_dist.py [--device cpu] [--case NAME]

Without torchrun it is one rank. Keys follow a power law (1.05), Adam. `alone`: a step of the rank's
batch on tables of its own; `step`: the same dealt out; `host`: until its calls have returned;
`cpu`: processor time of its process; `MB`: what this rank hands to collectives for others, counted;
`GB/s`: of an all-to-all of half of that; `ceiling`: alone and those bytes at that rate. Medians.
With ``--simulate W`` one rank does the work of one of W, and transfers are copies on its device.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import harness
import torch
import torch.distributed as dist
from dynamicemb import modules
from dynamicemb.link import LinkBytes
from sharded_tables import (
    CASES,
    LAW,
    SIMULATED,
    CopyingLink,
    batch,
    collection,
    options_of,
    step_of,
)

COLUMNS = {"case": "<9", "exchange": "<8", "ranks": ">5d"} | dict.fromkeys(
    ["alone ms", "step ms", "host ms", "cpu ms", "MB", "GB/s", "ceiling ms", "x ceiling"], ">10.2f"
)


def times(step: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Median milliseconds of a step, of its calls, and of the process's processor time."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = []
    for _ in range(repeats + 2):
        wait()
        dist.barrier()
        begin, worked = time.perf_counter(), time.process_time()
        step()
        host = time.perf_counter() - begin
        wait()
        taken.append((time.perf_counter() - begin, host, time.process_time() - worked))
    return [1e3 * statistics.median(column) for column in zip(*taken[2:], strict=True)]


def link_gbps(total: int, device: torch.device, world: int) -> float | None:
    """Of an all-to-all in which a rank hands half of ``total`` bytes to the others."""
    if world == 1:
        return None
    most = torch.tensor(total, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    each = max(int(most) // 2 // (world - 1) // 4, 1)
    given = torch.zeros(each * world, device=device)
    came = torch.empty_like(given)
    ms, _, _ = times(lambda: dist.all_to_all_single(came, given), device, 9)
    return each * 4 * (world - 1) / ms / 1e6


def measure(name: str, device: torch.device, table: harness.Table | None, repeats: int) -> None:
    case, rank, world = CASES[name], dist.get_rank(), dist.get_world_size()
    given = batch(case, device, rank)
    of = max(world, SIMULATED[0])
    alone, _, _ = times(step_of(collection(case, device, 1), given), device, repeats)
    for text, options in options_of(case, of).items():
        group = dist.group.WORLD
        made = collection(case, device, of, process_group=group, exchange=options)
        step = step_of(made, given)
        whole, host, cpu = times(step, device, repeats)
        with LinkBytes(rank, world) as counted:
            step()
        rate = link_gbps(counted.total, device, world)
        ceiling = alone + (counted.total / rate / 1e6 if rate else 0.0)
        cells = (alone, whole, host, cpu, counted.total / 1e6, rate, ceiling, whole / ceiling)
        if table is not None:
            table.row(name, text, of, *cells)
        del made, step


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--simulate", type=int, default=1, help="ranks, in place of real ones")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        harness.need_gpu(__file__)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29551")
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world)
    if arguments.simulate > 1:
        SIMULATED[0] = arguments.simulate
        modules.Link = CopyingLink
    table = None
    if rank == 0:
        title = f"{world} rank(s), {backend}, float32, power law {LAW}, Adam"
        ceilings = harness.Ceilings.measure() if device.type == "cuda" else harness.Host.here()
        table = harness.Table(ceilings, title, COLUMNS, harness.files(arguments))
    for name in arguments.case or ["sequences", "bags"]:
        measure(name, device, table, arguments.repeats)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
