"""Kernels of what follows the projection of an HSTU layer: bias, SiLU, and u, v, q, k apart."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _biased(X, B, row, column, stride_x, inside, width):
    """x + b in the dtype of x, as a product with a bias gives it."""
    x = tl.load(X + row[:, None].to(tl.int64) * stride_x + column[None, :], mask=inside, other=0.0)
    b = tl.load(B + column, mask=column < width, other=0.0).to(tl.float32)
    return (x.to(tl.float32) + b[None, :]).to(x.dtype).to(tl.float32)


@triton.jit
def _bias_silu_fwd(
    X, B, Y, stride_x, stride_y, rows, columns, silu, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Grid (blocks of rows, blocks of columns): SiLU of the first ``silu`` columns of x + b."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    z = _biased(X, B, row, column, stride_x, inside, columns)
    y = tl.where((column < silu)[None, :], z * tl.sigmoid(z), z)
    at = row[:, None].to(tl.int64) * stride_y + column[None, :]
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def _bias_silu_bwd(
    DU, DV_, DQ, DK, X, B, DX, SUMS, stride_du, stride_dv, stride_dq, stride_dk, stride_x,
    stride_dx, rows, per_program, values, keys, silu, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (programs, blocks of u's columns, of v's, of q's, of k's): u and v have ``values``
    columns, q and k ``keys``. SUMS (programs, all columns) has the gradient of the bias."""
    value_blocks = tl.cdiv(values, BLOCK_D)
    key_blocks = tl.cdiv(keys, BLOCK_D)
    block = tl.program_id(1)
    grad = DU
    stride = stride_du
    first = 0
    width = values
    if block >= value_blocks:
        block -= value_blocks
        grad = DV_
        stride = stride_dv
        first = values
        if block >= value_blocks:
            block -= value_blocks
            grad = DQ
            stride = stride_dq
            first = 2 * values
            width = keys
            if block >= key_blocks:
                block -= key_blocks
                grad = DK
                stride = stride_dk
                first = 2 * values + keys
    column = block * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    begin = tl.program_id(0) * per_program
    for start in range(begin, tl.minimum(begin + per_program, rows), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        at = row[:, None].to(tl.int64) * stride + column[None, :]
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if first < silu:
            z = _biased(X + first, B + first, row, column, stride_x, inside, width)
            s = tl.sigmoid(z)
            slope = s + z * s * (1.0 - s)
            g = tl.where((first + column < silu)[None, :], g * slope, g)
        dx = g.to(DX.dtype.element_ty)
        at = row[:, None].to(tl.int64) * stride_dx + first + column[None, :]
        tl.store(DX + at, dx, mask=inside)
        total += dx.to(tl.float32)
    at = tl.program_id(0).to(tl.int64) * 2 * (values + keys) + first + column
    tl.store(SUMS + at, tl.sum(total, 0), mask=column < width)
