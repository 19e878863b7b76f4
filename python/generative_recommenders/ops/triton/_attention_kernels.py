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
    whole_rows,
)
from generative_recommenders.ops.triton._tile import (
    dot,
    load_rows,
    silu_and_slope,
    silu_of_half,
    store_rows,
    zero_rows,
)

# Numbers that are never 1 or a multiple of 16 for the compiler: one object serves all of them.
UNSPECIALIZED = (
    "H",
    "batch",
    "total",
    "N",
    "delta",
    "window",
    "full",
    "contextual",
    "present",
)


@triton.jit
def _hstu_attn_fwd_one_block(
    acc, q, k, v, rows, row_ids, columns, end, window, full, contextual, half_alpha, masked,
    GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``acc`` plus what one block of keys adds; the scale of scores is applied at the end. Keys
    behind the last one that is seen are zeros, and so are their scores."""
    p = silu_of_half(dot(q, tl.trans(k), UPCAST, PRECISION) * half_alpha, FAST)
    if masked:
        seen = visible(rows, row_ids, columns, end, window, full, contextual, GENERAL)
        p = tl.where(seen, p, 0.0)
    return acc + dot(p.to(v.dtype), v, UPCAST, PRECISION)


@triton.jit
def _hstu_attn_fwd_compute(
    Q, K, V, SCALE, Out,
    start, length, targets, head, first,
    stride_q, stride_k, stride_v, stride_o, stride_qh, stride_kh, stride_vh, stride_oh,
    alpha, scale, N, limit, shift, window, full, contextual, has_scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    USE_TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """One block of rows of one head. ``limit``: the sequence's rows within N; ``shift``: by how
    much a row of q lies before its row of k, where q has the last rows alone."""
    history, end = sequence_ends(length, targets, contextual, GENERAL)
    rows = first + tl.arange(0, BLOCK_M)
    row_ids = ids(rows, end, contextual, GENERAL)
    last = tl.minimum(first + BLOCK_M, limit) - 1
    low, whole_low, whole_high, high = column_range(
        first, last, history, end, window, full, contextual, BLOCK_N, GENERAL
    )
    high = tl.minimum(high, limit)
    k_base = K + start.to(tl.int64) * stride_k + head * stride_kh
    v_base = V + start.to(tl.int64) * stride_v + head * stride_vh
    acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    if GENERAL:
        if first >= history:  # targets also see themselves; here, before registers hold a product
            q = load_rows(Q + head * stride_qh, rows - shift, stride_q, limit - shift, D, BLOCK_D)
            k = load_rows(k_base, rows, stride_k, limit, D, BLOCK_D)
            v = load_rows(v_base, rows, stride_v, limit, DV, BLOCK_DV)
            s = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * (0.5 * alpha)
            p = silu_of_half(s, FAST).to(v.dtype).to(tl.float32)
            acc = p[:, None] * v.to(tl.float32)
    q = load_rows(Q + head * stride_qh, rows - shift, stride_q, limit - shift, D, BLOCK_D)
    if USE_TMA:
        k_rows = tl.make_tensor_descriptor(k_base, [high, D], [stride_k, 1], [BLOCK_N, BLOCK_D])
        v_rows = tl.make_tensor_descriptor(v_base, [high, DV], [stride_v, 1], [BLOCK_N, BLOCK_DV])
    PHASES: tl.constexpr = 1 if LOOP > 0 else 2
    for phase in tl.static_range(PHASES):
        begin = low
        until = high
        if PHASES == 2:
            begin = whole_low if phase == 0 else whole_high - (whole_low - low)
            until = tl.minimum(whole_high, high) if phase == 0 else high
        for step in range(begin, until, BLOCK_N):
            column = step
            if GENERAL and PHASES == 2 and phase == 1:  # blocks before the whole ones, then behind
                column = tl.where(step < whole_high, step - begin + low, step)
            columns = column + tl.arange(0, BLOCK_N)
            if USE_TMA:
                k = k_rows.load([column, 0])
                v = v_rows.load([column, 0])
            else:
                k = load_rows(k_base, columns, stride_k, high, D, BLOCK_D)
                v = load_rows(v_base, columns, stride_v, high, DV, BLOCK_DV)
            if LOOP == 0:
                masked: tl.constexpr = phase == 1
            elif LOOP == 1:
                masked: tl.constexpr = True
            else:
                masked = (column < whole_low) | (column + BLOCK_N > whole_high)
            acc = _hstu_attn_fwd_one_block(
                acc, q, k, v, rows, row_ids, columns, end, window, full, contextual, 0.5 * alpha,
                masked, GENERAL, FAST, UPCAST, PRECISION,
            )  # fmt: skip
    if GENERAL:
        acc *= row_scale(SCALE, scale, start, rows, limit, has_scale)[:, None]
    else:
        acc *= scale
    store_rows(Out + head * stride_oh, rows - shift, stride_o, limit - shift, acc, DV, BLOCK_DV)


@triton.jit
def row_scale(SCALE, scale, start, rows, limit, has_scale):
    """What the scores of each row are multiplied by."""
    own = tl.load(SCALE + start + rows, mask=(rows < limit) & (has_scale != 0), other=0.0)
    return tl.where(has_scale != 0, own.to(tl.float32), scale)


@triton.jit
def sequence(OFFSETS, TARGETS, ORDER, present, H, GENERAL: tl.constexpr):
    """This program's sequence and head, the sequence's begin and length, and its targets."""
    z = tl.program_id(0) // H
    head = (tl.program_id(0) % H).to(tl.int64)
    targets = 0
    if GENERAL:
        z = tl.load(ORDER + z, mask=(present & 2) != 0, other=z).to(tl.int32)
        targets = tl.load(TARGETS + z, mask=(present & 1) != 0, other=0).to(tl.int32)
    start = tl.load(OFFSETS + z).to(tl.int32)
    length = tl.load(OFFSETS + z + 1).to(tl.int32) - start
    return z, head, start, length, targets


@triton.jit
def heaviest_first(contextual, CONTEXTS: tl.constexpr):
    """This program's block of rows: from the last to the first, but before all of them the first
    one, if it has contextual rows, which see everything."""
    blocks = tl.num_programs(1)
    block = blocks - 1 - tl.program_id(1)
    if CONTEXTS:
        block = tl.where(contextual > 0, (block + 1) % blocks, block)
    return block


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _hstu_attn_fwd(
    Q, K, V, OFFSETS, TARGETS, ORDER, SCALE, Out,
    stride_q, stride_k, stride_v, stride_o, stride_qh, stride_kh, stride_vh, stride_oh,
    alpha, scale, H, batch, total, N, delta, window, full, contextual, present,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GENERAL: tl.constexpr, IS_DELTA: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr, USE_TMA: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    LOOP: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, blocks of rows); what has most to do comes first: ``heaviest_first``.

    ``present``: bits that say whether there are TARGETS (1), an ORDER (2), a SCALE (4); with any of
    them, or a mask beside the causal one, GENERAL.
    """
    z, head, start, length, targets = sequence(OFFSETS, TARGETS, ORDER, present, H, GENERAL)
    limit = tl.minimum(length, N)
    block = heaviest_first(contextual, GENERAL and not IS_DELTA)
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
            alpha, scale, N, limit, shift, window, full, contextual, present & 4,
            D, DV, BLOCK_D, BLOCK_DV, GENERAL, FAST, UPCAST, PRECISION, USE_TMA, BLOCK_M, BLOCK_N,
            LOOP,
        )  # fmt: skip


@triton.jit
def _hstu_attn_bwd_one_block(
    q, k, v, do, rows, row_ids, columns, end, window, full, contextual, half_alpha, scales,
    alpha, masked, GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P and dS of (rows, columns), both with the scale of scores. Rows and columns that are not
    there are zeros, and so are their numbers."""
    p, slope = silu_and_slope(dot(q, tl.trans(k), UPCAST, PRECISION) * half_alpha, FAST)
    ds = dot(do, tl.trans(v), UPCAST, PRECISION) * slope
    if masked:
        seen = visible(rows, row_ids, columns, end, window, full, contextual, GENERAL)
        p = tl.where(seen, p, 0.0)
        ds = tl.where(seen, ds, 0.0)
    return (p * scales).to(q.dtype), (ds * (scales * alpha)).to(q.dtype)


@triton.jit
def _hstu_attn_bwd_one_self(q, k, v, do, alpha, scale, FAST: tl.constexpr):
    """P and dS of each row with itself."""
    s = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * (0.5 * alpha)
    p, slope = silu_and_slope(s, FAST)
    dp = tl.sum(do.to(tl.float32) * v.to(tl.float32), 1)
    p = (p * scale).to(q.dtype).to(tl.float32)
    return p, (dp * slope * (scale * alpha)).to(q.dtype).to(tl.float32)


@triton.jit
def _hstu_attn_bwd_one_col_block(
    Q, K, V, SCALE, DO, DK, DV_,
    start, length, targets, head, first,
    stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv,
    stride_qh, stride_kh, stride_vh, stride_doh, stride_dkh, stride_dvh,
    alpha, scale, limit, window, full, contextual, has_scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of columns of one head."""
    history, end = sequence_ends(length, targets, contextual, GENERAL)
    at = start.to(tl.int64)
    q_base = Q + at * stride_q + head * stride_qh
    do_base = DO + at * stride_do + head * stride_doh
    columns = first + tl.arange(0, BLOCK_N)
    last = tl.minimum(first + BLOCK_N, limit) - 1
    k = load_rows(K + at * stride_k + head * stride_kh, columns, stride_k, limit, D, BLOCK_D)
    v = load_rows(V + at * stride_v + head * stride_vh, columns, stride_v, limit, DV, BLOCK_DV)
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_DV), tl.float32)
    early, low, whole_low, whole_high, high, late = row_range(
        first, last, limit, history, end, window, full, contextual, BLOCK_M, GENERAL
    )
    if GENERAL:
        if first >= history:  # targets are seen by themselves alone
            early, high, late = 0, low, limit
            q = load_rows(q_base, columns, stride_q, limit, D, BLOCK_D)
            do = load_rows(do_base, columns, stride_do, limit, DV, BLOCK_DV)
            scales = row_scale(SCALE, scale, start, columns, limit, has_scale)
            p, ds = _hstu_attn_bwd_one_self(q, k, v, do, alpha, scales, FAST)
            dv = p[:, None] * do.to(tl.float32)
            dk = ds[:, None] * q.to(tl.float32)
    PHASES: tl.constexpr = 2 if LOOP == 0 else 1
    if GENERAL:  # rows with a mask, of four ranges, count on from 0, and behind them the others
        whole_low, whole_high, behind = whole_rows(low, whole_low, whole_high, high, BLOCK_M)
        second = tl.cdiv(early, BLOCK_M) * BLOCK_M
        third = second + whole_low - low
        fourth = third + behind
        fifth = fourth + tl.cdiv(tl.maximum(limit - late, 0), BLOCK_M) * BLOCK_M
    for phase in tl.static_range(PHASES):
        begin = low
        until = high
        bound = high
        if GENERAL:
            begin = 0 if phase == 0 else fifth
            until = fifth if PHASES == 2 and phase == 0 else fifth + whole_high - whole_low
            bound = limit
        elif PHASES == 2:
            begin = low if phase == 0 else whole_low
            until = tl.minimum(whole_low, limit) if phase == 0 else limit
            bound = until
        for step in range(begin, until, BLOCK_M):
            row = step
            if GENERAL:
                row = tl.where(step < third, step - second + low, step - third + whole_high)
                row = tl.where(step < second, step, row)
                row = tl.where(step < fourth, row, step - fourth + late)
                row = tl.where(step < fifth, row, step - fifth + whole_low)
            rows = row + tl.arange(0, BLOCK_M)
            q = load_rows(q_base, rows, stride_q, bound, D, BLOCK_D)
            do = load_rows(do_base, rows, stride_do, bound, DV, BLOCK_DV)
            row_ids = ids(rows, end, contextual, GENERAL)
            scales = scale
            if GENERAL:
                scales = row_scale(SCALE, scale, start, rows, limit, has_scale)[:, None]
            if LOOP == 1:
                masked: tl.constexpr = True
            elif PHASES == 2:
                masked: tl.constexpr = phase == 0
            elif GENERAL:
                masked = step < fifth
            else:
                masked = (row < whole_low) | (row >= whole_high)
            p, ds = _hstu_attn_bwd_one_block(
                q, k, v, do, rows, row_ids, columns, end, window, full, contextual, 0.5 * alpha,
                scales, alpha, masked, GENERAL, FAST, UPCAST, PRECISION,
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
    alpha, scale, limit, window, full, contextual, has_scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """dq of one block of rows of one head."""
    history, end = sequence_ends(length, targets, contextual, GENERAL)
    at = start.to(tl.int64)
    k_base = K + at * stride_k + head * stride_kh
    v_base = V + at * stride_v + head * stride_vh
    rows = first + tl.arange(0, BLOCK_M)
    row_ids = ids(rows, end, contextual, GENERAL)
    last = tl.minimum(first + BLOCK_M, limit) - 1
    q_base = Q + at * stride_q + head * stride_qh
    do_base = DO + at * stride_do + head * stride_doh
    scales = tl.full((BLOCK_M,), scale, tl.float32)
    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if GENERAL:
        scales = row_scale(SCALE, scale, start, rows, limit, has_scale)
        if first >= history:
            q = load_rows(q_base, rows, stride_q, limit, D, BLOCK_D)
            k = load_rows(k_base, rows, stride_k, limit, D, BLOCK_D)
            v = load_rows(v_base, rows, stride_v, limit, DV, BLOCK_DV)
            do = load_rows(do_base, rows, stride_do, limit, DV, BLOCK_DV)
            p, ds = _hstu_attn_bwd_one_self(q, k, v, do, alpha, scales, FAST)
            dq = ds[:, None] * k.to(tl.float32)
    q = load_rows(q_base, rows, stride_q, limit, D, BLOCK_D)
    do = load_rows(do_base, rows, stride_do, limit, DV, BLOCK_DV)
    low, whole_low, whole_high, high = column_range(
        first, last, history, end, window, full, contextual, BLOCK_N, GENERAL
    )
    high = tl.minimum(high, limit)
    PHASES: tl.constexpr = 2 if LOOP == 0 else 1
    for phase in tl.static_range(PHASES):
        begin = low
        until = high
        if PHASES == 2:
            begin = whole_low if phase == 0 else whole_high - (whole_low - low)
            until = tl.minimum(whole_high, high) if phase == 0 else high
        for step in range(begin, until, BLOCK_N):
            column = step
            if GENERAL and PHASES == 2 and phase == 1:
                column = tl.where(step < whole_high, step - begin + low, step)
            columns = column + tl.arange(0, BLOCK_N)
            k = load_rows(k_base, columns, stride_k, high, D, BLOCK_D)
            v = load_rows(v_base, columns, stride_v, high, DV, BLOCK_DV)
            if LOOP == 1:
                masked: tl.constexpr = True
            elif PHASES == 2:
                masked: tl.constexpr = phase == 1
            else:
                masked = (column < whole_low) | (column + BLOCK_N > whole_high)
            _, ds = _hstu_attn_bwd_one_block(
                q, k, v, do, rows, row_ids, columns, end, window, full, contextual, 0.5 * alpha,
                scales[:, None], alpha, masked, GENERAL, FAST, UPCAST, PRECISION,
            )  # fmt: skip
            dq += dot(ds, k, UPCAST, PRECISION)
    store_rows(DQ + at * stride_dq + head * stride_dqh, rows, stride_dq, limit, dq, D, BLOCK_D)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _hstu_attn_bwd(
    Q, K, V, OFFSETS, TARGETS, ORDER, SCALE, DO, DQ, DK, DV_,
    stride_q, stride_k, stride_v, stride_do, stride_dq, stride_dk, stride_dv,
    stride_qh, stride_kh, stride_vh, stride_doh, stride_dqh, stride_dkh, stride_dvh,
    alpha, scale, H, batch, total, N, window, full, contextual, present,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GENERAL: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
    OF_ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, blocks): of rows for dq (OF_ROWS), else of columns for dk and dv."""
    z, head, start, length, targets = sequence(OFFSETS, TARGETS, ORDER, present, H, GENERAL)
    limit = tl.minimum(length, N)
    if OF_ROWS:
        block = heaviest_first(contextual, GENERAL)
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
                alpha, scale, limit, window, full, contextual, present & 4,
                D, DV, BLOCK_D, BLOCK_DV, GENERAL, FAST, UPCAST, PRECISION, BLOCK_M, BLOCK_N, LOOP,
            )  # fmt: skip
    elif block * BLOCK_N < limit:
        _hstu_attn_bwd_one_col_block(
            Q, K, V, SCALE, DO, DK, DV_, start, length, targets, head, block * BLOCK_N,
            stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv,
            stride_qh, stride_kh, stride_vh, stride_doh, stride_dkh, stride_dvh,
            alpha, scale, limit, window, full, contextual, present & 4,
            D, DV, BLOCK_D, BLOCK_DV, GENERAL, FAST, UPCAST, PRECISION, BLOCK_M, BLOCK_N, LOOP,
        )  # fmt: skip
