"""How fast tables that are dealt out to ranks train, beside what they must do, and what crosses.

    torchrun --nproc-per-node 2 benchmarks/dynamicemb_dist.py [--device cpu] [--case NAME]

Without torchrun it is one rank. Keys follow a power law (1.05), Adam. `alone`: a step of the rank's
batch on tables of its own; `step`: the same dealt out; `host`: until its calls have returned;
`cpu`: processor time of its process; `MB`: what this rank hands to collectives for others, counted;
`GB/s`: of an all-to-all of half of that; `ceiling`: alone and those bytes at that rate; `waits`: in
which the CPU waits for the GPU. Medians. With ``--simulate W`` one rank does the work of one of W,
and transfers are copies on its device. Where TorchRec is installed, its DistributedModelParallel
moves the same tables' rows: each key that occurs (`TorchRec`), distinct ones (`TR dedup`).
``--model`` (two ranks): see rank_model.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import harness
import rank_model
import torch
import torch.distributed as dist
from dynamicemb import KeyedJaggedTensor, modules
from dynamicemb.link import LinkBytes
from rank_times import link_gbps, times, waits
from sharded_tables import (
    CASES,
    LAW,
    SIMULATED,
    Case,
    CopyingLink,
    batch,
    collection,
    options_of,
    step_of,
)

try:
    import torchrec_tables
except ImportError as error:
    torchrec_tables = None
    WITHOUT = str(error)
COLUMNS = {"case": "<9", "exchange": "<8", "ranks": ">5d", "waits": ">5"} | dict.fromkeys(
    ["alone ms", "step ms", "host ms", "cpu ms", "MB", "GB/s", "ceiling ms", "x ceiling"], ">10.2f"
)


def steps(
    case: Case, device: torch.device, given: KeyedJaggedTensor, of: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each way of dealing the tables out, one at a time."""
    for text, options in options_of(case, of).items():
        group = dist.group.WORLD
        yield (
            text,
            step_of(collection(case, device, of, process_group=group, exchange=options), given),
        )
    if torchrec_tables is None or SIMULATED[0] > 1:
        return
    for text, dedup in {"TorchRec": False, "TR dedup": True}.items():
        if case.hot == 1 or not dedup:
            made = torchrec_tables.sharded(case, device, dedup)
            yield (
                text,
                step_of(lambda one, made=made: made(torchrec_tables.jagged(case, one)), given),
            )


def measure(name: str, device: torch.device, table: harness.Table | None, repeats: int) -> None:
    case, rank, world = CASES[name], dist.get_rank(), dist.get_world_size()
    given = batch(case, device, rank)
    of = max(world, SIMULATED[0])
    alone, _, _ = times(step_of(collection(case, device, 1), given), device, repeats)
    for text, step in steps(case, device, given, of):
        whole, host, cpu = times(step, device, repeats)
        with LinkBytes() as counted:
            step()
        rate = link_gbps(counted.total, device, world)
        ceiling = alone + (counted.total / rate / 1e6 if rate else 0.0)
        cells = (
            waits(step, device),
            alone,
            whole,
            host,
            cpu,
            counted.total / 1e6,
            rate,
            ceiling,
            whole / ceiling,
        )
        if table is not None:
            table.row(name, text, of, *cells)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--simulate", type=int, default=1, help="ranks, in place of real ones")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--model", action="store_true", help="the step model beside two ranks")
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
        columns = rank_model.COLUMNS if arguments.model else COLUMNS
        table = harness.Table(ceilings, title, columns, harness.files(arguments))
    if arguments.model:
        if world != 2:
            raise SystemExit(f"dynamicemb_dist.py: --model wants two ranks, got {world}")
        like = CASES[(arguments.case or ["bags"])[0]]
        rank_model.compare(like, device, arguments.repeats, table)
        dist.destroy_process_group()
        return
    for name in arguments.case or ["sequences", "bags"]:
        measure(name, device, table, arguments.repeats)
    if rank == 0 and torchrec_tables is None:
        print(f"skipped: TorchRec ({WITHOUT})", file=sys.stderr)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
