"""HSTU attention with tensor descriptors: the same results, whatever the strides."""

from __future__ import annotations

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import delta_hstu_mha, hstu_mha
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import needs_triton
from tests.hstu_triton.hstu_attention_test import MASKS, mask_of, qkv

pytestmark = needs_triton


@pytest.mark.parametrize("mask", MASKS)
def test_descriptors_change_nothing(mask: str) -> None:
    lengths = [17, 0, 25]
    starts = cases.starts_of(lengths)
    options = mask_of(mask, lengths)

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tma = kernel is HammerKernel.TRITON
        return hstu_mha(25, 0.3, q, k, v, starts, kernel=kernel, enable_tma=tma, **options)

    cases.assert_equal_results(attention, qkv(42, 2, 16, 16))


def test_strides_that_a_descriptor_does_not_allow_go_by_pointers() -> None:
    starts = cases.starts_of([17, 9])
    whole = cases.drawn(26, 1, 3 * 16 + 1)  # rows of 49 numbers: 196 bytes
    q, k, v = (whole[..., i * 16 + 1 : i * 16 + 17] for i in range(3))
    options = {"kernel": HammerKernel.TRITON, "enable_tma": True}
    got = hstu_mha(17, 0.3, q, k, v, starts, **options)
    torch.testing.assert_close(got, hstu_mha(17, 0.3, q, k, v, starts), rtol=2e-5, atol=2e-5)


def test_the_last_rows_alone_by_descriptors() -> None:
    starts = cases.starts_of([20, 7])
    q, k, v = cases.drawn(8, 2, 16), *qkv(27, 2, 16, 16)[1:]
    expected = delta_hstu_mha(20, 0.3, q, k, v, starts)
    options = {"kernel": HammerKernel.TRITON, "enable_tma": True}
    got = delta_hstu_mha(20, 0.3, q, k, v, starts, **options)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)
