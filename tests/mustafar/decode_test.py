"""Attention over a cache against pruning and dense attention in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mustafar import decode_attention
from mustafar.prune import kept

from tests.common.poison import poison
from tests.mustafar.cases import (
    assert_like_ref,
    assert_right,
    attention,
    dtype_of,
    filled,
    normal,
    pruned,
)

DTYPES = {"cpu": [torch.float32, torch.float16, torch.bfloat16]}
DTYPES["cuda"] = DTYPES["cpu"][1:]


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("groups", [1, 2, 4, 7, 8, 12])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.7, 0.95])
def test_decode_equals_pruning_then_dense_attention(
    device: str, head_dim: int, groups: int, sparsity: float
) -> None:
    lengths, heads = [300, 17, 64], 2
    for dtype in DTYPES[device]:
        cache, k, v = filled(
            lengths, heads, head_dim, device=device, dtype=dtype, block=64,
            k_sparsity=sparsity, v_sparsity=0.95 - sparsity,
        )  # fmt: skip
        q = normal(len(lengths), heads * groups, head_dim, device=device, dtype=dtype, seed=3)
        poison(device)
        got = decode_attention(q, cache)
        for b, length in enumerate(lengths):
            compressed = max(length - 32, 0) // 64 * 64
            exact = attention(
                q[b],
                pruned(k[b, :, :length], kept(head_dim, sparsity), compressed),
                pruned(v[b, :, :length], kept(head_dim, 0.95 - sparsity), compressed),
                head_dim**-0.5,
            )
            assert_right(got[b], exact)


def test_without_sparsity_it_is_dense_attention(device: str) -> None:
    dtype = dtype_of(device)
    cache, k, v = filled(
        [500], 4, 128, device=device, dtype=dtype, k_sparsity=0, v_sparsity=0, block=64
    )
    q = normal(1, 8, 128, device=device, dtype=dtype, seed=3)
    dense = torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)
    assert_right(decode_attention(q, cache), dense[:, :, 0].double())


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 16, 100])
def test_the_number_of_splits_changes_nothing_beyond_rounding(device: str, splits: int) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([900, 35], 2, 128, device=device, dtype=dtype, block=1)
    q = normal(2, 8, 128, device=device, dtype=dtype, seed=3)
    poison(device)
    assert_like_ref(decode_attention(q, cache, splits=splits), q, cache)


def test_large_scores_do_not_overflow(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([200], 1, 64, device=device, dtype=dtype, block=1)
    q = normal(1, 4, 64, device=device, dtype=dtype, seed=3) * 100
    got = decode_attention(q, cache, 1.0)
    assert torch.isfinite(got).all()


def test_an_empty_sequence_gives_zeros(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([40, 0], 2, 64, device=device, dtype=dtype)
    q = normal(2, 4, 64, device=device, dtype=dtype)
    got = decode_attention(q, cache)
    assert (got[1] == 0).all() and (got[0] != 0).any()


def test_a_query_of_four_dimensions_gives_four(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([100, 3], 2, 64, device=device, dtype=dtype)
    q = normal(2, 4, 1, 64, device=device, dtype=dtype)
    assert torch.equal(decode_attention(q, cache), decode_attention(q[:, :, 0], cache)[:, :, None])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=4).filter(max),
    block=st.sampled_from([1, 16, 20, 64, 256]),
    residual=st.sampled_from([0, 5, 32]),
    groups=st.integers(1, 9),
    head_dim=st.sampled_from([64, 96, 128]),
)
def test_any_lengths_and_windows(
    device: str, lengths: list[int], block: int, residual: int, groups: int, head_dim: int
) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled(
        lengths, 1, head_dim, device=device, dtype=dtype, block=block, residual_length=residual
    )
    q = normal(len(lengths), groups, head_dim, device=device, dtype=dtype, seed=3)
    assert_like_ref(decode_attention(q, cache), q, cache)


def test_fake_tensors_and_compilation_know_the_shape(device: str) -> None:
    dtype = dtype_of(device)
    cache, _, _ = filled([50], 2, 64, device=device, dtype=dtype)
    q = normal(1, 4, 64, device=device, dtype=dtype)

    def step(q: torch.Tensor) -> torch.Tensor:
        return torch.ops.mustafar.decode(q, *cache.tensors, 0.125, 0)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q), step(q))
