"""Attention of random jagged batches, forward and backward, against PyTorch, by kernels of Triton
that are compiled here and by those of the wheel. Some by default; a thousand of each with
HSTU_TRITON_BATCHES=1000."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, INTERPRETED, needs_triton

BATCHES = int(os.environ.get("HSTU_TRITON_BATCHES", "4" if INTERPRETED else "50"))
LONGEST = 24 if INTERPRETED else 700
# Of q and v, in turn.
PAIRS = [(16, 25), (25, 16)]
if not INTERPRETED:
    PAIRS += [(32, 32), (50, 50), (64, 64), (64, 128), (128, 64), (128, 128), (256, 256)]
COMPILED = [(d, d) for d in (32, 64, 128, 256)]  # the wheel's


def drawn_case(
    seed: int, pairs: list[tuple[int, int]]
) -> tuple[list[int], int, tuple[int, int], dict[str, Any]]:
    """Lengths, N, head dims and masks."""
    rng = random.Random(seed)
    lengths = [rng.choice((0, 1, rng.randint(0, LONGEST))) for _ in range(rng.randint(1, 5))]
    lengths.append(rng.randint(1, LONGEST))
    options: dict[str, Any] = {"sort_by_length": rng.random() < 0.5}
    if rng.random() < 0.5:
        targets = [rng.randint(0, n) for n in lengths]
        options["num_targets"] = torch.tensor(targets, device=DEVICE)
    if rng.random() < 0.5:
        options["max_attn_len"] = rng.randint(1, LONGEST)
        options["min_full_attn_seq_len"] = rng.choice((0, rng.randint(1, LONGEST)))
    if rng.random() < 0.5:
        options["contextual_seq_len"] = rng.randint(1, 8)
    longest = max(max(lengths) + rng.choice((0, 0, 3, -3)), 1)
    return lengths, longest, pairs[seed % len(pairs)], options


def check(
    kernel: HammerKernel, seed: int, pairs: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    lengths, longest, (dim, dim_v), options = drawn_case(seed, pairs)
    starts = cases.starts_of(lengths)

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_mha(longest, 0.3, q, k, v, starts, kernel=kernel, **options)

    sizes = (dim, dim, dim_v)
    qkv = [cases.drawn(sum(lengths), 2, d, dtype=dtype, seed=i) for i, d in enumerate(sizes)]
    cases.assert_equal_results(attention, qkv, kernel)


@needs_triton
@pytest.mark.parametrize("seed", range(BATCHES))
def test_a_random_batch_is_that_of_pytorch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:  # each way of walking blocks; on a GPU the table has all of them
        from generative_recommenders.ops.triton import triton_hstu_attention
        from generative_recommenders.ops.triton._attention_configs import Config

        blocks = Config(16, 16, 1, 1, seed % 3)
        monkeypatch.setattr(triton_hstu_attention, "configuration", lambda *_: blocks)
    exact = INTERPRETED or seed // len(PAIRS) % 2
    check(HammerKernel.TRITON, seed, PAIRS, torch.float32 if exact else torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(BATCHES))
def test_a_random_batch_by_compiled_kernels_is_that_of_pytorch(seed: int) -> None:
    dtype = (torch.bfloat16, torch.float16)[seed // len(COMPILED) % 2]
    check(HammerKernel.TRITON_CC, seed, COMPILED, dtype)
