"""What every benchmark here does alike: it times calls, measures the ceilings of the GPU that it
runs on, and prints tables whose first line they are.

A benchmark file holds cases and calls. It has not the name of a package: its folder comes first
where Python looks for modules when it is run as a script.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

Call = Callable[[], object]


def jagged(batch: int, shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths drawn uniformly, the same ones in every run."""
    draw = random.Random(1)
    return tuple(draw.randint(shortest, longest) for _ in range(batch))


def median_ms(calls: Sequence[Call], budget_ms: float = 100.0) -> float:
    """The median time of one of ``calls``, which run in turn as one CUDA graph.

    The current stream must not be the default one, which cannot be captured.
    """
    stream = torch.cuda.current_stream()
    for call in calls:
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()

    def replay() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    replay()
    repeats = max(7, min(50, int(budget_ms / replay())))
    return statistics.median(replay() for _ in range(repeats)) / len(calls)


def best_seconds(call: Call, wait: Call, prepare: Call | None = None, repeats: int = 5) -> float:
    """Least seconds of call and wait; prepare and wait run before each, untimed."""
    times = []
    for _ in range(repeats):
        if prepare:
            prepare()
        wait()
        begin = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - begin)
    return min(times)


def call_us(call: Call, calls: int, wait: bool, repeats: int = 20) -> float:
    """Least microseconds of one of so many eager calls in a row, until the last has returned or,
    with ``wait``, until the GPU has done them all."""
    times = []
    for _ in range(repeats):
        call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        if wait:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times) / calls * 1e6


def beside(run: Call, kernel: str) -> float:
    """Of the time of kernels on other streams than that of ``kernel``'s (a part of its name), the
    share in which one of that stream ran, too; by torch.profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
    events = [
        e for e in profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        if e.device_type() == torch.autograd.DeviceType.CUDA and e.duration_ns() > 0
    ]  # fmt: skip
    streams = {e.device_resource_id() for e in events if kernel in e.name()}
    spans: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for e in events:
        here = e.device_resource_id() in streams
        spans[here].append((e.start_ns(), e.start_ns() + e.duration_ns()))
    there = sorted(spans[True])
    shared = total = at = 0
    for begin, end in sorted(spans[False]):
        total += end - begin
        while at < len(there) and there[at][1] <= begin:
            at += 1
        for a, b in there[at:]:
            if a >= end:
                break
            shared += min(b, end) - max(a, begin)
    return shared / max(total, 1)


@dataclass(frozen=True)
class Ceilings:
    """What the GPU does at best, in this very run."""

    gpu: str
    matmul_tflops: float  # bf16, 8192^3, random data
    copy_tbps: float  # 4 GiB from device to device, bytes read and written
    to_device_gbps: float  # 1 GiB from pinned host memory
    from_device_gbps: float

    @classmethod
    def measure(cls) -> Ceilings:
        with torch.cuda.stream(torch.cuda.Stream()):
            rates = _matmul_tflops(), _copy_tbps(), *_link_gbps()
        torch.cuda.empty_cache()
        return cls(torch.cuda.get_device_name(), *rates)

    def __str__(self) -> str:
        return (
            f"{self.gpu}: matmul {self.matmul_tflops:.0f} TFLOP/s, copy {self.copy_tbps:.2f} TB/s, "
            f"host link {self.to_device_gbps:.1f} GB/s to the device, "
            f"{self.from_device_gbps:.1f} GB/s from it"
        )


@dataclass(frozen=True)
class Host:
    """A machine without a GPU."""

    cores: int
    threads: int  # of torch
    torch: str

    @classmethod
    def here(cls) -> Host:
        return cls(len(os.sched_getaffinity(0)), torch.get_num_threads(), torch.__version__)

    def __str__(self) -> str:
        return f"{self.cores} CPU cores, {self.threads} threads, torch {self.torch}"


def _matmul_tflops(n: int = 8192) -> float:
    x = [torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    ms = median_ms([lambda i=i: torch.matmul(x[i], x[(i + 1) % 3]) for i in range(3)])
    return 2.0 * n**3 / ms / 1e9


def _copy_tbps() -> float:
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda").uniform_()
    target = torch.empty_like(source)
    # Not in a graph, whose copies are slower.
    seconds = best_seconds(lambda: target.copy_(source), torch.cuda.synchronize)
    return 2 * source.nbytes / seconds / 1e12


def _link_gbps() -> tuple[float, float]:
    host = torch.empty(1 << 28, dtype=torch.float32, pin_memory=True).fill_(1)
    device = torch.empty(1 << 28, dtype=torch.float32, device="cuda")

    def rate(target: torch.Tensor, source: torch.Tensor) -> float:
        copy = lambda: target.copy_(source, non_blocking=True)  # noqa: E731
        return host.nbytes / best_seconds(copy, torch.cuda.synchronize) / 1e9

    return rate(device, host), rate(host, device)


class Table:
    """Rows of cells, printed as text as they come, and kept in files as Markdown and JSON.

    Args:
        ceilings: what the first line says.
        title: the second line: what all rows have in common.
        columns: the format of each, e.g. ``{"case": "<20", "us": ">8.1f"}``.
        files: form ("markdown" or "json", one object a line) -> path.
    """

    def __init__(
        self,
        ceilings: Ceilings | Host,
        title: str,
        columns: Mapping[str, str],
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.ceilings = ceilings
        self.columns = columns
        self.paths = {form: Path(path) for form, path in (files or {}).items()}
        rule = "|" + "---|" * len(columns)
        self.lines = {
            "markdown": [str(ceilings), "", title, "", _piped(columns), rule],
            "json": [json.dumps({"title": title, **asdict(ceilings)})],
        }
        print(f"{ceilings}\n{title}")
        self._print(list(columns))

    def row(self, *cells: object) -> None:
        """Adds a row, a cell for each column; None leaves one empty."""
        self.lines["json"].append(json.dumps(dict(zip(self.columns, cells, strict=True))))
        self.lines["markdown"].append(_piped(text.strip() for text in self._print(cells)))
        for form, path in self.paths.items():
            path.write_text("\n".join(self.lines[form]) + "\n", encoding="utf-8")

    def _print(self, cells: Sequence[object]) -> list[str]:
        texts = [_text(c, spec) for c, spec in zip(cells, self.columns.values(), strict=True)]
        print(" ".join(texts).rstrip(), flush=True)
        return texts


def _text(cell: object, spec: str) -> str:
    if cell is None or isinstance(cell, str):  # in a column of numbers: aligned as they are
        return format(cell or "", re.match(r"[<>]?\d*", spec)[0])
    return format(cell, spec)


def _piped(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark has; ``files(arguments)`` reads them."""
    result = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for form in ("markdown", "json"):
        result.add_argument(f"--{form}", metavar="FILE", help=f"also write the table as {form}")
    return result


def files(arguments: argparse.Namespace) -> dict[str, str]:
    return {form: path for form in ("markdown", "json") if (path := vars(arguments)[form])}


def need_gpu(program: str) -> None:
    """Ends the program where nothing can be measured."""
    if not torch.cuda.is_available():
        raise SystemExit(f"{Path(program).name}: no CUDA device, nothing can be measured")
