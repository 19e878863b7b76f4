"""Mustafar in plain PyTorch: what every op of the package computes, for any floating dtype.

Formats are drawn in csrc/mustafar/bitmap.h; ``docs/mustafar.md`` has them in words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # tokens of a page, elements of a tile


class CacheTensors(NamedTuple):
    """What a cache is made of, in the order of the ops' schemas."""

    k_bitmaps: Tensor  # (pages, heads, 64, D / 32) int32
    k_values: Tensor  # (pages, heads, 64, kept)
    v_bitmaps: Tensor
    v_values: Tensor
    k_window: Tensor  # (batch, heads, window, D)
    v_window: Tensor
    state: Tensor  # (batch, 4) int32: tokens, compressed ones, 1 if one did not fit, scratch
    block_table: Tensor | None  # (batch, blocks) int32


# ---- Which values stay


def order(x: Tensor) -> Tensor:
    """Integers in the order of the magnitudes: infinity above all numbers, NaN above infinity."""
    if x.dtype == torch.float64:
        return x.view(torch.int64) & 0x7FFFFFFFFFFFFFFF
    if x.dtype == torch.float32:
        return x.view(torch.int32) & 0x7FFFFFFF
    return x.view(torch.int16).int() & 0x7FFF


def largest(score: Tensor, count: int) -> Tensor:
    """A mask of the ``count`` largest scores of the last dimension, the first of equal ones."""
    chosen = torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros(score.shape, dtype=torch.bool, device=score.device).scatter_(
        -1, chosen, True
    )


# ---- rows


def pack_bits(mask: Tensor) -> Tensor:
    """(..., D) booleans to (..., D / 32) int32: channel c at bit c % 32 of word c / 32."""
    words = mask.view(*mask.shape[:-1], mask.shape[-1] // 32, 32).long()
    sums = (words << torch.arange(32, device=mask.device)).sum(-1)
    signed: Tensor = (sums + 2**31) % 2**32 - 2**31
    return signed.int()


def unpack_bits(bitmaps: Tensor) -> Tensor:
    """The inverse of ``pack_bits``."""
    bits = bitmaps[..., None].long() >> torch.arange(32, device=bitmaps.device) & 1
    return bits.flatten(-2).bool()


def compress_rows(x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """(rows, D) to (rows, D / 32) int32 and (rows, kept): each row's largest magnitudes."""
    mask = largest(order(x), kept)
    values = x[mask].view(x.shape[0], kept)
    return pack_bits(mask), torch.where(values == 0, 0, values)


def expand_rows(bitmaps: Tensor, values: Tensor) -> Tensor:
    """The dense rows behind ``compress_rows``'s results, of any leading dimensions."""
    mask = unpack_bits(bitmaps)
    out = values.new_zeros(mask.shape)
    out[mask] = values.flatten()
    return out


# ---- tiles


def tiled(x: Tensor, keys: bool) -> Tensor:
    """(heads, tokens, D) to (heads, tiles, 64), in the order of the tiles."""
    heads, tokens, head_dim = x.shape
    blocks = x.view(heads, tokens // BLOCK, BLOCK, head_dim)
    if keys:
        return blocks.transpose(2, 3).reshape(heads, -1, BLOCK)
    segments = blocks.view(heads, tokens // BLOCK, BLOCK, head_dim // BLOCK, BLOCK)
    return segments.transpose(2, 3).reshape(heads, -1, BLOCK)


def untiled(tiles: Tensor, head_dim: int, keys: bool) -> Tensor:
    """The inverse of ``tiled``."""
    heads = tiles.shape[0]
    if keys:
        return tiles.view(heads, -1, head_dim, BLOCK).transpose(2, 3).reshape(heads, -1, head_dim)
    segments = tiles.view(heads, -1, head_dim // BLOCK, BLOCK, BLOCK)
    return segments.transpose(2, 3).reshape(heads, -1, head_dim)


def tile_bitmaps(x: Tensor, keys: bool) -> tuple[Tensor, Tensor]:
    """Bitmaps (heads, tiles) int64, the first element at the top bit; values of each, padded, in
    units of two, int32."""
    there = tiled(x, keys) != 0
    bits = there.long() << torch.arange(63, -1, -1, device=x.device)
    return bits.sum(-1), ((there.sum(-1) + 7) // 8 * 4).int()


def tile_pack(
    x: Tensor, bitmaps: Tensor, offsets: Tensor, starts: Tensor, total: int, keys: bool
) -> Tensor:
    """The values of all tiles, each padded with zeros to a multiple of eight: (total)."""
    tiles = tiled(x, keys)
    there = tiles != 0
    first = starts.long()[:, None] * 8 + offsets[:, :-1].long() * 2
    places = first[..., None] + there.long().cumsum(-1) - 1
    packed = x.new_zeros(total)
    packed[places[there]] = tiles[there]
    return packed


def expand_tiles(
    bitmaps: Tensor, packed: Tensor, offsets: Tensor, starts: Tensor, head_dim: int, keys: bool
) -> Tensor:
    """The dense (heads, tokens, D) behind the tiles."""
    there = bitmaps[..., None] >> torch.arange(63, -1, -1, device=bitmaps.device) & 1 == 1
    first = starts.long()[:, None] * 8 + offsets[:, :-1].long() * 2
    places = first[..., None] + there.long().cumsum(-1) - 1
    tiles = packed.new_zeros(there.shape)
    tiles[there] = packed[places[there]]
    return untiled(tiles, head_dim, keys)


def tile_product(a: Any, keys: bool) -> Tensor:
    """``tile_keys`` and ``tile_values`` from their arguments."""
    dense = expand_tiles(a.bitmaps, a.packed, a.offsets, a.starts, a.head_dim, keys).float()
    dense = dense.repeat_interleave(a.groups, 0)
    product: Tensor = a.b.float() @ (dense.mT if keys else dense)
    return product.to(a.b.dtype)


# ---- A cache


def _pages(c: CacheTensors, sequence: int) -> Tensor:
    """The page of each block of a sequence."""
    if c.block_table is not None:
        return c.block_table[sequence].long()
    blocks = c.k_values.shape[0] // c.state.shape[0]
    return torch.arange(sequence * blocks, (sequence + 1) * blocks, device=c.state.device)


def _store(c: CacheTensors, sequence: int, first: int, k: Tensor, v: Tensor) -> None:
    """Compresses (heads, tokens, D) to the pages, from token ``first`` on."""
    if k.shape[1] == 0:
        return
    tokens = torch.arange(first, first + k.shape[1], device=k.device)
    at = (_pages(c, sequence)[tokens // BLOCK], slice(None), tokens % BLOCK)
    for x, bitmaps, values in ((k, c.k_bitmaps, c.k_values), (v, c.v_bitmaps, c.v_values)):
        heads, count, head_dim = x.shape
        bits, kept = compress_rows(x.reshape(-1, head_dim), values.shape[3])
        values[at] = kept.view(heads, count, -1).transpose(0, 1)
        if values.shape[3] < head_dim:
            bitmaps[at] = bits.view(heads, count, -1).transpose(0, 1)


def append(a: Any) -> None:
    """One more token for every sequence; a full window's oldest ``block`` tokens leave it first."""
    c = CacheTensors(*a[:8])
    window = c.k_window.shape[2]
    for b, (tokens, compressed, *_) in enumerate(c.state.tolist()):
        if tokens - compressed == a.residual + a.block:
            end = compressed + a.block
            pages = _pages(c, b)
            used = pages[compressed // BLOCK : (end - 1) // BLOCK + 1]
            if end > len(pages) * BLOCK or (used < 0).any():
                c.state[b, 2] = 1
                continue
            slots = torch.arange(compressed, end, device=c.state.device) % window
            _store(c, b, compressed, c.k_window[b][:, slots], c.v_window[b][:, slots])
            compressed = end
        c.k_window[b, :, tokens % window] = a.k[b, :, 0]
        c.v_window[b, :, tokens % window] = a.v[b, :, 0]
        c.state[b, 0], c.state[b, 1] = tokens + 1, compressed


def prefill(a: Any) -> None:
    """The first tokens of every sequence: lengths[b] from token starts[b] of k and v on."""
    c = CacheTensors(*a[:8])
    window = c.k_window.shape[2]
    for b, (start, length) in enumerate(zip(a.starts.tolist(), a.lengths.tolist(), strict=True)):
        compressed = max(length - a.residual, 0) // a.block * a.block
        k, v = (x[b, :, start : start + length] for x in (a.k, a.v))
        _store(c, b, 0, k[:, :compressed], v[:, :compressed])
        slots = torch.arange(compressed, length, device=c.state.device) % window
        c.k_window[b][:, slots] = k[:, compressed:]
        c.v_window[b][:, slots] = v[:, compressed:]
        c.state[b] = torch.tensor([length, compressed, 0, 0])


def cached(c: CacheTensors, sequence: int) -> tuple[Tensor, Tensor]:
    """The dense keys and values of a sequence, (heads, tokens, D) each, pruned as they are."""
    tokens, compressed, *_ = c.state[sequence].tolist()
    packed = torch.arange(compressed, device=c.state.device)
    at = (_pages(c, sequence)[packed // BLOCK], slice(None), packed % BLOCK)
    slots = torch.arange(compressed, tokens, device=c.state.device) % c.k_window.shape[2]
    found = []
    for bitmaps, values, window in (
        (c.k_bitmaps, c.k_values, c.k_window),
        (c.v_bitmaps, c.v_values, c.v_window),
    ):
        rows = values[at]
        if values.shape[3] < window.shape[3]:
            rows = expand_rows(bitmaps[at], rows)
        found.append(torch.cat([rows.transpose(0, 1), window[sequence][:, slots]], 1))
    return found[0], found[1]


def decode(q: Tensor, c: CacheTensors, scale: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Attention of one query token of every sequence, computed in ``dtype``.

    Args:
        q: (batch, q_heads, D).
        c: the cache; a sequence without tokens gives zeros.
        scale: of the scores.
        dtype: of the computation; the result has q's.
    """
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    for b in range(q.shape[0]):
        k, v = (x.to(dtype) for x in cached(c, b))
        heads, tokens, head_dim = k.shape
        if tokens == 0:
            continue
        queries = q[b].to(dtype).view(heads, -1, head_dim)
        scores = queries @ k.mT * scale
        out[b] = (scores.softmax(-1) @ v).view(-1, head_dim)
    return out.to(q.dtype)
