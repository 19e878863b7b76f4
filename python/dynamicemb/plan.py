"""What tables of a size take: bytes in each tier, GPUs, nodes, dumps. Arithmetic alone."""

from __future__ import annotations

import argparse
import math

import torch

from dynamicemb.optimizer import EmbOptimType, row_layout

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
    state = layout.states * layout.state_dim + (layout.step_offset >= 0)
    dump = a.keys * (8 + 8 + 4 * a.dim + 4 * state)
    seconds = dump / a.disk_rate / nodes
    return [
        ("rows", f"{rows:,} of capacity for {a.keys:.4g} keys"),
        ("bytes of a row", f"{layout.row_bytes} and {SLOT_BYTES} for key, score, digest, lock"),
        ("all rows", _size(every)),
        ("in HBM alone", f"{alone} GPUs, {math.ceil(alone / a.gpus_per_node)} nodes"),
        (
            f"{a.cached:.0%} cached",
            f"{_size(cache)} in HBM, {_size(every)} in host memory: {nodes} nodes, "
            f"{nodes * a.gpus_per_node} GPUs",
        ),
        (
            "dump",
            f"{_size(dump)}, {seconds:.0f} s at {_size(a.disk_rate)}/s a node",
        ),
    ]
