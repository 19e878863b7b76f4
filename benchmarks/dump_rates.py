"""How fast tables are dumped and loaded beside the disk, and what a dump costs training meanwhile.

    python benchmarks/dump_rates.py [--device cpu] [--rows N] [--folder DIR] [--kept BYTES]

One table of dim 128 in float32 with Adam's state. `disk`: the dump's bytes written to one file and
synced, and read again, by the same process; `step`: a training step, the median, alone and while
``dump(blocking=False, kept_bytes=BYTES)`` writes the same table; `memory`: what a blocking dump
adds at most.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import harness
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbPoolingMode, DynamicEmbTableOptions

DIM, PIECE = 128, 1 << 26
COLUMNS = {"rows": ">9d"} | dict.fromkeys(
    ["GB", "disk out GB/s", "dump GB/s", "disk in GB/s", "load GB/s", "step ms", "in dump ms",
     "longer %", "memory MB"], ">13.2f",
)  # fmt: skip


def module(rows: int, device: str) -> Module:
    options = DynamicEmbTableOptions(torch.float32, DIM, int(rows * 1.02) + 128)
    return Module(
        [options], ["t"], device=device, optimizer="ADAM", enforce_hbm=True,
        pooling_mode=DynamicEmbPoolingMode.NONE,
    )  # fmt: skip


def keys_of(n: int, rows: int, device: str) -> torch.Tensor:
    return (torch.rand(n, device=device) ** 4 * rows).long()


def train(made: Module, rows: int, device: str) -> float:
    """Milliseconds of a step of 65,536 keys."""
    ids, ends = keys_of(1 << 16, rows, device), torch.tensor([0, 1 << 16], device=device)
    grad = torch.ones(1 << 16, DIM, device=device)
    begin = time.perf_counter()
    made(ids, ends).backward(grad)
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


def disk_rates(folder: Path, size: int) -> tuple[float, float]:
    """Bytes a second of writing with a sync, and of reading what the cache does not have."""
    path, data = folder / "disk", os.urandom(PIECE)
    begin = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(-(-size // PIECE)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = file.tell()
        out = written / (time.perf_counter() - begin)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    with open(path, "rb") as file:
        while file.read(PIECE):
            pass
    rate = written / (time.perf_counter() - begin)
    path.unlink()
    return out, rate


def forget(folder: Path) -> int:
    """Bytes of a folder's files, which leave the cache."""
    size = 0
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size += path.stat().st_size
    return size


def measure(rows: int, device: str, folder: Path, kept: int, table: harness.Table) -> None:
    made = module(rows, device)
    for begin in range(0, rows, 1 << 18):
        ids = torch.arange(begin, min(begin + (1 << 18), rows), device=device)
        made._prepare(ids, torch.tensor([0, len(ids)], device=device), None)
    alone = statistics.median(train(made, rows, device) for _ in range(20))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    made.dump(str(folder / "d"), optim=True)
    took = time.perf_counter() - begin
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1e3
    size = forget(folder / "d")
    out, back = disk_rates(folder, size)
    print(f"dump {size / took / out:.2f} of the disk's rate", file=sys.stderr, flush=True)
    beside = []
    dump = made.dump(str(folder / "e"), optim=True, blocking=False, kept_bytes=kept)
    assert dump is not None
    while not dump.done():
        beside.append(train(made, rows, device))
    dump.wait()
    longer = statistics.median(beside or [0.0])
    del made
    other = module(rows, device)
    begin = time.perf_counter()
    other.load(str(folder / "d"), optim=True)
    loaded = time.perf_counter() - begin
    table.row(
        rows, size / 1e9, out / 1e9, size / took / 1e9, back / 1e9, size / loaded / 1e9, alone,
        longer, 100 * (longer / alone - 1), more,
    )  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kept", type=int, default=1 << 30, help="kept_bytes of the dump beside")
    parser.add_argument("--folder", help="on the disk that is measured; default: temporary")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        harness.need_gpu(__file__)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    ceilings = harness.Ceilings.measure() if arguments.device == "cuda" else harness.Host.here()
    title = "a table of dim 128, float32, Adam; steps of 65,536 keys"
    try:
        table = harness.Table(ceilings, title, COLUMNS, harness.files(arguments))
        measure(arguments.rows, arguments.device, folder, arguments.kept, table)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
