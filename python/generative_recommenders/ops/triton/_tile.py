"""Tiles of a jagged tensor of rows, and SiLU, for kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(base, rows, stride, limit, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) from a pointer to row 0; zeros from row ``limit`` on and behind DIM."""
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None].to(tl.int64) * stride + columns[None, :]
    there = (rows < limit)[:, None]
    if DIM != BLOCK_D:
        there = there & (columns < DIM)[None, :]
    return tl.load(pointers, mask=there, other=0.0)


@triton.jit
def store_rows(base, rows, stride, limit, values, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None].to(tl.int64) * stride + columns[None, :]
    there = (rows < limit)[:, None]
    if DIM != BLOCK_D:
        there = there & (columns < DIM)[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=there)


@triton.jit
def zero_rows(base, low, high, stride, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    zeros = tl.zeros((16, BLOCK_D), tl.float32)
    for start in range(low, high, 16):
        store_rows(base, start + tl.arange(0, 16), stride, high, zeros, DIM, BLOCK_D)


@triton.jit
def dot(a, b, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """A product with float32 sums; UPCAST is for the interpreter, which knows no bfloat16."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def tanh(x, FAST: tl.constexpr):
    if FAST:
        return tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def silu_of_half(half, FAST: tl.constexpr):
    """SiLU of twice ``half``: x sigmoid(x) = h + h tanh(h), h = x / 2."""
    return half + half * tanh(half, FAST)


@triton.jit
def silu_and_slope(half, FAST: tl.constexpr):
    """SiLU of twice ``half`` and its derivative."""
    t = tanh(half, FAST)
    sigmoid = 0.5 + 0.5 * t
    return half + half * t, sigmoid * (1.0 + half - half * t)
