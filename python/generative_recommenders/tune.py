"""Measures on this GPU what the table of configurations asks: blocks of each kernel, kinds of AUTO.

    python -m generative_recommenders.tune [--dims 64,128,256] [--lengths 256,2048,8192] [--dry-run]

Rows go to a file of one's own, for this GPU, this Triton and these sources; kernels and AUTO take
them from there at the next start. What is in the file is not measured again: a run that was
interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor

from generative_recommenders._core import files
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import cuda, table
from generative_recommenders.ops.kinds import Kinds, attention
from generative_recommenders.ops.problem import Problem

HEADS = 4
TOKENS = 32768  # of a batch, in sequences of one length
REPEATS = 20
KERNELS = ("forward", "rows", "columns")
KIND = ("kind forward", "kind backward")


class Job(NamedTuple):
    """One row to be measured."""

    op: str
    dim: int
    length: int


# What a job's candidate is called -> milliseconds, or None for one that cannot run.
Measure = Callable[[Job, dict[str, Any]], "float | None"]


def jobs(dims: list[int], lengths: list[int]) -> list[Job]:
    """Kernels first: which kind is fastest depends on their blocks."""
    ops = (*KERNELS, *KIND)
    return [Job(op, dim, length) for op in ops for dim in dims for length in lengths]


def candidates(job: Job) -> list[dict[str, Any]]:
    """Blocks that are worth a try, or kinds."""
    if job.op in KIND:
        return [{"kind": name} for name in ("TRITON", "TMA", "CUDA")]
    names = ("block_m", "block_n", "num_warps", "num_stages", "loop")
    found = []
    for values in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3), (0, 1, 2)):
        m, n, warps, *_ = values
        if max(m, n) <= max(16, table.rounded(job.length)) and m * n * 4 <= warps * 16384:
            found.append(dict(zip(names, values, strict=True)))
    return found


def best(job: Job, times: list[tuple[dict[str, Any], float]]) -> dict[str, Any]:
    """The values of the job's row: of kinds all, by how many a millisecond; of blocks the first."""
    if job.op in KIND:
        return {found["kind"]: 1.0 / ms for found, ms in times}
    return min(times, key=lambda pair: pair[1])[0]


def bar(done: int, total: int, text: str, out: TextIO) -> None:
    filled = 20 * done // max(total, 1)
    end = "\n" if done == total else ""
    out.write(f"\r[{'#' * filled}{'.' * (20 - filled)}] {done}/{total} {text:<48}{end}")
    out.flush()


def tune(plan: list[Job], path: Path, gpu: str, measure: Measure, out: TextIO) -> list[table.Row]:
    """Measures what the file at ``path`` does not have, and writes it after every row.

    Args:
        plan: the rows.
        path: ``table.own_file(gpu)``.
        gpu: the device's name.
        measure: what times one candidate.
        out: where the progress goes.

    Returns:
        all rows of the file.
    """
    rows = table.read_rows(path, gpu)
    there = {row[1:4] for row in rows}
    missing = [job for job in plan if tuple(job) not in there]
    tries = [candidates(job) for job in missing]
    total, done = sum(map(len, tries)), 0
    for job, choices in zip(missing, tries, strict=True):
        times = []
        for choice in choices:
            ms = measure(job, choice)
            done += 1
            if ms is not None:
                times.append((choice, ms))
            bar(done, total, f"{job.op}, head dim {job.dim}, length {job.length}", out)
        if times:
            rows.append(table.Row(gpu, *job, best(job, times)))
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, table.written(rows))
    return rows


def _median_ms(call: Callable[[], object]) -> float:
    event: Any = torch.cuda.Event
    call()
    times: list[float] = []
    for _ in range(REPEATS):
        start, end = (event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


class OnGpu:
    """Times a candidate by CUDA events on this GPU, causal, bf16."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def _prepare(self, job: Job) -> Problem:
        if self.job is None or self.job[1:] != job[1:]:
            batch = max(1, TOKENS // job.length)
            starts = torch.arange(batch + 1, device="cuda") * job.length
            shape = (batch * job.length, HEADS, job.dim)
            qkv = (torch.rand(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
            self.job, self.inputs = job, (*qkv, starts)
        q, k, v, _, starts = self.inputs
        return Problem(job.length, job.dim**-0.5, q, k, v, starts)

    def _call(self, p: Problem, kinds: Kinds, backward: bool) -> float:
        if not backward:
            return _median_ms(lambda: attention(p, kinds))
        wanted = [t.detach().requires_grad_() for t in (p.q, p.k, p.v)]
        out = attention(p._replace(q=wanted[0], k=wanted[1], v=wanted[2]), kinds)
        grad = self.inputs[3]
        return _median_ms(lambda: torch.autograd.grad(out, wanted, grad, retain_graph=True))

    def __call__(self, job: Job, choice: dict[str, Any]) -> float | None:
        from generative_recommenders.ops.triton import _attention_configs as configs

        p = self._prepare(job)
        kernel = HammerKernel.CUDA if choice.get("kind") == "CUDA" else HammerKernel.TRITON
        if kernel is HammerKernel.CUDA and (not cuda.INSTALLED or cuda.why_not(p) is not None):
            return None
        tma = choice.get("kind") == "TMA"
        if tma and torch.cuda.get_device_capability()[0] < 9:
            return None
        if job.op in KERNELS:
            configs.FORCED[job.op] = configs.Config(**choice)
        try:
            backward = job.op in ("rows", "columns", "kind backward")
            return self._call(p, Kinds(kernel, kernel, tma), backward)
        except Exception as error:
            if "OutOfResources" in type(error).__name__ or "out of resource" in str(error):
                return None
            raise
        finally:
            configs.FORCED.clear()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m generative_recommenders.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dims", type=numbers, default=[64, 128, 256], help="head dims")
    parser.add_argument("--lengths", type=numbers, default=[256, 2048, 8192], help="of sequences")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured")
    options = parser.parse_args(arguments)
    plan = jobs(options.dims, options.lengths)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    path = table.own_file(gpu or "no GPU")
    if options.dry_run:
        there = {row[1:4] for row in table.read_rows(path, gpu)}
        for job in plan:
            state = "there" if tuple(job) in there else f"{len(candidates(job))} candidates"
            print(f"{job.op:<14} head dim {job.dim:>3}  length {job.length:>5}  {state}")
        print(f"rows go to {path}")
        return 0
    if not gpu:
        print("generative_recommenders: tune needs a GPU; --dry-run does not", file=sys.stderr)
        return 1
    rows = tune(plan, path, gpu, OnGpu(), sys.stderr)
    print(f"{len(rows)} rows in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
