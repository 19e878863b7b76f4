"""Kernels of norms of rows: each program takes some whole rows.

``parts`` says what there is: a weight (1), a bias (2); and whether the mean is left out, as in RMS
norm (4). ``gate``: 0, or 1 for x sigmoid(y), or 2 for y sigmoid(y). They are arguments of one
kernel: memory is what these kernels wait for.
"""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._tile import load_rows, store_rows

UNSPECIALIZED = ("rows", "per_program", "heads", "programs", "parts", "gate", "flags", "act")


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    """FAST: as exact, by four instructions of NVIDIA's; else a dozen, for numbers that no float32
    of full precision has."""
    if FAST:
        e = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=r,r", [x * -1.4426950408889634], dtype=tl.float32,
            is_pure=True, pack=1,
        )  # fmt: skip
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=r,r", [1.0 + e], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.sigmoid(x)


@triton.jit
def within(values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """``values`` of rows, zeros behind their D columns."""
    if D == BLOCK_D:
        return values
    return tl.where((tl.arange(0, BLOCK_D) < D)[None, :], values, 0.0)


@triton.jit
def _affine(W, B, column, inside, parts):
    w = tl.load(W + column, mask=inside & ((parts & 1) != 0), other=1.0).to(tl.float32)
    b = tl.load(B + column, mask=inside & ((parts & 2) != 0), other=0.0).to(tl.float32)
    return w[None, :], b[None, :]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_fwd(
    X, W, B, Y, MEAN, RSTD, stride_x, stride_y, rows, eps, parts, gate,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, GIVEN: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """GIVEN: statistics are read, else they are written."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    x = load_rows(X, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
    is_rms = (parts & 4) != 0
    if GIVEN:
        mean = tl.load(MEAN + row, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)
    else:
        mean = tl.where(is_rms, 0.0, tl.sum(x, 1) / D)
        centred = within(x - mean[:, None], D, BLOCK_D)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        tl.store(MEAN + row, mean, mask=(row < rows) & (is_rms == 0))
        tl.store(RSTD + row, rstd, mask=row < rows)
    w, b = _affine(W, B, column, inside, parts)
    y = (x - mean[:, None]) * rstd[:, None] * w + b
    if gate != 0:
        y = tl.where(gate == 1, x, y) * sigmoid(y, FAST)
    store_rows(Y, row, stride_y, rows, y, D, BLOCK_D)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_bwd(
    DY, X, W, B, MEAN, RSTD, DX, SUMS, stride_dy, stride_x, stride_dx, rows, per_program, parts,
    gate, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, AHEAD: tl.constexpr,
    GATED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """dx, and in SUMS (2, programs, D) this program's gradients of weight and bias. AHEAD: turns of
    the loop that are under way at once, the last of them loading. GATED: whether ``gate`` is not 0;
    what it needs takes the registers that rows on their way have else."""
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    begin = tl.program_id(0) * per_program
    dw = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    db = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    w, b = _affine(W, B, column, inside, parts)
    is_rms = (parts & 4) != 0
    until = tl.minimum(begin + per_program, rows)
    for start in tl.range(begin, until, BLOCK_N, num_stages=AHEAD):
        row = start + tl.arange(0, BLOCK_N)
        x = load_rows(X, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
        dy = load_rows(DY, row, stride_dy, rows, D, BLOCK_D).to(tl.float32)
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)
        mean = tl.load(MEAN + row, mask=(row < rows) & (is_rms == 0), other=0.0)
        xhat = within((x - mean[:, None]) * rstd[:, None], D, BLOCK_D)
        direct = tl.zeros_like(x)
        if GATED:
            y = xhat * w + b
            s = sigmoid(y, FAST)
            slope = s - s * s
            if gate == 1:
                direct = dy * s
                dy *= x * slope
            else:
                dy *= s + y * slope
        db += dy
        dw += dy * xhat
        dy *= w
        along = tl.sum(dy * xhat, 1) / D
        across = tl.where(is_rms, 0.0, tl.sum(dy, 1) / D)
        dx = dy - xhat * along[:, None] - across[:, None]
        store_rows(DX, row, stride_dx, rows, dx * rstd[:, None] + direct, D, BLOCK_D)
    at = tl.program_id(0).to(tl.int64) * D + column
    tl.store(SUMS + at, tl.sum(dw, 0), mask=inside)
    tl.store(SUMS + tl.num_programs(0).to(tl.int64) * D + at, tl.sum(db, 0), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _add_up(
    SUMS, DW, DB, programs, columns, heads, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Grid (blocks of columns, 2): SUMS (2, programs, columns) over programs, in order; with
    ``heads`` each head's columns add up, too, and its blocks are of all of them."""
    kind = tl.program_id(1)
    column = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < columns
    if heads > 0:
        width = columns // heads
        inside = tl.arange(0, BLOCK_D) < width
        column = tl.program_id(0) * width + tl.arange(0, BLOCK_D)
    base = SUMS + kind.to(tl.int64) * programs * columns
    acc = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for first in range(0, programs, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        there = (part < programs)[:, None] & inside[None, :]
        acc += tl.load(base + part[:, None] * columns + column[None, :], mask=there, other=0.0)
    total = tl.sum(acc, 0)
    out = DW if kind == 0 else DB
    if heads > 0:
        tl.store(out + tl.program_id(0), tl.sum(total, 0).to(DW.dtype.element_ty))
    else:
        tl.store(out + column, total.to(DW.dtype.element_ty), mask=inside)
