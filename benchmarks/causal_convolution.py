"""How near the causal convolution comes to a device copy of the bytes that it must move.

A row's share is those bytes over its time, divided by the copy rate of the same run. Times are
medians of CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import harness
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_packed, causal_conv1d_update, ops
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BATCH, DIM, TOKENS, WIDTH = 8, 4096, 4096, 4
Row = tuple[str, int, harness.Call]


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)


def batch(dtype: torch.dtype, last: bool, b: int, c: int, t: int) -> Tensor:
    return random(b, t, c, dtype=dtype).transpose(1, 2) if last else random(b, c, t, dtype=dtype)


def starts(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)


def whole_batches(name: str, dtype: torch.dtype, last: bool) -> Iterator[Row]:
    """The forward, its features, and the backward."""
    layout = f"{name} channel-{'last' if last else 'first'}"
    weight, bias = random(DIM, WIDTH, dtype=torch.float32), random(DIM, dtype=torch.float32)
    x, dout = (batch(dtype, last, BATCH, DIM, TOKENS) for _ in range(2))
    ids = torch.arange(TOKENS, device="cuda", dtype=torch.int32)[None].expand(BATCH, -1) // 1000
    ids = ids.contiguous()
    states = random(BATCH, WIDTH - 1, DIM, dtype=dtype).transpose(1, 2)

    def forward(*more: Any, final: bool = False) -> harness.Call:
        return lambda: causal_conv1d_fn(x, weight, bias, *more, final, activation="silu")

    yield f"forward {layout}", 2 * x.nbytes, forward(None, None)
    yield f"forward {layout}, states", 2 * x.nbytes, forward(None, states, final=True)
    yield f"forward {layout}, seq_idx", 2 * x.nbytes + ids.nbytes, forward(ids, None)

    def backward(*more: Any) -> harness.Call:
        arguments = (dout, x, weight, bias, *more, None, None, False, True)
        return lambda: ops.bwd(*arguments)

    yield f"backward {layout}", 3 * x.nbytes, backward(None, None)
    yield f"backward {layout}, seq_idx", 3 * x.nbytes + ids.nbytes, backward(ids, None)


def packed(dtype: torch.dtype, lengths: tuple[int, ...], title: str) -> Row:
    total, count = sum(lengths), len(lengths)
    x, weight = random(total, DIM, dtype=dtype).T, random(DIM, WIDTH, dtype=torch.float32)
    bias, at = random(DIM, dtype=torch.float32), starts(*lengths)
    states = random(count, WIDTH - 1, DIM, dtype=dtype).transpose(1, 2)
    has = torch.ones(count, dtype=torch.bool, device="cuda")
    lines = torch.randperm(count, device="cuda").to(torch.int32)
    moved = 2 * x.nbytes + 2 * states.nbytes
    return (
        title,
        moved,
        lambda: causal_conv1d_packed(x, weight, bias, states, at, lines, has, activation="silu"),
    )


def update(dtype: torch.dtype, size: int, columns: int, last: bool) -> Row:
    x, weight = random(size, DIM, dtype=dtype), random(DIM, WIDTH, dtype=torch.float32)
    bias, state = random(DIM, dtype=torch.float32), batch(dtype, last, size, DIM, columns)
    read = size * DIM * (WIDTH - 1) * x.element_size()
    moved = 2 * x.nbytes + read + state.nbytes + weight.nbytes + bias.nbytes
    side = "channels" if last else "columns"
    return (
        f"update, batch {size}, {columns} columns, {side} dense",
        moved,
        lambda: causal_conv1d_update(x, state, weight, bias, "silu"),
    )


def rows() -> Iterator[Row]:
    for name, dtype in DTYPES.items():
        for last in (False, True):
            yield from whole_batches(name, dtype, last)
    bf16 = torch.bfloat16
    yield packed(bf16, (256,) * 64, "packed bf16, 64 sequences, 16,384 tokens")
    yield packed(bf16, (2048,) * 4 + (1,) * 252, "packed bf16, 4 x 2048 prefill + 252 decode")
    for size in (1, 64, 512):
        for columns in (WIDTH - 1, WIDTH):
            for last in (False, True):
                yield update(bf16, size, columns, last)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    ceilings = harness.Ceilings.measure()
    columns = {
        "case": "<52",
        "MB": ">8.1f",
        "us": ">8.1f",
        "of a copy": ">9.2f",
        "byte us": ">8.1f",
    }
    title = f"causal convolution: B{BATCH} C{DIM} L{TOKENS} width {WIDTH} SiLU, fp32 weights"
    table = harness.Table(ceilings, title, columns, harness.files(arguments))
    with torch.cuda.stream(torch.cuda.Stream()):
        for case, moved, call in rows():
            if arguments.case not in case:
                continue
            us = harness.median_ms([call] * 4) * 1e3
            at_best = moved / ceilings.copy_tbps / 1e6
            table.row(case, moved / 1e6, us, at_best / us, at_best)
            del call
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
