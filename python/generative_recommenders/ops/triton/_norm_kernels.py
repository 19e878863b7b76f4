"""Kernels of norms of rows: each program takes some whole rows."""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._tile import load_rows, store_rows


@triton.jit
def _statistics(x, there, D: tl.constexpr, IS_RMS: tl.constexpr, eps):
    """Mean and 1 / deviation of each row; the mean of RMS norm is 0."""
    mean = tl.zeros((x.shape[0],), tl.float32)
    if not IS_RMS:
        mean = tl.sum(x, 1) / D
    centred = tl.where(there, x - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)


@triton.jit
def _norm_fwd(
    X, W, B, Y, MEAN, RSTD, stride_x, stride_y, rows, eps,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, IS_RMS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, GATE: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """GATE: "none", "swish" (x sigmoid(y)), "silu" (y sigmoid(y)). GIVEN: statistics are read."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    x = load_rows(X, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
    if GIVEN:
        mean = tl.load(MEAN + row, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)
    else:
        mean, rstd = _statistics(x, inside[None, :], D, IS_RMS, eps)
        if not IS_RMS:
            tl.store(MEAN + row, mean, mask=row < rows)
        tl.store(RSTD + row, rstd, mask=row < rows)
    y = (x - mean[:, None]) * rstd[:, None]
    if HAS_WEIGHT:
        y *= tl.load(W + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        y += tl.load(B + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GATE == "swish":
        y = x * tl.sigmoid(y)
    elif GATE == "silu":
        y = y * tl.sigmoid(y)
    store_rows(Y, row, stride_y, rows, y, D, BLOCK_D)


@triton.jit
def _norm_bwd(
    DY, X, W, B, MEAN, RSTD, DX, DW, DB, stride_dy, stride_x, stride_dx, rows, per_program,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, IS_RMS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """dx, and this program's sums of the gradients of weight and bias."""
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    begin = tl.program_id(0) * per_program
    dw = tl.zeros((BLOCK_D,), tl.float32)
    db = tl.zeros((BLOCK_D,), tl.float32)
    if HAS_WEIGHT:
        w = tl.load(W + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        b = tl.load(B + column, mask=inside, other=0.0).to(tl.float32)
    for start in range(begin, tl.minimum(begin + per_program, rows), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = load_rows(X, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
        dy = load_rows(DY, row, stride_dy, rows, D, BLOCK_D).to(tl.float32)
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)
        xhat = x * rstd[:, None]
        if not IS_RMS:
            mean = tl.load(MEAN + row, mask=row < rows, other=0.0)
            xhat = (x - mean[:, None]) * rstd[:, None]
        direct = tl.zeros_like(x)
        if GATE != "none":
            y = xhat
            if HAS_WEIGHT:
                y = y * w[None, :]
            if HAS_BIAS:
                y = y + b[None, :]
            s = tl.sigmoid(y)
            if GATE == "swish":
                direct = dy * s
                dy = dy * x * s * (1.0 - s)
            else:
                dy = dy * s * (1.0 + y * (1.0 - s))
        dy = tl.where(inside[None, :], dy, 0.0)
        xhat = tl.where(inside[None, :], xhat, 0.0)
        if HAS_BIAS:
            db += tl.sum(dy, 0)
        if HAS_WEIGHT:
            dw += tl.sum(dy * xhat, 0)
            dy *= w[None, :]
        dx = dy - xhat * (tl.sum(dy * xhat, 1) / D)[:, None]
        if not IS_RMS:
            dx -= (tl.sum(dy, 1) / D)[:, None]
        store_rows(DX, row, stride_dx, rows, dx * rstd[:, None] + direct, D, BLOCK_D)
    at = tl.program_id(0).to(tl.int64) * D + column
    if HAS_WEIGHT:
        tl.store(DW + at, dw, mask=inside)
    if HAS_BIAS:
        tl.store(DB + at, db, mask=inside)
