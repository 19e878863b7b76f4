"""What tables of a size take: bytes of each tier, ranks, nodes, a step, dumps. Arithmetic."""

from __future__ import annotations

import argparse
import math

import torch

from dynamicemb.optimizer import EmbOptimType, RowLayout, row_layout
from dynamicemb.step_model import Load, StepModel, distinct

# Beside its row a key has 8 bytes of itself, 8 of its score, one of its digest and one of its lock.
SLOT_BYTES = 18
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
OPTIMIZERS = {
    "sgd": EmbOptimType.SGD,
    "adam": EmbOptimType.ADAM,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "ftrl": EmbOptimType.FTRL,
}


def table_bytes(rows: int, row_bytes: int) -> int:
    """Of a table of so many rows, keys and scores included."""
    return rows * (row_bytes + SLOT_BYTES)


def _number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError
    return value


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} PB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = _number
    number.__name__ = "positive number"
    parser.add_argument("--keys", type=number, required=True, help="distinct keys to hold")
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--load", type=number, default=0.9, help="keys per row of capacity")
    parser.add_argument("--hbm", type=number, default=141e9, help="bytes of HBM a GPU")
    parser.add_argument("--hbm-share", type=number, default=0.7, help="of it for tables")
    parser.add_argument("--host", type=number, default=2e12, help="bytes of host memory a node")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--cached", type=number, default=0.1, help="share of rows in HBM")
    parser.add_argument("--disk-rate", type=number, default=2e9, help="bytes/s of a node's disk")
    parser.add_argument("--features", type=int, default=26, help="tables; keys are spread evenly")
    parser.add_argument("--lookups", type=int, default=65536, help="a feature, rank and step")
    parser.add_argument("--law", type=number, default=1.05, help="exponent of the keys' power law")
    parser.add_argument(
        "--memory-rate", type=number, default=2e12, help="bytes/s of HBM that a step reaches"
    )
    parser.add_argument("--link-rate", type=number, default=40e9, help="bytes/s of a GPU to others")
    parser.add_argument(
        "--host-rate", type=number, default=50e9, help="bytes/s, host memory to GPU"
    )
    parser.add_argument(
        "--host-rows", type=number, default=33e6, help="rows of host memory a GPU reaches a second"
    )
    parser.add_argument(
        "--fixed", type=number, default=4e-3, help="seconds of a step of next to no keys"
    )


def lines(a: argparse.Namespace) -> list[tuple[str, str]]:
    """Names and figures."""
    dtype = DTYPES[a.dtype]
    layout = row_layout(a.dim, dtype, OPTIMIZERS[a.optimizer])
    rows = math.ceil(a.keys / min(a.load, 1))
    every = table_bytes(rows, layout.row_bytes)
    hbm = a.hbm * a.hbm_share
    alone = math.ceil(every / hbm)
    cache = table_bytes(math.ceil(rows * a.cached), layout.row_bytes)
    nodes = max(math.ceil(every / (a.host * 0.9)), math.ceil(cache / hbm / a.gpus_per_node))
    world = nodes * a.gpus_per_node
    return [
        ("rows", f"{rows:,} of capacity for {a.keys:.4g} keys"),
        ("bytes of a row", f"{layout.row_bytes} and {SLOT_BYTES} for key, score, digest, lock"),
        ("all rows", f"{rows:.4g} x {layout.row_bytes + SLOT_BYTES} = {_size(every)}"),
        ("in HBM alone", f"{alone} GPUs, {math.ceil(alone / a.gpus_per_node)} nodes"),
        (
            f"{a.cached:.0%} cached",
            f"{_size(cache)} in HBM, {_size(every)} in host memory: {nodes} nodes, {world} GPUs",
        ),
        (
            "each node holds",
            f"{_size(every / nodes)} of {_size(a.host)} host memory (at most 90%), nodes 0 to "
            f"{nodes - 1}",
        ),
        (
            "each GPU holds",
            f"{_size(cache / world)} of {_size(a.hbm)} HBM (at most {a.hbm_share:.0%})",
        ),
        *_keys(a, world),
        *_step(a, layout.row_bytes, world),
        *_dump(a, layout, nodes, world),
    ]


def _keys(a: argparse.Namespace, world: int) -> list[tuple[str, str]]:
    mean = a.keys / world
    sigma = math.sqrt(mean * (1 - 1 / world))
    return [
        (
            "keys of a rank",
            f"{a.keys:.4g} / {world} = {mean:.6g}, five sigma {5 * sigma:.3g} "
            f"({5 * sigma / mean:.2%}) by hash_roundrobin",
        )
    ]


def _step(a: argparse.Namespace, row_bytes: int, world: int) -> list[tuple[str, str]]:
    """A step of Adam's bytes, and what it waits for where rows are cached."""
    rows = a.keys / a.features
    load = Load(a.features, a.lookups, rows, a.dim, a.law)
    model = StepModel(a.memory_rate, a.link_rate, (a.fixed, a.fixed))
    unique, link, memory = load.unique(), load.link_bytes(world), load.memory_bytes(world)
    asked = world * a.lookups
    missed = a.features * distinct(asked, rows, a.law, beyond=rows * a.cached) / world
    host = 2 * missed * row_bytes
    waits = host_seconds(2 * missed, row_bytes, a.host_rate, a.host_rows)
    seconds = model.seconds(load, world) + waits
    new = 1e6
    leaving = new_keys_seconds(new, row_bytes, model, a.host_rate, a.host_rows)
    return [
        (
            "keys of a step",
            f"{a.features} x {a.lookups:,} lookups a rank, {unique:,.0f} distinct by a power law "
            f"of {a.law:g}",
        ),
        (
            "link bytes",
            f"{unique:,.0f} x (8 + 2 x 4 x {a.dim}) x {world - 1}/{world} = {_size(link)} a rank",
        ),
        (
            "host link bytes",
            f"2 x {missed:,.0f} rows not cached x {row_bytes} = {_size(host)} a rank, at "
            f"{_size(a.host_rate)}/s and {a.host_rows:.3g} rows/s: {waits * 1e3:.3g} ms",
        ),
        (
            "step",
            f"{a.fixed * 1e3:g} ms + {_size(memory)} / {_size(a.memory_rate)}/s + {_size(link)} / "
            f"{_size(a.link_rate)}/s + {waits * 1e3:.3g} ms = {seconds * 1e3:.3g} ms, nothing "
            f"overlapped",
        ),
        (
            "new keys",
            f"a step of a million, as many rows leave the cache: {leaving * 1e3:.3g} ms",
        ),
    ]


def host_seconds(rows: float, row_bytes: int, rate: float, rows_rate: float) -> float:
    """Of rows that cross between a GPU and its host's memory, each at a place of its own."""
    return max(rows * row_bytes / rate, rows / rows_rate)


def new_keys_seconds(
    keys: float, row_bytes: int, model: StepModel, rate: float, rows_rate: float
) -> float:
    """A step of keys that a full table has not got: rows are made and updated in the cache, and as
    many leave it for the host's memory, where others make room."""
    made = 3 * keys * row_bytes / model.memory_rate
    return model.fixed[0] + made + host_seconds(keys, row_bytes, rate, rows_rate)


def _dump(
    a: argparse.Namespace, layout: RowLayout, nodes: int, world: int
) -> list[tuple[str, str]]:
    state = layout.states * layout.state_dim + (layout.step_offset >= 0)
    row = 8 + 8 + 4 * a.dim + 4 * state
    size = a.keys * row
    parts = 4 if state else 3
    seconds = size / a.disk_rate / nodes
    return [
        (
            "dump",
            f"{a.keys:.4g} x {row} = {_size(size)}, {world * parts * a.features + a.features:,} "
            f"files and a manifest a collection",
        ),
        (
            "dump time",
            f"{_size(size)} / {nodes} nodes / {_size(a.disk_rate)}/s = {seconds:.0f} s = "
            f"{seconds / 3600:.2g} h",
        ),
    ]
