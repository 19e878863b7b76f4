"""Jagged tensors put together, taken apart, multiplied: PyTorch against loops, Triton too."""

from __future__ import annotations

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import jagged_tensors as ops
from generative_recommenders.ops.pytorch import pt_jagged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import INTERPRETED, needs_triton

LENGTHS = st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=1, max_size=4)


def parts(lengths: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b = (cases.starts_of([pair[i] for pair in lengths]) for i in (0, 1))
    return a, b, cases.drawn(int(a[-1]), 12), cases.drawn(int(b[-1]), 12, seed=1)


def each(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(a.diff().tolist(), b.diff().tolist(), strict=True)
    lengths = list(pairs)
    lefts = left.split([n for n, _ in lengths])
    return list(zip(lefts, right.split([n for _, n in lengths]), strict=True))


@given(LENGTHS, st.integers(0, 2))
@settings(max_examples=30)
def test_pytorch_puts_together_and_takes_apart_sequence_by_sequence(
    lengths: list[tuple[int, int]], prefix: int
) -> None:
    a, b, left, right = parts(lengths)
    expected = torch.cat(
        [t for x, y in each(a, b, left, right) for t in (y[:prefix], x, y[prefix:])]
    )
    got = ops.hstu_concat_l2_embeddings(9, left, a, 9, right, b, prefix)
    assert torch.equal(got, expected)
    if prefix == 0:
        assert torch.equal(
            ops.concat_2D_jagged(18, left, right, offsets_left=a, offsets_right=b), expected
        )
    back = ops.hstu_split_l2_embeddings(18, got, a, b, prefix)
    assert torch.equal(back[0], left) and torch.equal(back[1], right)


@needs_triton
@given(LENGTHS, st.integers(0, 2))
@settings(max_examples=8 if INTERPRETED else 100)
def test_triton_puts_together_and_takes_apart_with_gradients(
    lengths: list[tuple[int, int]], prefix: int
) -> None:
    a, b, left, right = parts(lengths)
    cases.assert_equal_results(
        lambda kernel, x, y: ops.hstu_concat_l2_embeddings(9, x, a, 9, y, b, prefix, kernel),
        [left, right],
    )
    cases.assert_equal_results(
        lambda kernel, x: ops.hstu_split_l2_embeddings(18, x, a, b, prefix, kernel),
        [torch.cat([left, right])],
    )


@needs_triton
@pytest.mark.parametrize("kernel", [HammerKernel.PYTORCH, HammerKernel.TRITON])
def test_a_part_without_offsets_is_dense(kernel: HammerKernel) -> None:
    a, _, left, _ = parts([(3, 2), (2, 2), (5, 2)])
    dense = cases.drawn(12, 12, seed=2)
    fours = cases.starts_of([4, 4, 4])
    expected = ops.concat_2D_jagged(9, left, dense, offsets_left=a, offsets_right=fours)
    got = ops.concat_2D_jagged(9, left, dense, max_len_right=4, offsets_left=a, kernel=kernel)
    assert torch.equal(got, expected)
    back = ops.split_2D_jagged(9, got, max_len_right=4, offsets_left=a, kernel=kernel)
    assert torch.equal(back[0], left) and torch.equal(back[1], dense)
    multirow = ops.concat_2D_jagged_multirow(9, left, dense, a, None, None, 4, kernel)
    assert torch.equal(multirow, expected)


@needs_triton
@pytest.mark.parametrize("columns", [12, 40])
def test_bmm_and_broadcast_add(columns: int) -> None:
    lengths = [5, 0, 20, 9]
    starts = cases.starts_of(lengths)
    inputs = [cases.drawn(34, 24), cases.drawn(4, 24, columns), cases.drawn(4, columns)]
    cases.assert_equal_results(
        lambda kernel, j, d, b: ops.jagged_dense_bmm_broadcast_add(20, starts, j, d, b, kernel),
        inputs,
    )
    got = ops.jagged_dense_bmm_broadcast_add(20, starts, *inputs)
    jagged, dense, bias = inputs
    rows = zip(jagged.split(lengths), dense, bias, strict=True)
    torch.testing.assert_close(got, torch.cat([j @ d + b for j, d, b in rows]))


@needs_triton
def test_other_products_of_jagged_rows() -> None:
    from generative_recommenders.ops.triton import triton_jagged

    starts = cases.starts_of([5, 0, 20, 9])
    jagged, dense = cases.drawn(34, 24), cases.drawn(4, 24, 12)
    for name, longest, inputs in (
        ("jagged_dense_bmm", 8, [jagged, dense]),  # rows beyond 8 are zeros
        ("jagged_dense_broadcast_add", 20, [jagged, cases.drawn(4, 24)]),
    ):

        def call(
            kernel: HammerKernel, *t: Tensor, name: str = name, longest: int = longest
        ) -> Tensor:
            if kernel is HammerKernel.PYTORCH:
                return getattr(pt_jagged, f"pytorch_{name}")(longest, starts, *t)
            return getattr(triton_jagged, f"triton_{name}")(longest, starts, *t)

        cases.assert_equal_results(call, inputs)


@needs_triton
def test_the_last_rows_are_replaced() -> None:
    from generative_recommenders.ops.pytorch.pt_jagged_tensors import (
        pytorch_replace_last_n_with_jagged,
    )
    from generative_recommenders.ops.triton.triton_jagged import triton_concat_2D_jagged

    a, b, left, right = parts([(5, 2), (3, 3), (9, 2)])
    expected = torch.cat([t for x, y in each(a, b, left, right) for t in (x[: len(x) - len(y)], y)])
    assert torch.equal(pytorch_replace_last_n_with_jagged(9, a, left, b, right), expected)
    got = triton_concat_2D_jagged(9, left, right, a, b, is_replace=True)
    assert torch.equal(got, expected)
