"""Packing what a pruner left, in the two layouts, and the way between them.

>>> from mustafar.compression import convert_key_batched, convert_value_batched

``rows`` keeps exactly n values of every token: bitmaps (rows, D / 32) int32 and values (rows, n).
``tiles`` takes any pattern: 64 elements are one int64 bitmap, its values are padded to a multiple
of eight; see ``docs/mustafar.md``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mustafar import ops, ref
from mustafar._core.tensor_checks import shape_text
from mustafar.checks import HEAD_DIMS, checks, floating

Tiles = tuple[Tensor, Tensor, list[Tensor]]


def compress_rows(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Keeps the ``n`` largest magnitudes of every row, and packs them, in one pass.

    Of equal magnitudes the lowest channels stay; NaN is larger than infinity; -0.0 becomes 0.0. A
    bit is set for each of the n values, also where it is zero: every row has n bits.

    Args:
        x: (..., D), float16 or bfloat16 (on a CPU also float32), D one of 64, 96, 128.
        n: from 1 to D.

    Returns:
        bitmaps (..., D / 32) int32, channel c at bit c % 32 of word c / 32; values (..., n), in the
        order of the channels.

    Raises:
        ValueError: another dtype, D or n.
    """
    floating(x, "x")
    if x.dim() < 1 or x.shape[-1] not in HEAD_DIMS:
        checks.fail(f"x must be (..., 64, 96 or 128), got {shape_text(x)}")
    checks.integer(n, "n", 1, x.shape[-1])
    if x.is_cuda and x.dtype == torch.float32:
        checks.fail("x must be float16 or bfloat16 on a GPU, got torch.float32")
    bitmaps, values = ops.compress_rows(x.reshape(-1, x.shape[-1]).contiguous(), n)
    return bitmaps.view(*x.shape[:-1], -1), values.view(*x.shape[:-1], n)


def expand_rows(bitmaps: Tensor, values: Tensor) -> Tensor:
    """The dense rows (..., D) behind bitmaps (..., D / 32) and values (..., n).

    Raises:
        ValueError: shapes or dtypes that do not belong together, or a row without exactly n bits.
    """
    checks.tensor(bitmaps, "bitmaps")
    floating(values, "values")
    if bitmaps.dtype != torch.int32 or bitmaps.shape[:-1] != values.shape[:-1]:
        checks.fail(
            f"bitmaps must be int32 (..., D / 32) beside values {shape_text(values)}, got "
            f"{bitmaps.dtype} {shape_text(bitmaps)}"
        )
    counts = ref.unpack_bits(bitmaps).sum(-1)
    if (counts != values.shape[-1]).any():
        wrong = int(counts[counts != values.shape[-1]][0])
        checks.fail(f"bitmaps must have {values.shape[-1]} bits a row, as values, got {wrong}")
    return ref.expand_rows(bitmaps, values)


def _convert(inputs: Tensor, keys: bool) -> Tiles:
    floating(inputs, "inputs", 3)
    heads, tokens, head_dim = inputs.shape
    if tokens % ref.BLOCK != 0 or tokens == 0:
        checks.fail(f"inputs must have a multiple of 64 tokens, got {shape_text(inputs)}")
    if head_dim == 0 or (head_dim % ref.BLOCK != 0 and not keys):
        checks.fail(f"inputs must have a head dim that is a multiple of 64, got {head_dim}")
    if inputs.is_cuda and inputs.dtype == torch.float32:
        checks.fail("inputs must be float16 or bfloat16 on a GPU, got torch.float32")
    x = inputs.contiguous()
    bitmaps, counts = ops.tile_bitmaps(x, keys)
    offsets = torch.zeros((heads, counts.shape[1] + 1), dtype=torch.int32, device=x.device)
    torch.cumsum(counts, 1, dtype=torch.int32, out=offsets[:, 1:])
    starts = nz_offsets(offsets)
    sizes = [2 * size for size in offsets[:, -1].tolist()]  # the one read of the device
    packed = ops.tile_pack(x, bitmaps, offsets, starts, sum(sizes), keys)
    return bitmaps, offsets, list(packed.split(sizes))


def convert_key_batched(inputs: Tensor) -> Tiles:
    """Pruned keys to tiles of 64 tokens of one channel.

    Args:
        inputs: (heads, tokens, D), zero where pruned; tokens a multiple of 64.

    Returns:
        bitmaps (heads, tokens D / 64) int64, the first element at the top bit and a bit set where
        the value is not zero; offsets (heads, tokens D / 64 + 1) int32, where a tile's values begin
        in units of two; the values of each head, every tile's padded with zeros to a multiple of 8.

    Raises:
        ValueError: another dtype or shape.
    """
    return _convert(inputs, keys=True)


def convert_value_batched(inputs: Tensor) -> Tiles:
    """Pruned values to tiles of 64 channels of one token; D is a multiple of 64.

    Arguments, results and errors are those of ``convert_key_batched``.
    """
    return _convert(inputs, keys=False)


def nz_offsets(offsets: Tensor) -> Tensor:
    """Where each head's values begin once they lie in a row, in units of eight: (heads).

    The fourth part of a cache of tiles, beside what ``convert_key_batched`` returns.
    """
    sizes = offsets[:, -1].div(4, rounding_mode="floor")
    return (sizes.cumsum(0) - sizes).int()


def expand_tiles(
    bitmaps: Tensor, offsets: Tensor, packed: list[Tensor], head_dim: int, *, keys: bool
) -> Tensor:
    """The dense (heads, tokens, D) behind tiles of keys or of values.

    Raises:
        ValueError: a tile whose bits and values are not as many.
    """
    counts = ref.unpack_bits(bitmaps.view(torch.int32).view(*bitmaps.shape, 2)).sum(-1)
    if ((counts + 7) // 8 * 4 != offsets.diff(dim=1)).any():
        checks.fail("offsets must leave each tile room for its bits, padded to a multiple of 8")
    starts = nz_offsets(offsets)
    return ref.expand_tiles(bitmaps, torch.cat(packed), offsets, starts, head_dim, keys)


def rows_to_tiles(bitmaps: Tensor, values: Tensor, *, keys: bool) -> Tiles:
    """``rows`` of (heads, tokens, ...) to tiles; zeros that a row kept have no bit there."""
    return _convert(expand_rows(bitmaps, values), keys)


def tiles_to_rows(
    bitmaps: Tensor, offsets: Tensor, packed: list[Tensor], head_dim: int, n: int, *, keys: bool
) -> tuple[Tensor, Tensor]:
    """Tiles to ``rows`` of n values.

    Raises:
        ValueError: a token that has more than n.
    """
    dense = expand_tiles(bitmaps, offsets, packed, head_dim, keys=keys)
    most = int((dense != 0).sum(-1).max())
    if most > n:
        checks.fail(f"n must be at least {most}, the values of the fullest token, got {n}")
    return compress_rows(dense, n)
