"""Kernels of what follows attention in an HSTU layer: norm, product with u, dropout.

``flags``: SiLU of u first (1), u before the product (2), x before it (4), one weight and bias for
the columns of a head (8). ``act``: 0, or 1 for silu(u), or 2 for sigmoid(u) as the factor. They are
arguments of one kernel: memory is what these kernels wait for.
"""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._norm_kernels import UNSPECIALIZED
from generative_recommenders.ops.triton._tile import load_rows, store_rows


@triton.jit
def _act(u, kind):
    factor = u
    if kind != 0:
        s = tl.sigmoid(u)
        factor = tl.where(kind == 1, u * s, s)
    return factor


@triton.jit
def _act_slope(u, kind):
    """The derivative of ``_act`` for kinds 1 and 2."""
    s = tl.sigmoid(u)
    return tl.where(kind == 1, s + u * s * (1.0 - s), s * (1.0 - s))


@triton.jit
def _keep(SEED, rows, first, width, ratio, BLOCK_D: tl.constexpr):
    """0 or 1 / (1 - ratio) for ``BLOCK_D`` places of each row of ``width``, from ``first`` on, by
    one draw for four of them. SEED holds a seed and what is added to places;
    ``ops.pytorch.pt_dropout`` draws the same."""
    at = rows[:, None].to(tl.int64) * width + first + 4 * tl.arange(0, BLOCK_D // 4)[None, :]
    a, b, c, d = tl.rand4x(tl.load(SEED), at + tl.load(SEED + 1))
    number = tl.join(tl.join(a, c), tl.join(b, d)).reshape(rows.shape[0], BLOCK_D)
    return tl.where(number > ratio, 1.0 / (1.0 - ratio), 0.0)


@triton.jit
def rand3x(seed, offsets, n_rounds: tl.constexpr = 10):
    """Three blocks of float32 numbers in [0, 1) for one draw of Philox."""
    a, b, c, _ = tl.rand4x(seed, offsets, n_rounds)
    return a, b, c


@triton.jit
def _parameter(P, head, column, flags, D: tl.constexpr):
    """A weight for each column, or one for all columns of a head."""
    by_head = (flags & 8) != 0
    of_head = tl.load(P + head, mask=by_head, other=0.0).to(tl.float32)
    of_column = tl.load(P + column, mask=(column < D) & (by_head == 0), other=0.0)
    return tl.where(by_head, of_head, of_column.to(tl.float32))


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_mul_dropout_fwd(
    X, U, W, B, Y, MEAN, RSTD, SEED, stride_x, stride_u, stride_y, rows, heads, eps, ratio,
    flags, act, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
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
    w = _parameter(W, head, column, flags, D)
    b = _parameter(B, head, column, flags, D)
    u = _act(u, flags & 1)
    y = _act(u, act) * (centred * rstd[:, None] * w[None, :] + b[None, :])
    width = heads * D * (1 + ((flags >> 1) & 1) + ((flags >> 2) & 1))
    part = 0
    for kind in tl.static_range(3):
        if kind == 2 or (flags & (2 << kind)) != 0:
            value = u if kind == 0 else (x if kind == 1 else y)
            first = (part * heads + head) * D
            if ratio > 0.0:
                value = value * _keep(SEED, row, first, width, ratio, BLOCK_D)
            store_rows(Y + first, row, stride_y, rows, value, D, BLOCK_D)
            part += 1


@triton.jit
def _part_gradient(
    DY, row, part, heads, head, stride_dy, rows, SEED, width, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of one part, after dropout."""
    first = (part * heads + head) * D
    g = load_rows(DY + first, row, stride_dy, rows, D, BLOCK_D).to(tl.float32)
    if ratio > 0.0:
        g = g * _keep(SEED, row, first, width, ratio, BLOCK_D)
    return g


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_mul_dropout_bwd(
    DY, X, U, W, B, MEAN, RSTD, SEED, DX, DU, SUMS,
    stride_dy, stride_x, stride_u, stride_dx, stride_du, rows, heads, per_program, ratio,
    flags, act, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (programs, heads); SUMS (2, programs, heads, D) has the gradients of weight and bias by
    program and column."""
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    w = _parameter(W, head, column, flags, D)
    b = _parameter(B, head, column, flags, D)
    dw = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    db = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    width = heads * D * (1 + ((flags >> 1) & 1) + ((flags >> 2) & 1))
    has_u = (flags & 2) != 0
    has_x = (flags & 4) != 0
    u_parts = has_u.to(tl.int32)
    y_part = u_parts + has_x.to(tl.int32)
    begin = tl.program_id(0) * per_program
    for start in range(begin, tl.minimum(begin + per_program, rows), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = load_rows(X + head * D, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
        raw = load_rows(U + head * D, row, stride_u, rows, D, BLOCK_D).to(tl.float32)
        mean = tl.load(MEAN + row * heads + head, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row * heads + head, mask=row < rows, other=0.0)
        xhat = tl.where(inside[None, :], (x - mean[:, None]) * rstd[:, None], 0.0)
        u = _act(raw, flags & 1)
        dy = _part_gradient(
            DY, row, y_part, heads, head, stride_dy, rows, SEED, width, ratio, D, BLOCK_D
        )
        du = dy * (xhat * w[None, :] + b[None, :])
        if act != 0:
            du *= _act_slope(u, act)
        if has_u:
            du += _part_gradient(
                DY, row, 0, heads, head, stride_dy, rows, SEED, width, ratio, D, BLOCK_D
            )
        if (flags & 1) != 0:
            du *= _act_slope(raw, 1)
        store_rows(DU + head * D, row, stride_du, rows, du, D, BLOCK_D)
        dy *= _act(u, act)
        dw += dy * xhat
        db += dy
        dy *= w[None, :]
        along = tl.sum(dy * xhat, 1) / D
        across = tl.sum(dy, 1) / D
        dx = rstd[:, None] * (dy - across[:, None] - xhat * along[:, None])
        if has_x:
            dx += _part_gradient(
                DY, row, u_parts, heads, head, stride_dy, rows, SEED, width, ratio, D,
                BLOCK_D,
            )  # fmt: skip
        store_rows(DX + head * D, row, stride_dx, rows, dx, D, BLOCK_D)
    at = (tl.program_id(0).to(tl.int64) * heads + head) * D + column
    tl.store(SUMS + at, tl.sum(dw, 0), mask=inside)
    tl.store(SUMS + tl.num_programs(0).to(tl.int64) * heads * D + at, tl.sum(db, 0), mask=inside)
