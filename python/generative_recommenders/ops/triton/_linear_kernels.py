"""Kernels of what follows attention in an HSTU layer: norm, product with u, dropout."""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._tile import load_rows, store_rows


@triton.jit
def _act(u, KIND: tl.constexpr):
    if KIND == "silu":
        return u * tl.sigmoid(u)
    if KIND == "sigmoid":
        return tl.sigmoid(u)
    return u


@triton.jit
def _act_slope(u, KIND: tl.constexpr):
    s = tl.sigmoid(u)
    if KIND == "silu":
        return s * (1.0 + u * (1.0 - s))
    if KIND == "sigmoid":
        return s * (1.0 - s)
    return tl.zeros_like(u) + 1.0


@triton.jit
def _keep(SEED, rows, first, width, ratio, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """0 or 1 / (1 - ratio) for ``BLOCK_D`` places of each row of ``width``, from ``first`` on. SEED
    holds a seed and what is added to places; ``ops.pytorch.pt_dropout`` draws the same."""
    at = rows[:, None].to(tl.int64) * width + first + tl.arange(0, BLOCK_D)[None, :]
    at += tl.load(SEED + 1)
    return tl.where(tl.rand(tl.load(SEED), at) > ratio, 1.0 / (1.0 - ratio), 0.0)


@triton.jit
def rand3x(seed, offsets, n_rounds: tl.constexpr = 10):
    """Three blocks of float32 numbers in [0, 1) for one draw of Philox."""
    a, b, c, _ = tl.rand4x(seed, offsets, n_rounds)
    return a, b, c


@triton.jit
def _parameter(P, head, column, D: tl.constexpr, GROUP: tl.constexpr):
    """A weight for each column, or one for all columns of a head."""
    if GROUP:
        return tl.zeros(column.shape, tl.float32) + tl.load(P + head).to(tl.float32)
    return tl.load(P + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def _norm_mul_dropout_fwd(
    X, U, W, B, Y, MEAN, RSTD, SEED, stride_x, stride_u, stride_y, rows, heads, eps, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
    ACT: tl.constexpr, SILU_U: tl.constexpr, CONCAT_U: tl.constexpr, CONCAT_X: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows, heads): the columns of one head, D of them."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    x = load_rows(X + head * D, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
    u = load_rows(U + head * D, row, stride_u, rows, D, BLOCK_D).to(tl.float32)
    mean = tl.sum(x, 1) / D
    centred = tl.where((column < D)[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    tl.store(MEAN + row * heads + head, mean, mask=row < rows)
    tl.store(RSTD + row * heads + head, rstd, mask=row < rows)
    w = _parameter(W, head, column, D, GROUP)
    b = _parameter(B, head, column, D, GROUP)
    if SILU_U:
        u = u * tl.sigmoid(u)
    y = _act(u, ACT) * (centred * rstd[:, None] * w[None, :] + b[None, :])
    width = heads * D * (1 + CONCAT_U + CONCAT_X)
    part = 0
    for kind in tl.static_range(3):
        if (kind == 0 and CONCAT_U) or (kind == 1 and CONCAT_X) or kind == 2:
            value = u if kind == 0 else (x if kind == 1 else y)
            first = part * heads * D + head * D
            if DROPOUT:
                value = value * _keep(SEED, row, first, width, ratio, D, BLOCK_D)
            store_rows(Y + first, row, stride_y, rows, value, D, BLOCK_D)
            part += 1


@triton.jit
def _norm_mul_dropout_bwd(
    DY, X, U, W, B, MEAN, RSTD, SEED, DX, DU, DW, DB,
    stride_dy, stride_x, stride_u, stride_dx, stride_du, rows, heads, per_program, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
    ACT: tl.constexpr, SILU_U: tl.constexpr, CONCAT_U: tl.constexpr, CONCAT_X: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid (programs, heads); DW and DB are (programs, heads, D) sums of columns."""
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    w = _parameter(W, head, column, D, GROUP)
    b = _parameter(B, head, column, D, GROUP)
    dw = tl.zeros((BLOCK_D,), tl.float32)
    db = tl.zeros((BLOCK_D,), tl.float32)
    width = heads * D * (1 + CONCAT_U + CONCAT_X)
    begin = tl.program_id(0) * per_program
    for start in range(begin, tl.minimum(begin + per_program, rows), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = load_rows(X + head * D, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
        raw = load_rows(U + head * D, row, stride_u, rows, D, BLOCK_D).to(tl.float32)
        mean = tl.load(MEAN + row * heads + head, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row * heads + head, mask=row < rows, other=0.0)
        xhat = tl.where(inside[None, :], (x - mean[:, None]) * rstd[:, None], 0.0)
        u = raw
        if SILU_U:
            u = raw * tl.sigmoid(raw)
        du = tl.zeros_like(x)
        dx = tl.zeros_like(x)
        dy = tl.zeros_like(x)
        part = 0
        for kind in tl.static_range(3):
            if (kind == 0 and CONCAT_U) or (kind == 1 and CONCAT_X) or kind == 2:
                first = part * heads * D + head * D
                g = load_rows(DY + first, row, stride_dy, rows, D, BLOCK_D).to(tl.float32)
                if DROPOUT:
                    g = g * _keep(SEED, row, first, width, ratio, D, BLOCK_D)
                if kind == 0:
                    du = g
                elif kind == 1:
                    dx = g
                else:
                    dy = g
                part += 1
        norm = xhat * w[None, :] + b[None, :]
        du += dy * norm * _act_slope(u, ACT)
        if SILU_U:
            du *= _act_slope(raw, "silu")
        dy = tl.where(inside[None, :], dy * _act(u, ACT), 0.0)
        dw += tl.sum(dy * xhat, 0)
        db += tl.sum(dy, 0)
        dy *= w[None, :]
        dy = tl.where(inside[None, :], dy, 0.0)
        mean_dy = tl.sum(dy, 1) / D
        dx += rstd[:, None] * (dy - mean_dy[:, None] - xhat * (tl.sum(dy * xhat, 1) / D)[:, None])
        store_rows(DX + head * D, row, stride_dx, rows, dx, D, BLOCK_D)
        store_rows(DU + head * D, row, stride_du, rows, du, D, BLOCK_D)
    at = (tl.program_id(0).to(tl.int64) * heads + head) * D + column
    tl.store(DW + at, dw, mask=inside)
    tl.store(DB + at, db, mask=inside)
