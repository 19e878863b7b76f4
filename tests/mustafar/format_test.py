"""The layouts: what lies where, by readers that share nothing with the code; round trips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mustafar.compression import (
    compress_rows,
    convert_key_batched,
    convert_value_batched,
    expand_rows,
    expand_tiles,
    nz_offsets,
    rows_to_tiles,
    tiles_to_rows,
)
from torch import Tensor

from tests.mustafar.cases import normal

HALF = torch.float16


def sparse(heads: int, tokens: int, head_dim: int, density: float, device: str = "cpu") -> Tensor:
    x = normal(heads, tokens, head_dim, device="cpu", dtype=HALF, seed=3)
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(4))
    return x.where(drawn < density, 0).to(device)


def read_tiles(
    bitmaps: Tensor, offsets: Tensor, packed: list[Tensor], shape: tuple[int, ...], keys: bool
) -> Tensor:
    """The layout as its description says it, element by element."""
    heads, tokens, head_dim = shape
    out = torch.zeros(shape, dtype=HALF)
    for h in range(heads):
        for tile in range(tokens // 64 * head_dim):
            word = f"{int(bitmaps[h, tile]) & (1 << 64) - 1:064b}"
            at = 2 * int(offsets[h, tile])
            for i, bit in enumerate(word):
                if bit == "0":
                    continue
                block, rest = divmod(tile, head_dim)
                place = (
                    (64 * block + i, rest)
                    if keys
                    else (64 * block + rest % 64, rest // 64 * 64 + i)
                )
                out[h][place] = packed[h][at]
                at += 1
            end = 2 * int(offsets[h, tile + 1])
            assert at <= end < at + 8 and end % 8 == 0
            assert (packed[h][at:end] == 0).all()
        assert len(packed[h]) == 2 * int(offsets[h, -1])
    return out


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize(("tokens", "head_dim"), [(64, 64), (192, 128)])
def test_tiles_are_what_an_independent_reader_expects(
    device: str, keys: bool, density: float, tokens: int, head_dim: int
) -> None:
    x = sparse(2, tokens, head_dim, density, device)
    convert = convert_key_batched if keys else convert_value_batched
    bitmaps, offsets, packed = convert(x)
    assert (bitmaps.dtype, offsets.dtype) == (torch.int64, torch.int32)
    assert bitmaps.shape == (2, tokens * head_dim // 64) and len(packed) == 2
    host = [p.cpu() for p in packed]
    assert torch.equal(read_tiles(bitmaps.cpu(), offsets.cpu(), host, x.shape, keys), x.cpu())
    starts = nz_offsets(offsets)
    assert starts.tolist() == [0, len(packed[0]) // 8] and starts.dtype == torch.int32
    assert torch.equal(expand_tiles(bitmaps, offsets, packed, head_dim, keys=keys), x)


def test_tiles_of_one_element_by_hand() -> None:
    x = torch.zeros(1, 64, 64, dtype=HALF)
    x[0, 3, 5] = 7
    bitmaps, offsets, packed = convert_key_batched(x)
    assert int(bitmaps[0, 5]) == 1 << 60 and int((bitmaps != 0).sum()) == 1
    assert offsets[0].tolist() == [0] * 6 + [4] * 59
    assert packed[0].tolist() == [7, 0, 0, 0, 0, 0, 0, 0]
    bitmaps, _, _ = convert_value_batched(x)
    assert int(bitmaps[0, 3]) == 1 << 58 and int((bitmaps != 0).sum()) == 1


def test_the_first_element_is_the_top_bit() -> None:
    x = torch.zeros(1, 64, 64, dtype=HALF)
    x[0, 0, 0] = 1
    assert int(convert_key_batched(x)[0][0, 0]) == -(1 << 63)


@pytest.mark.parametrize("keys", [True, False])
def test_tiles_drop_minus_zero_and_keep_nan_and_infinity(device: str, keys: bool) -> None:
    x = torch.zeros(1, 64, 64, dtype=HALF, device=device)
    x[0, 0, 0], x[0, 1, 1], x[0, 2, 2] = -0.0, float("nan"), float("-inf")
    convert = convert_key_batched if keys else convert_value_batched
    bitmaps, _, packed = convert(x)
    assert int((bitmaps != 0).sum()) == 2
    found = packed[0][packed[0] != 0]
    assert torch.isnan(found).sum() == 1 and (found == float("-inf")).sum() == 1


def read_rows(bitmaps: Tensor, values: Tensor, head_dim: int) -> Tensor:
    out = torch.zeros(len(values), head_dim, dtype=values.dtype)
    for r in range(len(values)):
        queue = values[r].tolist()
        for c in range(head_dim):
            if int(bitmaps[r, c // 32]) >> c % 32 & 1:
                out[r, c] = queue.pop(0)
        assert not queue
    return out


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("n", [1, 7, 21, 64])
@pytest.mark.parametrize("rows", [1, 15, 16, 100])
def test_rows_keep_the_largest_of_each_token(device: str, head_dim: int, n: int, rows: int) -> None:
    x = normal(rows, head_dim, device=device, dtype=HALF, seed=5)
    bitmaps, values = compress_rows(x, n)
    assert bitmaps.shape == (rows, head_dim // 32) and values.shape == (rows, n)
    dense = read_rows(bitmaps.cpu(), values.cpu(), head_dim)
    assert torch.equal(expand_rows(bitmaps, values).cpu(), dense)
    for row, whole in zip(dense, x.cpu(), strict=True):
        wanted = sorted(range(head_dim), key=lambda c: (-abs(float(whole[c])), c))[:n]
        expected = torch.zeros_like(whole)
        expected[wanted] = whole[wanted]
        assert torch.equal(row, expected)


def test_compression_is_the_same_on_every_device(gpu: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for head_dim in (64, 96, 128):
            x = normal(5000, head_dim, device="cpu", dtype=dtype, seed=6)
            x[::7] = x[::7].round()  # ties
            x[0], x[1, 3], x[2, 4] = 0, float("nan"), float("inf")
            for n in (1, 5, head_dim // 3, head_dim - 1, head_dim):
                on_cpu, on_gpu = compress_rows(x, n), compress_rows(x.to(gpu), n)
                for a, b in zip(on_cpu, on_gpu, strict=True):
                    kind = torch.int16 if a.element_size() == 2 else torch.int32
                    assert torch.equal(a.view(kind), b.cpu().view(kind)), (dtype, head_dim, n)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0]), min_size=64, max_size=64))
def test_ties_keep_the_lowest_channels_and_zeros_are_plus_zero(row: list[float]) -> None:
    bitmaps, values = compress_rows(torch.tensor([row]), 20)
    chosen = sorted(sorted(range(64), key=lambda c: (-abs(row[c]), c))[:20])
    bits = [c for c in range(64) if int(bitmaps[0, c // 32]) >> c % 32 & 1]
    assert bits == chosen
    assert values[0].tolist() == [row[c] for c in chosen]
    assert not torch.signbit(values[values == 0]).any()


def test_nan_is_larger_than_infinity_and_both_stay(device: str) -> None:
    x = torch.ones(1, 64, dtype=HALF, device=device)
    x[0, 10], x[0, 20], x[0, 30] = float("inf"), float("nan"), 60000
    _, values = compress_rows(x, 2)
    assert values[0, 0] == float("inf") and torch.isnan(values[0, 1])


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 96, 128]), st.integers(1, 64))
def test_rows_and_tiles_turn_into_each_other_bit_by_bit(seed: int, head_dim: int, n: int) -> None:
    x = torch.randn(2, 64, head_dim, generator=torch.Generator().manual_seed(seed)).half()
    x[0, ::3] *= 0  # whole zero tokens
    x[1, ::5, 8:] = 0
    rows = compress_rows(x, n)
    for keys in (True, False) if head_dim % 64 == 0 else (True,):
        tiles = rows_to_tiles(*rows, keys=keys)
        again = tiles_to_rows(*tiles, head_dim, n, keys=keys)
        assert torch.equal(rows[0], again[0])
        assert torch.equal(rows[1].view(torch.int16), again[1].view(torch.int16))
        tiles_again = rows_to_tiles(*again, keys=keys)
        assert torch.equal(tiles[0], tiles_again[0]) and torch.equal(tiles[1], tiles_again[1])
        assert all(map(torch.equal, tiles[2], tiles_again[2]))


def test_a_row_is_0_375_of_its_dense_bytes_at_70_percent() -> None:
    bitmaps, values = compress_rows(torch.randn(1000, 128).half(), 40)
    assert (bitmaps.nbytes + values.nbytes) / (1000 * 256) == 0.375
    bitmaps, values = compress_rows(torch.randn(1000, 128).half(), 65)
    assert round((bitmaps.nbytes + values.nbytes) / (1000 * 256), 3) == 0.570
