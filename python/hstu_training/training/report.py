"""What a person sees of a run: a line that moves, metrics.csv, report.json, training.png."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hstu_training._core.files import write

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # dense bf16, FLOP/s
_FIXED = ("step", "epoch", "loss", "tokens_per_second", "mfu", "mfu_of_matmul", "seconds")


def peak_flops(device: torch.device) -> float | None:
    """Of the GPU's data sheet; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, measured now; some 50 ms."""
    n, repeats = (8192, 10) if device.type == "cuda" else (768, 3)
    a = torch.randn(n, n, device=device, dtype=torch.float32).to(dtype)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a @ a
    wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        a @ a
    wait()
    return repeats * 2 * n**3 / (time.perf_counter() - begin)


class Bar:
    """A line that is written over on a terminal, and one line a report elsewhere."""

    def __init__(self, total: int, enabled: bool) -> None:
        self.total, self.enabled = total, enabled
        self.begin = time.perf_counter()
        self.first: int | None = None

    def show(self, step: int, loss: float, rate: float, mfu: float | None, last: bool) -> None:
        """Steps done, loss, tokens a second, share of the peak."""
        if not self.enabled:
            return
        if self.first is None:
            self.first = step
        done = step / self.total
        taken = time.perf_counter() - self.begin
        per_step = taken / max(step - self.first, 1)
        eta = time.strftime("%H:%M:%S", time.gmtime(per_step * (self.total - step)))
        filled = int(20 * done)
        used = "" if mfu is None else f"  MFU {100 * mfu:.1f} %"
        line = (
            f"[{'#' * filled}{'.' * (20 - filled)}] {step}/{self.total}  loss {loss:.4f}  "
            f"{rate:,.0f} tokens/s{used}  ETA {eta}"
        )
        if sys.stdout.isatty():
            print(f"\r{line}\x1b[K", end="\n" if last else "", flush=True)
        else:
            print(line, flush=True)


class MetricsFile:
    """``metrics.csv``: a line for each report, kept whole by renaming.

    Args:
        path: of it.
        names: columns besides the fixed ones.
        from_step: lines of later steps, which a killed run has left, are dropped.
    """

    def __init__(self, path: Path, names: Sequence[str], from_step: int) -> None:
        self.path, self.columns = path, [*_FIXED, *names]
        self.rows: list[dict[str, str]] = []
        if path.is_file() and from_step:
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= from_step]

    def add(self, row: Mapping[str, Any]) -> None:
        """A line; floats are written so that they read back equal."""
        self.rows.append({k: "" if v is None else repr(v) for k, v in row.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write(self.path, text.getvalue().encode())

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column, where it has any."""
        found = [(int(r["step"]), float(r[name])) for r in self.rows if r.get(name)]
        found = [pair for pair in found if math.isfinite(pair[1])]
        return [step for step, _ in found], [value for _, value in found]


def plot(path: Path, metrics: MetricsFile, names: Sequence[str], title: str) -> None:
    """``training.png``: loss, metrics and throughput over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((11, 3.4))
    figure.subplots_adjust(0.06, 0.14, 0.99, 0.84, 0.2)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    rate = ("tokens_per_second",)
    panels = ((("loss",), "loss"), (names, "metrics"), (rate, "tokens per second"))
    for axis, (columns, label) in zip(axes, panels, strict=True):
        for column in columns:
            steps, values = metrics.series(column)
            axis.plot(steps, values, marker="." if len(steps) < 40 else "", label=column)
        axis.set_title(label)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if label == "metrics" and columns:
            axis.legend(fontsize=7)
        if label == "tokens per second":
            axis.set_ylim(bottom=0)
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write(path, picture.getvalue())


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    write(path, (json.dumps(report, indent=1, default=str) + "\n").encode())


class TensorBoard:
    """Scalars for TensorBoard, where it is installed."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self.writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self.writer = SummaryWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
