"""A kernel of one line, for the numbers that Triton draws; Triton wants it in a file."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def numbers(SEED: tl.tensor, PLACE: tl.tensor, Out: tl.tensor, N: tl.constexpr) -> None:
    at = tl.arange(0, N)
    drawn = tl.randint(tl.load(SEED), tl.load(PLACE + at))
    tl.store(Out + at, drawn.to(tl.int64) & 0xFFFFFFFF)
