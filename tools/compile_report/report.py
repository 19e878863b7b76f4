"""report.py MANIFEST JSON SVG TXT: the compile report of the sources that MANIFEST lists.

For each CUDA source: CPU seconds and largest process of its compile, size of the object, and over
its kernels and GPU targets the most registers and the most bytes spilled, as ptxas reports them.
The times are those of the machine and the moment that compiled; a cached object keeps them.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

# The seconds of the budgets are those of a quiet machine. Where a hyper-thread shares the core, the
# same compile was seen to take 1.8 times as many.
SHARED = 2


@dataclass(frozen=True)
class Compile:
    """One CUDA source."""

    label: str
    source: str
    cpu_seconds: float
    peak_mib: int
    object_kib: int
    kernels: int
    registers: int
    spill_bytes: int
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        package, _, target = self.label.removeprefix("//").partition(":")
        stem = self.source.removesuffix(".cu")
        return f"{package}:{target}" if stem == target else f"{package}:{target}/{stem}"


def read_ptxas(text: str) -> tuple[int, int, int]:
    """Kernels, most registers, most bytes that one kernel for one target spills and reloads."""
    kernels = set(re.findall(r"Compiling entry function '(\S+)'", text))
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", text)]
    spills = [
        int(stores) + int(loads)
        for stores, loads in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
    ]
    return len(kernels), max(registers, default=0), max(spills, default=0)


def read(manifest: Path) -> list[Compile]:
    found = []
    for entry in json.loads(manifest.read_text()):
        cost = json.loads(Path(entry["cost"]).read_text())
        kernels, registers, spill_bytes = read_ptxas(Path(entry["ptxas"]).read_text())
        found.append(
            Compile(
                label=entry["label"],
                source=Path(entry["cost"]).name.replace(".cost", ".cu"),
                cpu_seconds=cost["cpu_seconds"],
                peak_mib=round(cost["peak_kib"] / 1024),
                object_kib=round(Path(entry["object"]).stat().st_size / 1024),
                kernels=kernels,
                registers=registers,
                spill_bytes=spill_bytes,
                packages=tuple(entry["packages"]),
            )
        )
    return sorted(found, key=lambda c: (-c.cpu_seconds, c.name))


def by_package(compiles: list[Compile]) -> dict[str, float]:
    """CPU seconds of each package's sources."""
    packages = sorted({package for c in compiles for package in c.packages})
    return {p: sum(c.cpu_seconds for c in compiles if p in c.packages) for p in packages}


def table(compiles: list[Compile]) -> str:
    wide = max([len(c.name) for c in compiles] + [6])
    lines = [
        f"{'target':<{wide}}   CPU s  peak MiB  object KiB  kernels  registers  spilled B",
        f"{'-' * wide}  ------  --------  ----------  -------  ---------  ---------",
    ]
    for c in compiles:
        lines.append(
            f"{c.name:<{wide}}  {c.cpu_seconds:6.1f}  {c.peak_mib:8}  {c.object_kib:10}  "
            f"{c.kernels:7}  {c.registers:9}  {c.spill_bytes:9}"
        )
    seconds = sum(c.cpu_seconds for c in compiles)
    kib = sum(c.object_kib for c in compiles)
    peak = max((c.peak_mib for c in compiles), default=0)
    lines.append(f"{f'all {len(compiles)}':<{wide}}  {seconds:6.1f}  {peak:8}  {kib:10}")
    for package, seconds in by_package(compiles).items():
        lines.append(f"{package:<{wide}}  {seconds:6.1f}")
    return "\n".join(lines) + "\n"


def chart(compiles: list[Compile]) -> str:
    """Horizontal bars: CPU seconds of each source; the bars of sources that spill are red."""
    row, left, width, right = 18, 330, 420, 130
    longest = max([c.cpu_seconds for c in compiles] + [0.1])
    height = row * len(compiles) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + right}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="20" font-size="14">CPU seconds to compile each CUDA source'
        f" ({sum(c.cpu_seconds for c in compiles):.0f} s in all; red: spills registers)</text>",
    ]
    for i, c in enumerate(compiles):
        y = 36 + row * i
        length = max(1.0, width * c.cpu_seconds / longest)
        color = "#c0392b" if c.spill_bytes else "#2e75b6"
        text = f"{c.cpu_seconds:.1f} s, {c.peak_mib} MiB, {c.registers} regs"
        parts += [
            f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{escape(c.name)}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="13" fill="{color}"/>',
            f'<text x="{left + length + 5:.1f}" y="{y + 12}">{text}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def over_budget(
    compiles: list[Compile], each: dict[str, float], rows: dict[str, dict[str, Any]]
) -> list[str]:
    """One line for each figure above its budget.

    `each` is for every source; of the rows of tools/release/wheels.bzl, `unit_seconds` is for each
    source of the package and `all_seconds` for their sum, both on a quiet machine: `SHARED` times
    as many are allowed.
    """
    lines = []
    for c in compiles:
        seconds = SHARED * min((rows[p]["unit_seconds"] for p in c.packages), default=0)
        for figure, limit in (each | {"cpu_seconds": seconds}).items():
            if asdict(c)[figure] > limit:
                lines.append(f"{c.name}: {figure} {asdict(c)[figure]:g}, the budget is {limit:g}")
    for package, total in by_package(compiles).items():
        if total > (limit := SHARED * rows[package]["all_seconds"]):
            lines.append(f"{package}: cpu_seconds {total:g} in all, the budget is {limit:g}")
    return lines


def main() -> None:
    manifest, as_json, svg, txt = (Path(argument) for argument in sys.argv[1:])
    compiles = read(manifest)
    as_json.write_text(json.dumps([asdict(c) for c in compiles], indent=1) + "\n")
    svg.write_text(chart(compiles))
    txt.write_text(table(compiles))


if __name__ == "__main__":
    main()
