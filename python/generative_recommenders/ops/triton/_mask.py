"""Which keys a query of HSTU attention sees, for kernels: the rules of
``ops.pytorch.pt_hstu_attention.visible``, and the ranges of columns and rows that follow from them.

``length`` is a sequence's length, ``history`` where its targets begin, ``end`` the id that targets
share. A ``HAS_`` constant says whether a rule is there at all.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sequence_ends(length, targets, contextual, HAS_CONTEXT: tl.constexpr):
    """Where the history ends, and the id of what is behind it."""
    history = length - targets
    end = history
    if HAS_CONTEXT:
        end = history - contextual + 1
    return history, end


@triton.jit
def ids(place, end, contextual, HAS_CONTEXT: tl.constexpr, HAS_TARGETS: tl.constexpr):
    if HAS_CONTEXT:
        place = tl.maximum(place - contextual + 1, 0)
    if HAS_TARGETS:
        place = tl.minimum(place, end)
    return place


@triton.jit
def visible(
    rows,
    row_ids,
    columns,
    end,
    window,
    full,
    contextual,
    HAS_CONTEXT: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr,
):
    """(rows, columns); what lies outside the sequence is the caller's to leave out."""
    column_ids = ids(columns, end, contextual, HAS_CONTEXT, HAS_TARGETS)
    distance = row_ids[:, None] - column_ids[None, :]
    seen = distance > 0
    if HAS_WINDOW:
        near = distance <= window
        if HAS_FULL:
            near = near | (row_ids >= end - full)[:, None]
        seen = seen & near
    seen = seen | (rows[:, None] == columns[None, :])
    if HAS_CONTEXT:
        seen = seen | ((row_ids == 0)[:, None] & (column_ids < end)[None, :])
    return seen


@triton.jit
def column_range(
    first,
    last,
    history,
    end,
    window,
    full,
    contextual,
    BLOCK: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr,
):
    """Columns that the rows from ``first`` to ``last`` see: ``low``, ``whole_low``, ``whole_high``,
    ``high``.

    Blocks from whole_low to whole_high need no mask; low and the two are multiples of BLOCK. Rows
    that are all targets see themselves, too.
    """
    first_id = ids(first, end, contextual, HAS_CONTEXT, HAS_TARGETS)
    last_id = ids(last, end, contextual, HAS_CONTEXT, HAS_TARGETS)
    low = 0
    whole_low = 0
    if HAS_WINDOW:
        # The place of the farthest id that is near the first row, and near the last one.
        low = first_id - window
        whole_low = last_id - window
        if HAS_CONTEXT:
            low = tl.where(low > 0, low + contextual - 1, 0)
            whole_low = tl.where(whole_low > 0, whole_low + contextual - 1, 0)
        if HAS_FULL:
            low = tl.where(last_id >= end - full, 0, low)
            whole_low = tl.where(first_id >= end - full, 0, whole_low)
        low = tl.maximum(low, 0) // BLOCK * BLOCK
        whole_low = tl.maximum(whole_low, 0)
    high = last + 1
    whole_high = first
    if HAS_TARGETS:
        high = tl.where(first >= history, history, high)
        whole_high = tl.minimum(first, history)
    if HAS_CONTEXT:
        high = tl.where(first < contextual, tl.maximum(high, history), high)
        whole_high = tl.where((first < contextual) | (history < contextual), 0, whole_high)
    whole_low = (whole_low + BLOCK - 1) // BLOCK * BLOCK
    whole_low = tl.minimum(tl.maximum(whole_low, low), (high + BLOCK - 1) // BLOCK * BLOCK)
    whole_high = tl.maximum(whole_high // BLOCK * BLOCK, whole_low)
    return low, whole_low, whole_high, high


@triton.jit
def row_range(
    first,
    last,
    length,
    history,
    end,
    window,
    full,
    contextual,
    BLOCK: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_FULL: tl.constexpr,
):
    """Rows that see the columns from ``first`` to ``last``: [0, early), [low, high) and
    [late, length).

    ``low`` and ``late`` are multiples of BLOCK, and no row is in two of them.
    """
    low = first // BLOCK * BLOCK
    high = length
    late = (length + BLOCK - 1) // BLOCK * BLOCK
    if HAS_WINDOW:
        farthest = ids(last, end, contextual, HAS_CONTEXT, HAS_TARGETS) + window
        high = farthest + 1
        if HAS_CONTEXT:
            high = farthest + contextual
        if HAS_TARGETS:
            high = tl.where(farthest >= end, length, high)
        high = tl.minimum(high, length)
        if HAS_FULL:
            late = end - full
            if HAS_CONTEXT:
                late = tl.where(late > 0, late + contextual - 1, 0)
            late = tl.maximum(late, 0)
            late = tl.maximum(late // BLOCK * BLOCK, low)
            high = (high + BLOCK - 1) // BLOCK * BLOCK  # a block is in one of the ranges, whole
            late = tl.maximum(late, high)
            high = tl.minimum(high, length)
    early = 0
    if HAS_CONTEXT:
        early = tl.where(first < history, tl.minimum(contextual, low), 0)
    return early, low, high, late
