"""Which keys a query of HSTU attention sees, for kernels: the rules of
``ops.pytorch.pt_hstu_attention.visible``, and the ranges of columns and rows that follow from them.

``length`` is a sequence's length, ``history`` where its targets begin, ``end`` the id that targets
share. GENERAL says whether there are any rules beside the causal one; those that are not there have
values that change nothing: no targets, 0 contextual positions, a window of ``FAR``, ``-FAR`` rows
that see everything.
"""

from __future__ import annotations

import triton
import triton.language as tl

FAR = 1 << 30


@triton.jit
def sequence_ends(length, targets, contextual, GENERAL: tl.constexpr):
    """Where the history ends, and the id of what is behind it."""
    history = length - targets
    end = history
    if GENERAL:
        end = history - contextual + 1
    return history, end


@triton.jit
def ids(place, end, contextual, GENERAL: tl.constexpr):
    if GENERAL:
        place = tl.minimum(tl.maximum(place - contextual + 1, 0), end)
    return place


@triton.jit
def visible(rows, row_ids, columns, end, window, full, contextual, GENERAL: tl.constexpr):
    """(rows, columns); what lies outside the sequence is the caller's to leave out."""
    if GENERAL:
        column_ids = ids(columns, end, contextual, GENERAL)
        distance = row_ids[:, None] - column_ids[None, :]
        near = (distance <= window) | (row_ids >= end - full)[:, None]
        seen = ((distance > 0) & near) | (rows[:, None] == columns[None, :])
        return seen | ((row_ids == 0)[:, None] & (column_ids < end)[None, :])
    # Of a comparison of the two, in a branch, LLVM's vectorizer in Triton 3.7.1 makes an abort.
    return rows[:, None] - columns[None, :] >= 0


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
    GENERAL: tl.constexpr,
):
    """Columns that the rows from ``first`` to ``last`` see: ``low``, ``whole_low``, ``whole_high``,
    ``high``.

    Blocks from whole_low to whole_high need no mask; low and the two are multiples of BLOCK. Rows
    that are all targets see themselves, too.
    """
    low = 0
    whole_low = 0
    high = last + 1
    whole_high = first
    if GENERAL:
        first_id = ids(first, end, contextual, GENERAL)
        last_id = ids(last, end, contextual, GENERAL)
        # The place of the farthest id that is near the first row, and near the last one.
        low = first_id - window
        whole_low = last_id - window
        low = tl.where(low > 0, low + contextual - 1, 0)
        whole_low = tl.where(whole_low > 0, whole_low + contextual - 1, 0)
        low = tl.where(last_id >= end - full, 0, low)
        whole_low = tl.where(first_id >= end - full, 0, whole_low)
        low = tl.maximum(low, 0) // BLOCK * BLOCK
        whole_low = tl.maximum(whole_low, 0)
        high = tl.where(first >= history, history, high)
        whole_high = tl.minimum(first, history)
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
    GENERAL: tl.constexpr,
):
    """Rows that see the columns from ``first`` to ``last``: [0, early), [low, high) and
    [late, length); those from ``whole_low`` to ``whole_high`` see all of them.

    ``low``, ``late``, and ``whole_low`` are multiples of BLOCK, and no row is in two of the three.
    """
    low = first // BLOCK * BLOCK
    high = length
    late = (length + BLOCK - 1) // BLOCK * BLOCK
    early = 0
    whole_low = (last + BLOCK) // BLOCK * BLOCK
    whole_high = length
    if GENERAL:
        farthest = ids(last, end, contextual, GENERAL) + window
        nearest = ids(first, end, contextual, GENERAL) + window
        high = tl.where(farthest >= end, length, tl.minimum(farthest + contextual, length))
        late = end - full
        late = tl.where(late > 0, late + contextual - 1, 0)
        late = tl.maximum(late // BLOCK * BLOCK, low)
        high = (high + BLOCK - 1) // BLOCK * BLOCK  # a block is in one of the ranges, whole
        late = tl.maximum(late, high)
        high = tl.minimum(high, length)
        early = tl.where(first < history, tl.minimum(contextual, low), 0)
        whole_low = tl.maximum(whole_low, (contextual + BLOCK - 1) // BLOCK * BLOCK)
        seen = tl.minimum(nearest + contextual, length) // BLOCK * BLOCK
        whole_high = tl.where(nearest >= end, length, seen)
        whole_high = tl.where(last < history, whole_high, 0)
    return early, low, whole_low, whole_high, high, late


@triton.jit
def whole_rows(low, whole_low, whole_high, high, BLOCK: tl.constexpr):
    """Of ``row_range``, for [low, high): where blocks that need no mask begin and end, and how many
    rows, whole blocks of them, come behind."""
    end = (high + BLOCK - 1) // BLOCK * BLOCK
    begin = tl.minimum(tl.maximum(whole_low, low), tl.maximum(end, low))
    whole_end = tl.minimum((whole_high + BLOCK - 1) // BLOCK * BLOCK, end)
    whole_end = tl.maximum(whole_end, begin)
    return begin, whole_end, tl.maximum(end - whole_end, 0)
