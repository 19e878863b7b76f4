"""Embeddings of place and time: PyTorch against a loop of the formula, Triton against PyTorch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.pieces import in_pieces, of_pieces
from generative_recommenders.ops.position import add_timestamp_positional_embeddings
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

LENGTHS, TARGETS = [5, 0, 20, 9], [1, 0, 4, 2]
STARTS = cases.starts_of(LENGTHS)
GRID = [
    pytest.param(name, interleave, contexts, id=f"{name}-{interleave}-{contexts}")
    for name in ("sqrt", "log")
    for interleave in (False, True)
    for contexts in (0, 3)
]


def inputs() -> tuple[list[Tensor], Tensor]:
    times = (cases.drawn(34, seed=5).abs() * 100_000).long().sort()[0]
    return [cases.drawn(34, 40), cases.drawn(9, 40, seed=1), cases.drawn(12, 40, seed=2)], times


def added(
    kernel: HammerKernel, t: list[Tensor], times: Tensor, name: str, interleave: bool, contexts: int
) -> Tensor:
    x, pos, ts = t
    targets = torch.tensor(TARGETS, device=DEVICE)
    return add_timestamp_positional_embeddings(
        0.5, 20, contexts, pos, ts, STARTS, STARTS.diff(), x, times, targets, interleave, name,
        kernel,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "interleave", "contexts"), GRID)
def test_pytorch_is_the_formula(name: str, interleave: bool, contexts: int) -> None:
    (x, pos, ts), times = inputs()
    got = added(HammerKernel.PYTORCH, [x, pos, ts], times, name, interleave, contexts)
    row = 0
    for length, targets in zip(LENGTHS, TARGETS, strict=True):
        high = length - targets * (2 if interleave else 1)
        last = float(times[row + length - 1]) if length else 0.0
        for i in range(length):
            place = i if i < contexts else min(high - min(i, high) + contexts, 8)
            age = max(last - float(times[row]), 1e-6) / 60
            bucket = int(math.sqrt(age) if name == "sqrt" else math.log(age))
            bucket = min(max(bucket, 0), 11)
            torch.testing.assert_close(got[row], 0.5 * x[row] + pos[place] + ts[bucket])
            row += 1


@needs_triton
@pytest.mark.parametrize(("name", "interleave", "contexts"), GRID)
def test_triton_is_pytorch_with_gradients(name: str, interleave: bool, contexts: int) -> None:
    tensors, times = inputs()
    cases.assert_equal_results(
        lambda kernel, *t: added(kernel, list(t), times, name, interleave, contexts), tensors
    )


@needs_triton
@pytest.mark.parametrize("places", [1, 19, 150])
@pytest.mark.parametrize("contexts", [0, 2, 21])
def test_triton_is_pytorch_where_sequences_are_longer_than_max_seq_len_and_than_their_rows(
    places: int, contexts: int
) -> None:
    lengths = torch.tensor([70, 3, 0, 33, 41])
    starts, targets = cases.starts_of(lengths.tolist()), torch.tensor([2, 3, 0, 0, 41])
    said = lengths + torch.tensor([0, 0, 4, 60, 0])
    times = torch.arange(147, device=DEVICE) * 60

    def added(kernel: HammerKernel, x: Tensor, pos: Tensor, ts: Tensor) -> Tensor:
        return add_timestamp_positional_embeddings(
            0.5, 37, contexts, pos, ts, starts, said.to(DEVICE), x, times, targets.to(DEVICE),
            False, "sqrt", kernel,
        )  # fmt: skip

    cases.assert_equal_results(
        added, [cases.drawn(147, 24), cases.drawn(places, 24, seed=1), cases.drawn(6, 24, seed=2)]
    )


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_sums_of_rows_are_added_up_in_pieces_where_one_number_has_most_of_them(rows: int) -> None:
    index = torch.arange(rows) % 7  # 5 and 6 are left out
    index[rows // 3 :] = 2
    values = cases.drawn(rows, 3).cpu()
    order, starts, ends = in_pieces(index.int(), 5)
    sums = [values[order[a:b]].sum(0) for a, b in pairwise(starts)]
    assert starts.diff().max() <= 256
    expected = torch.zeros(7, 3).index_add(0, index, values)[:5]
    torch.testing.assert_close(of_pieces(torch.stack(sums), ends), expected, rtol=1e-4, atol=1e-4)
