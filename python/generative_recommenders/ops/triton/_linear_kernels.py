"""Kernels of what follows attention in an HSTU layer: norm, product with u, dropout.

``flags``: SiLU of u first (1), u before the product (2), x before it (4), one weight and bias for
the columns of a head (8). ``act``: 0, or 1 for silu(u), or 2 for sigmoid(u) as the factor. They are
arguments of one kernel: memory is what these kernels wait for.

A tile is (rows, eighths of BLOCK_D, 8): the eight columns are those that a thread loads at once,
which dropout draws for by two calls of Philox.
"""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._norm_kernels import UNSPECIALIZED, sigmoid


@triton.jit
def _columns(BLOCK_D: tl.constexpr):
    return 8 * tl.arange(0, BLOCK_D // 8)[:, None] + tl.arange(0, 8)[None, :]


@triton.jit
def _there(rows, limit, D: tl.constexpr, BLOCK_D: tl.constexpr):
    there = (rows < limit)[:, None, None]
    if D != BLOCK_D:
        there = there & (_columns(BLOCK_D) < D)[None, :, :]
    return there


@triton.jit
def _load(base, rows, stride, limit, D: tl.constexpr, BLOCK_D: tl.constexpr):
    at = rows.to(tl.int64)[:, None, None] * stride + _columns(BLOCK_D)[None, :, :]
    return tl.load(base + at, mask=_there(rows, limit, D, BLOCK_D), other=0.0).to(tl.float32)


@triton.jit
def _store(base, rows, stride, limit, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    at = rows.to(tl.int64)[:, None, None] * stride + _columns(BLOCK_D)[None, :, :]
    there = _there(rows, limit, D, BLOCK_D)
    tl.store(base + at, values.to(base.dtype.element_ty), mask=there)


@triton.jit
def _sum(values):
    """Of each row."""
    return tl.sum(tl.sum(values, 2), 1)


@triton.jit
def _normed(x, mean, rstd, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(x - mean) rstd, zeros behind D columns."""
    values = (x - mean[:, None, None]) * rstd[:, None, None]
    if D == BLOCK_D:
        return values
    return tl.where((_columns(BLOCK_D) < D)[None, :, :], values, 0.0)


@triton.jit
def _act(u, kind, FAST: tl.constexpr):
    factor = u
    if kind != 0:
        s = sigmoid(u, FAST)
        factor = tl.where(kind == 1, u * s, s)
    return factor


@triton.jit
def _act_slope(u, kind, FAST: tl.constexpr):
    """The derivative of ``_act`` for kinds 1 and 2."""
    s = sigmoid(u, FAST)
    slope = s - s * s
    return tl.where(kind == 1, s + u * slope, slope)


@triton.jit
def _philox(key, place):
    """Four uint32 numbers for each int64 place: Philox 4x32-10, as ``tl.randint4x``, which takes
    two products for the halves of one."""
    k0, k1 = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    c0, c1 = place.to(tl.uint32), (place >> 32).to(tl.uint32)
    c2 = c0 * 0
    c3 = c2
    for _ in tl.static_range(10):
        a = c0.to(tl.uint64) * 0xD2511F53
        b = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (b >> 32).to(tl.uint32) ^ c1 ^ k0, (a >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = b.to(tl.uint32), a.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _four(key, place, SIZE: tl.constexpr):
    """(..., SIZE): the four numbers of a place (..., 1), over and over."""
    a, b, c, d = _philox(key, place)
    which = tl.arange(0, SIZE)[None, None, :] & 3
    return tl.where(which < 2, tl.where(which == 0, a, b), tl.where(which == 2, c, d))


@triton.jit
def _dropped(values, SEED, rows, first, width, ratio, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """``values`` with 0 at the places that are dropped, the others divided by 1 - ratio. Places
    count on in each row of ``width``, from ``first``, and four of them share a draw; SEED holds a
    seed and what is added to places. ``ops.pytorch.pt_dropout`` draws the same."""
    key = tl.load(SEED)
    begin = (rows.to(tl.int64) * width + (first + tl.load(SEED + 1)))[:, None, None]
    if D % 8 == 0:
        place = begin + 8 * tl.arange(0, BLOCK_D // 8)[None, :, None]
        half = tl.arange(0, 8)[None, None, :] < 4
        drawn = tl.where(half, _four(key, place, 8), _four(key, place + 4, 8))
    else:  # a thread loads one number at once
        place = begin + 4 * tl.arange(0, BLOCK_D // 4)[None, :, None]
        drawn = _four(key, place, 4).reshape(values.shape)
    least = tl.minimum(ratio * 4294967296.0, 4294967040.0).to(tl.uint32)
    return tl.where(drawn >= least, values * (1.0 / (1.0 - ratio)), 0.0)


@triton.jit
def rand3x(seed, offsets, n_rounds: tl.constexpr = 10):
    """Three blocks of float32 numbers in [0, 1) for one draw of Philox."""
    a, b, c, _ = tl.rand4x(seed, offsets, n_rounds)
    return a, b, c


@triton.jit
def _parameter(P, head, flags, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """A weight for each column, or one for all columns of a head."""
    column = _columns(BLOCK_D)
    by_head = (flags & 8) != 0
    of_head = tl.load(P + head, mask=by_head, other=0.0).to(tl.float32)
    of_column = tl.load(P + column, mask=(column < D) & (by_head == 0), other=0.0)
    return tl.where(by_head, of_head, of_column.to(tl.float32))[None, :, :]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_mul_dropout_fwd(
    X, U, W, B, Y, MEAN, RSTD, SEED, stride_x, stride_u, stride_y, rows, heads, eps, ratio,
    flags, act, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows, heads): the columns of one head, D of them."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.program_id(1)
    x = _load(X + head * D, row, stride_x, rows, D, BLOCK_D)
    u = _load(U + head * D, row, stride_u, rows, D, BLOCK_D)
    mean = _sum(x) / D
    centred = _normed(x, mean, tl.full(mean.shape, 1.0, tl.float32), D, BLOCK_D)
    rstd = 1.0 / tl.sqrt(_sum(centred * centred) / D + eps)
    tl.store(MEAN + row * heads + head, mean, mask=row < rows)
    tl.store(RSTD + row * heads + head, rstd, mask=row < rows)
    u = _act(u, flags & 1, FAST)
    width = heads * D * (1 + ((flags >> 1) & 1) + ((flags >> 2) & 1))
    part = 0
    for kind in tl.static_range(3):
        if kind == 2 or (flags & (2 << kind)) != 0:
            value = u if kind == 0 else x
            if kind == 2:  # last, as it takes registers
                w = _parameter(W, head, flags, D, BLOCK_D)
                b = _parameter(B, head, flags, D, BLOCK_D)
                value = _act(u, act, FAST) * (centred * rstd[:, None, None] * w + b)
            first = (part * heads + head) * D
            if ratio > 0.0:
                value = _dropped(value, SEED, row, first, width, ratio, D, BLOCK_D)
            _store(Y + first, row, stride_y, rows, value, D, BLOCK_D)
            part += 1


@triton.jit
def _part_gradient(
    DY, row, part, heads, head, stride_dy, rows, SEED, width, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of one part, after dropout."""
    first = (part * heads + head) * D
    g = _load(DY + first, row, stride_dy, rows, D, BLOCK_D)
    if ratio > 0.0:
        g = _dropped(g, SEED, row, first, width, ratio, D, BLOCK_D)
    return g


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _norm_mul_dropout_bwd(
    DY, X, U, W, B, MEAN, RSTD, SEED, DX, DU, SUMS,
    stride_dy, stride_x, stride_u, stride_dx, stride_du, rows, heads, per_program, ratio,
    flags, act, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Grid (programs, heads); SUMS (2, programs, heads, D) has the gradients of weight and bias by
    program and column."""
    head = tl.program_id(1)
    w = _parameter(W, head, flags, D, BLOCK_D)
    b = _parameter(B, head, flags, D, BLOCK_D)
    dw = tl.zeros((BLOCK_N, BLOCK_D // 8, 8), tl.float32)
    db = tl.zeros((BLOCK_N, BLOCK_D // 8, 8), tl.float32)
    width = heads * D * (1 + ((flags >> 1) & 1) + ((flags >> 2) & 1))
    has_u = (flags & 2) != 0
    has_x = (flags & 4) != 0
    u_parts = has_u.to(tl.int32)
    y_part = u_parts + has_x.to(tl.int32)
    begin = tl.program_id(0) * per_program
    until = tl.minimum(begin + per_program, rows)
    for start in range(begin, until, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = _load(X + head * D, row, stride_x, rows, D, BLOCK_D)
        raw = _load(U + head * D, row, stride_u, rows, D, BLOCK_D)
        mean = tl.load(MEAN + row * heads + head, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row * heads + head, mask=row < rows, other=0.0)
        xhat = _normed(x, mean, rstd, D, BLOCK_D)
        u = _act(raw, flags & 1, FAST)
        dy = _part_gradient(
            DY, row, y_part, heads, head, stride_dy, rows, SEED, width, ratio, D, BLOCK_D
        )
        du = dy * (xhat * w + b)
        if act != 0:
            du *= _act_slope(u, act, FAST)
        if has_u:
            du += _part_gradient(
                DY, row, 0, heads, head, stride_dy, rows, SEED, width, ratio, D, BLOCK_D
            )
        if (flags & 1) != 0:
            du *= _act_slope(raw, 1, FAST)
        _store(DU + head * D, row, stride_du, rows, du, D, BLOCK_D)
        dy *= _act(u, act, FAST)
        dw += dy * xhat
        db += dy
        dy *= w
        along = _sum(dy * xhat) / D
        across = _sum(dy) / D
        dx = rstd[:, None, None] * (dy - across[:, None, None] - xhat * along[:, None, None])
        if has_x:
            dx += _part_gradient(
                DY, row, u_parts, heads, head, stride_dy, rows, SEED, width, ratio, D,
                BLOCK_D,
            )  # fmt: skip
        _store(DX + head * D, row, stride_dx, rows, dx, D, BLOCK_D)
    column = _columns(BLOCK_D)
    at = SUMS + (tl.program_id(0).to(tl.int64) * heads + head) * D + column
    tl.store(at, tl.sum(dw, 0), mask=column < D)
    at += tl.num_programs(0).to(tl.int64) * heads * D
    tl.store(at, tl.sum(db, 0), mask=column < D)
