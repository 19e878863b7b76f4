"""The gradients that a backward sums for each key, against sums in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dynamicemb.cases import tables

# How often a key comes: a chunk of a warp is 32 occurrences, and a key may span many.
KEYS = {
    "distinct": lambda n: torch.arange(n),
    "one": lambda n: torch.zeros(n, dtype=torch.int64),
    "few": lambda n: torch.arange(n) % 5,
    "runs of every length": lambda n: (2 * torch.arange(n)).sqrt().long(),
    "one of nine in ten": lambda n: torch.where(torch.arange(n) % 10 == 0, torch.arange(n), 1),
}


def batch(kind: str, features: int, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """n ids a feature, in bags of any length."""
    ids = torch.cat([KEYS[kind](n)[torch.randperm(n, generator=draw)] for _ in range(features)])
    bags = max(1, n // 6)
    ends = [torch.zeros(1, dtype=torch.int64)]
    for f in range(features):
        inside = torch.randint(0, n + 1, (bags - 1,), generator=draw).sort()[0]
        ends.append(torch.cat([inside, torch.tensor([n])]) + f * n)
    return ids, torch.cat(ends)


def expected(
    t: int,
    dim: int,
    dims: list[int],
    ids: Tensor,
    ends: Tensor,
    weights: Tensor | None,
    pooling: str,
    grad: Tensor,
) -> dict[int, Tensor]:
    """Of table t, whose feature is number t: key -> sum."""
    n, bags = len(ids) // len(dims), (len(ends) - 1) // len(dims)
    sums: dict[int, Tensor] = {}
    for i in range(t * n, (t + 1) * n):
        if pooling == "NONE":
            one = grad[i, :dim]
        else:
            bag = int(torch.searchsorted(ends, i, right=True)) - 1
            begin = sum(dims[:t])
            one = grad[bag - t * bags, begin : begin + dim]
            if pooling == "MEAN":
                one = one / (ends[bag + 1] - ends[bag])
            if weights is not None:
                one = one * weights[i]
        key = int(ids[i])
        sums[key] = sums[key] + one if key in sums else one.clone()
    return sums


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    ("dims", "pooling", "dtype"),
    [
        ([1], "NONE", torch.float32),
        ([3, 100], "SUM", torch.bfloat16),
        ([8, 128, 64], "SUM", torch.float32),
        ([128, 32], "NONE", torch.float16),
        ([128], "MEAN", torch.bfloat16),
        ([256, 4], "SUM", torch.float32),
        ([1024], "NONE", torch.float32),
    ],
)
def test_the_sums_of_each_key_are_those_of_float64(
    device: str, dims: list[int], pooling: str, dtype: Any, kind: str
) -> None:
    draw = torch.Generator().manual_seed(1)
    n = 331
    module = tables(dims, device, pooling, fused=False, output_dtype=dtype)
    ids, ends = batch(kind, len(dims), n, draw)
    weights = None if pooling == "NONE" else torch.rand(len(ids), generator=draw) + 0.5
    given = {} if weights is None else {"per_sample_weights": weights.to(device)}
    if pooling == "NONE":
        ends = torch.arange(len(ids) + 1)
    out = module(ids.to(device), ends.to(device), **given)
    grad = torch.randn(out.shape, generator=draw).to(dtype)
    out.backward(grad.to(device))
    for t, (keys, sums) in enumerate(module.grads()):
        wanted = expected(t, dims[t], dims, ids, ends, weights, pooling, grad.double())
        assert sorted(wanted) == sorted(keys.tolist())
        reference = torch.stack([wanted[key] for key in keys.tolist()])
        torch.testing.assert_close(sums.cpu().double(), reference, rtol=1e-4, atol=1e-4)
