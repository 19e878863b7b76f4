"""The backward of embeddings of place and time, which reads the gradient once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sums_by_place(
    G, DX, OFFSETS, HIGHS, BUCKETS, PLACES, AGES, KEYS, ITEMS, stride_g, batch, rows, each, longest,
    contextual, n_ts, dim, down, others, alpha, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, tiles of ``ops.places.Tiles``, shares of the sequences). DX is alpha
    G; PLACES (shares, tiles, ROWS, dim) sums by place. Rows of one age that follow one another in
    a tile are one item, their sum in AGES, another row is one by itself: KEYS is the age of the
    item that begins at a row, or n_ts, and ITEMS the row, or -1 - that of AGES."""
    column = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (column < dim)[None, :]
    tile = tl.program_id(1)
    share = tl.program_id(2)
    r = tl.arange(0, ROWS)
    acc = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for z in range(share * each, tl.minimum((share + 1) * each, batch)):
        start = tl.load(OFFSETS + z).to(tl.int64)
        length = (tl.load(OFFSETS + z + 1) - start).to(tl.int32)
        until = (rows - start).to(tl.int32) if z == batch - 1 else length
        limit = tl.minimum(length, longest)
        high = tl.load(HIGHS + z).to(tl.int32)
        # a tile has the rows from first down to low, in so many turns
        first = high - tile * ROWS
        low = contextual
        top = until
        step = 0
        turns = 1
        if tile >= down:
            if tile < down + others:
                before = (tile - down) * ROWS
                step = others * ROWS
                turns = tl.maximum(tl.cdiv(until - 1 - high - before, step), 0)
                first = high + before + ROWS
                low = tl.maximum(contextual, high + 1)
            elif tile < down + 2 * others:
                first = high - (tile - others) * ROWS
                step = -others * ROWS
                turns = tl.maximum(tl.cdiv(first - contextual + 1, -step), 0)
            else:
                first = (tile - down - 2 * others) * ROWS
                low = 0
                top = tl.minimum(contextual, until)
        counts_up = tile >= down + 2 * others
        for _ in range(turns):
            row = tl.where(counts_up, first + r, first - r)
            there = (row >= low) & (row < top)
            if tl.max(there.to(tl.int32), 0) > 0:
                at = start + row
                both = there[:, None] & inside
                g = tl.load(G + at[:, None] * stride_g + column[None, :], mask=both, other=0.0)
                g = g.to(tl.float32)
                dx = (g * alpha).to(DX.dtype.element_ty)
                tl.store(DX + at[:, None] * dim + column[None, :], dx, mask=both)
                added = there & (row < limit)
                g = tl.where(added[:, None], g, 0.0)
                acc += g
                age = tl.load(BUCKETS + at, mask=there, other=0)
                least = tl.min(tl.where(added, age, n_ts), 0)
                alike = (least == tl.max(tl.where(added, age, -1), 0)) & (counts_up == 0)
                item = at.to(tl.int32)
                if alike:
                    sum_ = (start + first) // ROWS + 2 * z
                    tl.store(AGES + sum_ * dim + column, tl.sum(g, 0), mask=column < dim)
                    begin = tl.min(tl.where(added, row, 2147483647), 0)
                    age = tl.where(row == begin, least, n_ts)
                    item = (r * 0 - 1 - sum_).to(tl.int32)
                if tl.program_id(0) == 0:
                    tl.store(KEYS + at, age, mask=there)
                    tl.store(ITEMS + at, item, mask=there)
            first += step
    at = ((share * tl.num_programs(1) + tile) * ROWS + r).to(tl.int64)
    tl.store(PLACES + at[:, None] * dim + column[None, :], acc, mask=inside)


@triton.jit
def _sum_of_items(
    G, AGES, ORDER, ITEMS, STARTS, Out, stride_g, dim, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Grid (pieces, blocks of columns): the sum of the items that ORDER names from STARTS[i] to
    STARTS[i + 1]."""
    i = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = tl.load(STARTS + i)
    until = tl.load(STARTS + i + 1)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for at in range(begin, until, BLOCK):
        place = at + tl.arange(0, BLOCK)
        order = tl.load(ORDER + place, mask=place < until, other=0)
        item = tl.load(ITEMS + order, mask=place < until, other=0).to(tl.int64)
        inside = (place < until)[:, None] & (column < dim)[None, :]
        is_row = (item >= 0)[:, None]
        of_g = G + item[:, None] * stride_g + column[None, :]
        g = tl.load(of_g, mask=inside & is_row, other=0.0).to(tl.float32)
        of_ages = AGES + (-1 - item)[:, None] * dim + column[None, :]
        acc += tl.sum(g + tl.load(of_ages, mask=inside & (item < 0)[:, None], other=0.0), 0)
    tl.store(Out + i.to(tl.int64) * dim + column, acc, mask=column < dim)
