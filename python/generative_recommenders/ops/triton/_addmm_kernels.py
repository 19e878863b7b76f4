"""The kernels of ``x + mat1 mat2``: a program for each tile, or a few that walk all tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._tile import dot


@triton.jit
def _addmm_fwd(
    X, W, Y, Z, M, N, K, stride_x, stride_w, stride_y, stride_z,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of Z; programs go down GROUP tiles before they go on to the right. ``stride_y`` is 0
    where Y is one row."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group = tl.program_id(0) // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    inside = tl.program_id(0) % (GROUP * tiles_n)
    m = (group * GROUP + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (inside // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x = X + m[:, None].to(tl.int64) * stride_x + k[None, :]
    w = W + k[:, None].to(tl.int64) * stride_w + n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        there = k + start < K
        a = tl.load(x, mask=(m < M)[:, None] & there[None, :], other=0.0)
        b = tl.load(w, mask=there[:, None] & (n < N)[None, :], other=0.0)
        acc += dot(a, b, UPCAST, PRECISION)
        x += BLOCK_K
        w += BLOCK_K * stride_w
    if stride_y == 0:
        acc += tl.load(Y + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    else:
        y = Y + m[:, None].to(tl.int64) * stride_y + n[None, :]
        acc += tl.load(y, mask=(m < M)[:, None] & (n < N)[None, :], other=0.0).to(tl.float32)
    z = Z + m[:, None].to(tl.int64) * stride_z + n[None, :]
    tl.store(z, acc.to(Z.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _addmm_walk(
    X, W, Y, Z, M, N, K, stride_x, stride_w, stride_y, stride_z,
    ROW: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The same by tensor descriptors: a program stores one tile while it loads for the next. ROW: Y
    is one; a tile of Y would take the shared memory that the other tiles need."""
    x = tl.make_tensor_descriptor(X, [M, K], [stride_x, 1], [BLOCK_M, BLOCK_K])
    w = tl.make_tensor_descriptor(W, [K, N], [stride_w, 1], [BLOCK_K, BLOCK_N])
    z = tl.make_tensor_descriptor(Z, [M, N], [stride_z, 1], [BLOCK_M, BLOCK_N])
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        group = tile // (GROUP * tiles_n)
        height = tl.minimum(tiles_m - group * GROUP, GROUP)
        inside = tile % (GROUP * tiles_n)
        first_m = (group * GROUP + inside % height) * BLOCK_M
        first_n = (inside // height) * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            acc += dot(x.load([first_m, k]), w.load([k, first_n]), UPCAST, PRECISION)
        m = first_m + tl.arange(0, BLOCK_M)
        n = first_n + tl.arange(0, BLOCK_N)
        if ROW:
            acc += tl.load(Y + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
        else:
            y = Y + m[:, None].to(tl.int64) * stride_y + n[None, :]
            acc += tl.load(y, mask=(m < M)[:, None] & (n < N)[None, :], other=0.0).to(tl.float32)
        z.store([first_m, first_n], acc.to(Z.dtype.element_ty))
