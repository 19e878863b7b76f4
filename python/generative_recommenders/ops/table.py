"""The one table of configurations: what was measured, by GPU, op and rounded shape.

A row of "kind forward" and "kind backward" says what share of a bf16 matmul of 8192^3 each kind of
kernel reached, of which AUTO takes the greatest; the others say with which blocks a kernel runs.
Rows that nobody measured are marked untuned. ``python -m generative_recommenders.tune`` adds rows
for one's own GPU.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """``dim``: the wider head dim; ``length``: the longest sequence; both are powers of two."""

    gpu: str
    op: str
    dim: int
    length: int
    values: dict[str, Any]
    tuned: bool = True


def _blocks(m: int, n: int, warps: int, stages: int, loop: int) -> dict[str, Any]:
    return {"block_m": m, "block_n": n, "num_warps": warps, "num_stages": stages, "loop": loop}


def _kinds(triton: float, descriptors: float, cuda: float) -> dict[str, Any]:
    return {"TRITON": triton, "TMA": descriptors, "CUDA": cuda}


H200, A100 = "H200", "A100"
ROWS = (
    Row(H200, "forward", 64, 2048, _blocks(64, 64, 4, 2, 1)),
    Row(H200, "forward", 128, 2048, _blocks(128, 64, 4, 2, 0)),
    Row(H200, "forward", 256, 2048, _blocks(128, 32, 8, 3, 2)),
    Row(H200, "forward general", 64, 2048, _blocks(64, 64, 4, 2, 0)),
    Row(H200, "forward general", 128, 2048, _blocks(128, 32, 4, 3, 2)),
    Row(H200, "rows general", 64, 2048, _blocks(64, 64, 4, 2, 0)),
    Row(H200, "rows general", 128, 2048, _blocks(64, 64, 4, 2, 0)),
    Row(H200, "rows", 64, 2048, _blocks(128, 128, 8, 2, 2)),
    Row(H200, "rows", 128, 2048, _blocks(128, 64, 8, 2, 2)),
    Row(H200, "rows", 256, 2048, _blocks(128, 32, 8, 2, 2)),
    Row(H200, "columns", 64, 2048, _blocks(64, 64, 4, 2, 0)),
    Row(H200, "columns", 128, 2048, _blocks(64, 64, 4, 2, 0)),
    Row(H200, "columns", 256, 2048, _blocks(64, 64, 8, 1, 2)),
    # Derived from the H200's for 164 KiB of shared memory and mma.sync; nobody has run them there.
    Row(A100, "forward", 64, 2048, _blocks(128, 64, 4, 3, 2), tuned=False),
    Row(A100, "forward", 128, 2048, _blocks(128, 64, 8, 2, 2), tuned=False),
    Row(A100, "forward", 256, 2048, _blocks(64, 32, 4, 2, 0), tuned=False),
    Row(A100, "rows", 64, 2048, _blocks(64, 64, 4, 2, 2), tuned=False),
    Row(A100, "rows", 128, 2048, _blocks(64, 32, 4, 2, 2), tuned=False),
    Row(A100, "rows", 256, 2048, _blocks(32, 16, 8, 1, 2), tuned=False),
    Row(A100, "columns", 64, 2048, _blocks(64, 64, 4, 2, 0), tuned=False),
    Row(A100, "columns", 128, 2048, _blocks(32, 64, 4, 2, 0), tuned=False),
    Row(A100, "columns", 256, 2048, _blocks(32, 32, 4, 1, 2), tuned=False),
    Row(H200, "kind forward", 32, 1024, _kinds(0.125, 0.106, 0.068)),
    Row(H200, "kind forward", 64, 256, _kinds(0.113, 0.092, 0.120)),
    Row(H200, "kind forward", 64, 2048, _kinds(0.398, 0.413, 0.350)),
    Row(H200, "kind forward", 128, 2048, _kinds(0.46, 0.52, 0.46)),
    Row(H200, "kind forward", 256, 2048, _kinds(0.517, 0.566, 0.40)),
    Row(H200, "kind backward", 32, 1024, _kinds(0.076, 0.076, 0.084)),
    Row(H200, "kind backward", 64, 256, _kinds(0.091, 0.071, 0.115)),
    Row(H200, "kind backward", 64, 2048, _kinds(0.285, 0.285, 0.31)),
    Row(H200, "kind backward", 128, 2048, _kinds(0.327, 0.327, 0.38)),
    Row(H200, "kind backward", 256, 2048, _kinds(0.264, 0.264, 0.35)),
    # With targets; CUDA is not asked where there is a window or there are contextual rows.
    Row(H200, "kind forward general", 64, 2048, _kinds(0.368, 0.332, 0.460)),
    Row(H200, "kind forward general", 128, 2048, _kinds(0.51, 0.52, 0.453)),
    Row(H200, "kind backward general", 64, 2048, _kinds(0.276, 0.276, 0.352)),
    Row(H200, "kind backward general", 128, 2048, _kinds(0.38, 0.38, 0.406)),
    # No shares but an order: hstu_attn's kernels are made for mma.sync, which is all that there is.
    Row(A100, "kind forward", 128, 2048, _kinds(0.0, 0.0, 1.0), tuned=False),
    Row(A100, "kind backward", 128, 2048, _kinds(0.0, 0.0, 1.0), tuned=False),
)


def rounded(n: int) -> int:
    """The power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def _distance(row: Row, dim: int, length: int) -> int:
    """In doublings; a head dim weighs more than a length."""

    def doublings(a: int, b: int) -> int:
        return abs(rounded(a).bit_length() - rounded(b).bit_length())

    return 8 * doublings(row.dim, dim) + doublings(row.length, length)


@functools.cache
def nearest(op: str, gpu: str, major: int, dim: int, length: int, general: bool = False) -> Row:
    """The row for what is asked for, or the nearest one of that op.

    Args:
        op: its name in the table.
        gpu: the device's name; one that is not in the table has the rows of a GPU like it.
        major: of its compute capability: 9 is like an H200, others like an A100.
        dim: the wider head dim.
        length: the longest sequence.
        general: the mask is more than causal: rows of "<op> general", if there are any of that dim.
    """
    known = next((name for name in (H200, A100) if name in gpu), H200 if major == 9 else A100)
    every = own_rows(gpu) + [row for row in ROWS if row.gpu == known]
    rows = [row for row in every if general and (row.op, row.dim) == (f"{op} general", dim)]
    rows = rows or [row for row in every if row.op == op]
    return min(rows, key=lambda row: _distance(row, dim, length))


@functools.cache
def sources() -> str:
    """The hash of the kernels' sources: rows that were measured with others do not count."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "triton").glob("_*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def triton_version() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def own_file(gpu: str) -> Path:
    """Where ``tune`` keeps the rows of a GPU, for one Triton and one state of the sources."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^A-Za-z0-9]+", "_", gpu)
    return cache / "hstu-triton" / f"{name}-{triton_version()}-{sources()}.json"


def written(rows: list[Row]) -> bytes:
    """The content of such a file."""
    shown = [row._asdict() for row in rows]
    return (json.dumps({"rows": shown}, indent=1) + "\n").encode()


def read_rows(path: Path, gpu: str) -> list[Row]:
    """The rows of such a file; one that is not there, or broken, has none."""
    try:
        found = json.loads(path.read_text())["rows"]
        rows = [
            Row(gpu, r["op"], int(r["dim"]), int(r["length"]), dict(r["values"])) for r in found
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return rows


def own_rows(gpu: str) -> list[Row]:
    """What ``tune`` measured here."""
    if not gpu:
        return []
    try:
        return read_rows(own_file(gpu), gpu)
    except RuntimeError:  # no home directory
        return []
