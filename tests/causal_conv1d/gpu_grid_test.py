"""The peer's grid on a GPU. A sixteenth of it by default, all of it with CAUSAL_CONV1D_GRID=all."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from causal_conv1d import causal_conv1d_fn

from tests.causal_conv1d.cases import Case, check, make

TOKENS = (1, 2, 8, 16, 32, 64, 128, 129, 130, 151, 256, 372, 512, 784, 1024, 1134, 2048, 4096)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EVERY = 1 if os.environ.get("CAUSAL_CONV1D_GRID") == "all" else 16
BOOL = (False, True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dim", [64, 4128])
def test_the_grid_of_the_peer(gpu: str, dim: int, tokens: int, dtype: torch.dtype) -> None:
    grid = itertools.product((2, 3, 4), BOOL, BOOL, BOOL, BOOL, BOOL)
    start = (TOKENS.index(tokens) + DTYPES.index(dtype) * 5 + dim) % EVERY
    for width, bias, silu, last, initial, final in itertools.islice(grid, start, None, EVERY):
        check(
            Case(
                dim=dim,
                tokens=tokens,
                width=width,
                dtype=dtype,
                last=last,
                bias=bias,
                silu=silu,
                initial=initial,
                final=final,
                spare=64 if last else 0,
                device=gpu,
            )
        )


@pytest.mark.gpu
@pytest.mark.parametrize("last", BOOL, ids=["channel_first", "channel_last"])
def test_ten_thousand_runs_are_the_same_bits(gpu: str, last: bool) -> None:
    i = make(Case(dim=2048 + 32, tokens=513, last=last, dtype=torch.bfloat16, device=gpu))
    leaves = [t.requires_grad_() for t in (i.x, i.weight, i.bias)]

    def run() -> list[torch.Tensor]:
        out = causal_conv1d_fn(*leaves, activation="silu")
        return [out, *torch.autograd.grad(out, leaves, i.dout)]

    first = run()
    same = torch.ones((), dtype=torch.bool, device=gpu)
    for _ in range(10_000 // EVERY):
        for a, b in zip(first, run(), strict=True):
            same &= (a == b).all()
    assert same.item()
