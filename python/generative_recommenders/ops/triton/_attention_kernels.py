"""Kernels of HSTU attention: a block of rows forward and its gradient of q, a block of columns and
its gradients of k and v. ``_mask`` says what is visible and where it lies."""

from __future__ import annotations

import triton
import triton.language as tl

from generative_recommenders.ops.triton._mask import (
    column_range,
    ids,
    row_range,
    sequence_ends,
    visible,
)
from generative_recommenders.ops.triton._tile import (
    dot,
    load_rows,
    silu,
    silu_and_slope,
    store_rows,
    zero_rows,
)


@triton.jit
def _hstu_attn_fwd_one_block(
    acc,
    q,
    k,
    v,
    rows,
    row_ids,
    columns,
    high,
    end,
    window,
    full,
    contextual,
    alpha,
    MASKED: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr,
    FAST: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``acc`` plus what one block of keys adds; the scale of scores is applied at the end."""
    p = silu(dot(q, tl.trans(k), UPCAST, PRECISION) * alpha, FAST)
    if MASKED:
        seen = visible(
            rows, row_ids, columns, end, window, full, contextual,
            HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
        )  # fmt: skip
        p = tl.where(seen & (columns < high)[None, :], p, 0.0)
    return acc + dot(p.to(v.dtype), v, UPCAST, PRECISION)


@triton.jit
def _hstu_attn_fwd_compute(
    Q, K, V, SCALE, Out,
    start, length, targets, head, first,
    stride_q, stride_k, stride_v, stride_o, stride_qh, stride_kh, stride_vh, stride_oh,
    alpha, scale, N, limit, shift, window, full, contextual,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr, HAS_SCALE: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr, USE_TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One block of rows of one head. ``limit``: the sequence's rows within N; ``shift``: by how
    much a row of q lies before its row of k, where q has the last rows alone."""
    history, end = sequence_ends(length, targets, contextual, HAS_CONTEXT)
    rows = first + tl.arange(0, BLOCK_M)
    row_ids = ids(rows, end, contextual, HAS_CONTEXT, HAS_TARGETS)
    last = tl.minimum(first + BLOCK_M, limit) - 1
    low, whole_low, whole_high, high = column_range(
        first, last, history, end, window, full, contextual,
        BLOCK_N, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
    )  # fmt: skip
    high = tl.minimum(high, limit)
    k_base = K + start.to(tl.int64) * stride_k + head * stride_kh
    v_base = V + start.to(tl.int64) * stride_v + head * stride_vh
    q = load_rows(Q + head * stride_qh, rows - shift, stride_q, limit - shift, D, BLOCK_D)
    if USE_TMA:
        k_rows = tl.make_tensor_descriptor(k_base, [limit, D], [stride_k, 1], [BLOCK_N, BLOCK_D])
        v_rows = tl.make_tensor_descriptor(v_base, [limit, DV], [stride_v, 1], [BLOCK_N, BLOCK_DV])
    acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    for phase in tl.static_range(3):
        begin = low if phase == 0 else (whole_low if phase == 1 else whole_high)
        until = whole_low if phase == 0 else (whole_high if phase == 1 else high)
        until = tl.minimum(until, high)
        for column in range(begin, until, BLOCK_N):
            columns = column + tl.arange(0, BLOCK_N)
            if USE_TMA:
                k = k_rows.load([column, 0])
                v = v_rows.load([column, 0])
            else:
                k = load_rows(k_base, columns, stride_k, limit, D, BLOCK_D)
                v = load_rows(v_base, columns, stride_v, limit, DV, BLOCK_DV)
            acc = _hstu_attn_fwd_one_block(
                acc, q, k, v, rows, row_ids, columns, high, end, window, full, contextual, alpha,
                phase != 1, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL, FAST, UPCAST, PRECISION,
            )  # fmt: skip
    if HAS_TARGETS:
        if first >= history:  # targets also see themselves
            k = load_rows(k_base, rows, stride_k, limit, D, BLOCK_D)
            v = load_rows(v_base, rows, stride_v, limit, DV, BLOCK_DV)
            s = silu(tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * alpha, FAST)
            acc += s.to(v.dtype).to(tl.float32)[:, None] * v.to(tl.float32)
    if HAS_SCALE:
        acc *= tl.load(SCALE + start + rows, mask=rows < limit, other=0.0)[:, None]
    else:
        acc *= scale
    store_rows(Out + head * stride_oh, rows - shift, stride_o, limit - shift, acc, DV, BLOCK_DV)


@triton.jit
def _hstu_attn_fwd(
    Q, K, V, OFFSETS, TARGETS, ORDER, SCALE, Out,
    stride_q, stride_k, stride_v, stride_o, stride_qh, stride_kh, stride_vh, stride_oh,
    alpha, scale, H, batch, total, N, delta, window, full, contextual,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_ORDER: tl.constexpr,
    IS_DELTA: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    USE_TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, blocks of rows); the last rows, which have most to do, come first."""
    z = tl.program_id(0) // H
    head = (tl.program_id(0) % H).to(tl.int64)
    if HAS_ORDER:
        z = tl.load(ORDER + z).to(tl.int32)
    start = tl.load(OFFSETS + z).to(tl.int32)
    length = tl.load(OFFSETS + z + 1).to(tl.int32) - start
    targets = 0
    if HAS_TARGETS:
        targets = tl.load(TARGETS + z).to(tl.int32)
    limit = tl.minimum(length, N)
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    first = block * BLOCK_M
    if IS_DELTA:  # q and the output have the last rows alone
        shift = length - delta
        first += shift
        q_start = (z * delta).to(tl.int64)
        if block == 0:
            base = Out + q_start * stride_o + head * stride_oh
            zero_rows(base, tl.maximum(limit - shift, 0), delta, stride_o, DV, BLOCK_DV)
            zero_rows(base, 0, tl.minimum(-shift, delta), stride_o, DV, BLOCK_DV)
        if first + BLOCK_M <= 0:
            return
    else:
        shift = 0
        q_start = start.to(tl.int64)
        if block == 0:
            base = Out + q_start * stride_o + head * stride_oh
            zero_rows(base, limit, length, stride_o, DV, BLOCK_DV)
            if z == batch - 1:
                rest = Out + head * stride_oh
                zero_rows(rest, start + length, total, stride_o, DV, BLOCK_DV)
    if first < limit:
        _hstu_attn_fwd_compute(
            Q + q_start * stride_q, K, V, SCALE, Out + q_start * stride_o,
            start, length, targets, head, first,
            stride_q, stride_k, stride_v, stride_o, stride_qh, stride_kh, stride_vh, stride_oh,
            alpha, scale, N, limit, shift, window, full, contextual,
            D, DV, BLOCK_D, BLOCK_DV, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL, HAS_SCALE,
            FAST, UPCAST, PRECISION, USE_TMA, BLOCK_M, BLOCK_N,
        )  # fmt: skip


@triton.jit
def _hstu_attn_bwd_one_block(
    q, k, v, do, seen, alpha, scale, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P and dS of (rows, columns), both with the scale of scores."""
    p, slope = silu_and_slope(dot(q, tl.trans(k), UPCAST, PRECISION) * alpha, FAST)
    dp = dot(do, tl.trans(v), UPCAST, PRECISION)
    p = tl.where(seen, p * scale, 0.0)
    ds = tl.where(seen, dp * slope * (scale * alpha), 0.0)
    return p.to(q.dtype), ds.to(q.dtype)


@triton.jit
def _hstu_attn_bwd_one_self(q, k, v, do, alpha, scale, FAST: tl.constexpr):
    """P and dS of each row with itself."""
    s = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * alpha
    p, slope = silu_and_slope(s, FAST)
    dp = tl.sum(do.to(tl.float32) * v.to(tl.float32), 1)
    p = (p * scale).to(q.dtype).to(tl.float32)
    return p, (dp * slope * (scale * alpha)).to(q.dtype).to(tl.float32)


@triton.jit
def _row_scale(SCALE, scale, start, rows, limit, HAS_SCALE: tl.constexpr):
    if HAS_SCALE:
        return tl.load(SCALE + start + rows, mask=rows < limit, other=0.0)
    return tl.zeros_like(rows).to(tl.float32) + scale


@triton.jit
def _hstu_attn_bwd_one_col_block(
    Q, K, V, SCALE, DO, DK, DV_,
    start, length, targets, head, first,
    stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv,
    stride_qh, stride_kh, stride_vh, stride_doh, stride_dkh, stride_dvh,
    alpha, scale, limit, window, full, contextual,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr, HAS_SCALE: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of columns of one head."""
    history, end = sequence_ends(length, targets, contextual, HAS_CONTEXT)
    at = start.to(tl.int64)
    q_base = Q + at * stride_q + head * stride_qh
    do_base = DO + at * stride_do + head * stride_doh
    columns = first + tl.arange(0, BLOCK_N)
    last = tl.minimum(first + BLOCK_N, limit) - 1
    k = load_rows(K + at * stride_k + head * stride_kh, columns, stride_k, limit, D, BLOCK_D)
    v = load_rows(V + at * stride_v + head * stride_vh, columns, stride_v, limit, DV, BLOCK_DV)
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_DV), tl.float32)
    early, low, high, late = row_range(
        first, last, limit, history, end, window, full, contextual,
        BLOCK_M, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
    )  # fmt: skip
    if HAS_TARGETS:
        if first >= history:  # targets are seen by themselves alone
            early, high, late = 0, low, limit
            q = load_rows(q_base, columns, stride_q, limit, D, BLOCK_D)
            do = load_rows(do_base, columns, stride_do, limit, DV, BLOCK_DV)
            scales = _row_scale(SCALE, scale, start, columns, limit, HAS_SCALE)
            p, ds = _hstu_attn_bwd_one_self(q, k, v, do, alpha, scales, FAST)
            dv += p[:, None] * do.to(tl.float32)
            dk += ds[:, None] * q.to(tl.float32)
    for phase in tl.static_range(3):
        begin = 0 if phase == 0 else (low if phase == 1 else late)
        until = early if phase == 0 else (high if phase == 1 else limit)
        for row in range(begin, until, BLOCK_M):
            rows = row + tl.arange(0, BLOCK_M)
            q = load_rows(q_base, rows, stride_q, until, D, BLOCK_D)
            do = load_rows(do_base, rows, stride_do, until, DV, BLOCK_DV)
            seen = visible(
                rows, ids(rows, end, contextual, HAS_CONTEXT, HAS_TARGETS), columns, end, window,
                full, contextual, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
            )  # fmt: skip
            scales = _row_scale(SCALE, scale, start, rows, limit, HAS_SCALE)
            p, ds = _hstu_attn_bwd_one_block(
                q, k, v, do, seen & (rows < until)[:, None], alpha, scales[:, None],
                FAST, UPCAST, PRECISION,
            )  # fmt: skip
            dv += dot(tl.trans(p), do, UPCAST, PRECISION)
            dk += dot(tl.trans(ds), q, UPCAST, PRECISION)
    store_rows(DK + at * stride_dk + head * stride_dkh, columns, stride_dk, limit, dk, D, BLOCK_D)
    store_rows(
        DV_ + at * stride_dv + head * stride_dvh, columns, stride_dv, limit, dv, DV, BLOCK_DV
    )


@triton.jit
def _hstu_attn_bwd_one_row_block(
    Q, K, V, SCALE, DO, DQ,
    start, length, targets, head, first,
    stride_q, stride_k, stride_v, stride_do, stride_dq,
    stride_qh, stride_kh, stride_vh, stride_doh, stride_dqh,
    alpha, scale, limit, window, full, contextual,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr, HAS_SCALE: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq of one block of rows of one head."""
    history, end = sequence_ends(length, targets, contextual, HAS_CONTEXT)
    at = start.to(tl.int64)
    k_base = K + at * stride_k + head * stride_kh
    v_base = V + at * stride_v + head * stride_vh
    rows = first + tl.arange(0, BLOCK_M)
    row_ids = ids(rows, end, contextual, HAS_CONTEXT, HAS_TARGETS)
    last = tl.minimum(first + BLOCK_M, limit) - 1
    q = load_rows(Q + at * stride_q + head * stride_qh, rows, stride_q, limit, D, BLOCK_D)
    do = load_rows(DO + at * stride_do + head * stride_doh, rows, stride_do, limit, DV, BLOCK_DV)
    scales = _row_scale(SCALE, scale, start, rows, limit, HAS_SCALE)
    low, whole_low, whole_high, high = column_range(
        first, last, history, end, window, full, contextual,
        BLOCK_N, HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
    )  # fmt: skip
    high = tl.minimum(high, limit)
    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for column in range(low, high, BLOCK_N):
        columns = column + tl.arange(0, BLOCK_N)
        k = load_rows(k_base, columns, stride_k, high, D, BLOCK_D)
        v = load_rows(v_base, columns, stride_v, high, DV, BLOCK_DV)
        seen = visible(
            rows, row_ids, columns, end, window, full, contextual,
            HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL,
        )  # fmt: skip
        p, ds = _hstu_attn_bwd_one_block(
            q, k, v, do, seen & (columns < high)[None, :], alpha, scales[:, None],
            FAST, UPCAST, PRECISION,
        )  # fmt: skip
        dq += dot(ds, k, UPCAST, PRECISION)
    if HAS_TARGETS:
        if first >= history:
            k = load_rows(k_base, rows, stride_k, limit, D, BLOCK_D)
            v = load_rows(v_base, rows, stride_v, limit, DV, BLOCK_DV)
            p, ds = _hstu_attn_bwd_one_self(q, k, v, do, alpha, scales, FAST)
            dq += ds[:, None] * k.to(tl.float32)
    store_rows(DQ + at * stride_dq + head * stride_dqh, rows, stride_dq, limit, dq, D, BLOCK_D)


@triton.jit
def _hstu_attn_bwd(
    Q, K, V, OFFSETS, TARGETS, ORDER, SCALE, DO, DQ, DK, DV_,
    stride_q, stride_k, stride_v, stride_do, stride_dq, stride_dk, stride_dv,
    stride_qh, stride_kh, stride_vh, stride_doh, stride_dqh, stride_dkh, stride_dvh,
    alpha, scale, H, batch, total, N, window, full, contextual,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_ORDER: tl.constexpr, FAST: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, OF_ROWS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, blocks): of rows for dq (OF_ROWS), else of columns for dk and dv."""
    z = tl.program_id(0) // H
    head = (tl.program_id(0) % H).to(tl.int64)
    if HAS_ORDER:
        z = tl.load(ORDER + z).to(tl.int32)
    start = tl.load(OFFSETS + z).to(tl.int32)
    length = tl.load(OFFSETS + z + 1).to(tl.int32) - start
    targets = 0
    if HAS_TARGETS:
        targets = tl.load(TARGETS + z).to(tl.int32)
    limit = tl.minimum(length, N)
    if OF_ROWS:
        block = tl.num_programs(1) - 1 - tl.program_id(1)
    else:
        block = tl.program_id(1)
    if block == 0:
        tail = total if z == batch - 1 else start + length
        if OF_ROWS:
            zero_rows(DQ + head * stride_dqh, start + limit, tail, stride_dq, D, BLOCK_D)
        else:
            zero_rows(DK + head * stride_dkh, start + limit, tail, stride_dk, D, BLOCK_D)
            zero_rows(DV_ + head * stride_dvh, start + limit, tail, stride_dv, DV, BLOCK_DV)
    if OF_ROWS:
        if block * BLOCK_M < limit:
            _hstu_attn_bwd_one_row_block(
                Q, K, V, SCALE, DO, DQ, start, length, targets, head, block * BLOCK_M,
                stride_q, stride_k, stride_v, stride_do, stride_dq,
                stride_qh, stride_kh, stride_vh, stride_doh, stride_dqh,
                alpha, scale, limit, window, full, contextual, D, DV, BLOCK_D, BLOCK_DV,
                HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL, HAS_SCALE, FAST, UPCAST, PRECISION,
                BLOCK_M, BLOCK_N,
            )  # fmt: skip
    elif block * BLOCK_N < limit:
        _hstu_attn_bwd_one_col_block(
            Q, K, V, SCALE, DO, DK, DV_, start, length, targets, head, block * BLOCK_N,
            stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv,
            stride_qh, stride_kh, stride_vh, stride_doh, stride_dkh, stride_dvh,
            alpha, scale, limit, window, full, contextual, D, DV, BLOCK_D, BLOCK_DV,
            HAS_CONTEXT, HAS_TARGETS, HAS_WINDOW, HAS_FULL, HAS_SCALE, FAST, UPCAST, PRECISION,
            BLOCK_M, BLOCK_N,
        )  # fmt: skip
