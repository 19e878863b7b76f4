"""Bad input: the argument is named, with its value and what is allowed, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mustafar_package
import pytest
import torch
from mustafar import MustafarCache, decode_attention
from mustafar.compression import (
    compress_rows,
    convert_key_batched,
    convert_value_batched,
    expand_rows,
    tiles_to_rows,
)

from tests.mustafar.cases import filled, normal


def cache(**options: Any) -> MustafarCache:
    defaults = {"device": "cpu", "dtype": torch.float32, "batch": 1, "kv_heads": 2}
    return MustafarCache(**(defaults | {"head_dim": 64, "capacity": 100} | options))


X = torch.zeros(1, 64, 64)

WRONG: dict[str, Callable[[], object]] = {
    "head_dim must be one of 64, 96, 128, got 80": lambda: cache(head_dim=80),
    "dtype must be one of .* on cpu, got torch.float64": lambda: cache(dtype=torch.float64),
    "dtype must be one of .* on cuda, got torch.float32": lambda: cache(device="cuda"),
    "k_sparsity must be from 0 to 0.95, got 0.96": lambda: cache(k_sparsity=0.96),
    "v_sparsity must be from 0 to 0.95, got -0.1": lambda: cache(v_sparsity=-0.1),
    "batch must be >= 1, got 0": lambda: cache(batch=0),
    "block must be >= 1, got 0": lambda: cache(block=0),
    "capacity must be >= 1, got 0": lambda: cache(capacity=0),
    "pages must be >= 1, got 0": lambda: cache(pages=0),
    "n must be >= 1, got 0": lambda: compress_rows(X, 0),
    "n must be <= 64, got 65": lambda: compress_rows(X, 65),
    r"x must be \(..., 64, 96 or 128\), got \(1, 64, 80\)": lambda: compress_rows(
        torch.zeros(1, 64, 80), 3
    ),
    "x must be float16, bfloat16 or float32, got torch.int32": lambda: compress_rows(X.int(), 3),
    "inputs must have a multiple of 64 tokens": lambda: convert_key_batched(X[:, :63]),
    "inputs must have a head dim that is a multiple of 64, got 32": lambda: convert_value_batched(
        X[..., :32]
    ),
    "bitmaps must have 3 bits a row, as values, got 0": lambda: expand_rows(
        torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 3)
    ),
    "n must be at least 64, the values of the fullest token, got 5": lambda: tiles_to_rows(
        *convert_key_batched(X + 1), 64, 5, keys=True
    ),
    "B must be": lambda: mustafar_package.mustafar_key_formulation(
        *[torch.zeros(1)] * 4, torch.zeros(2, 8, 64), 64, 64, 3, 1
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_argument_is_refused_by_name_and_value(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_a_cache_of_another_model_is_refused() -> None:
    c, k, v = filled([10], 2, 64, device="cpu", dtype=torch.float32)
    q = torch.zeros(1, 4, 64)
    for wrong, match in (
        (q[:, :3], "a multiple of 2 heads"),
        (q.half(), "q is torch.float16, but the cache is torch.float32"),
        (torch.zeros(1, 4, 96), "head_dim = 64"),
        (torch.zeros(2, 4, 64), "batch = 1"),
        (q.clone().requires_grad_(), "q requires a gradient"),
    ):
        with pytest.raises(ValueError, match=match):
            decode_attention(wrong, c)
    with pytest.raises(ValueError, match="k must be one token"):
        c.append(k, v)
    with pytest.raises(ValueError, match=r"kv_heads = 2.*got \(1, 3, 1, 64\)"):
        c.append(torch.zeros(1, 3, 1, 64), torch.zeros(1, 3, 1, 64))


def test_prefill_after_decode_is_refused_and_changes_nothing() -> None:
    c, k, v = filled([10], 2, 64, device="cpu", dtype=torch.float32)
    before = c.tensors.state.clone()
    with pytest.raises(ValueError, match="prefill needs an empty cache"):
        c.prefill(k, v)
    assert torch.equal(before, c.tensors.state)


def test_tokens_beyond_the_capacity_are_refused_before_anything_is_written() -> None:
    c, k, v = filled([10], 2, 64, device="cpu", dtype=torch.float32, capacity=11)
    token = normal(1, 2, 1, 64, device="cpu", dtype=torch.float32)
    c.append(token, token)
    window = c.tensors.k_window.view(torch.int32).clone()  # bits: what is unwritten may be NaN
    with pytest.raises(ValueError, match="capacity is 11 tokens, 11 are there and 1 more come"):
        c.append(token, token)
    assert torch.equal(window, c.tensors.k_window.view(torch.int32)) and c.lengths.tolist() == [11]
    c.reset()
    with pytest.raises(ValueError, match="lengths must be <= capacity = 11, got 12"):
        c.prefill(torch.zeros(1, 2, 12, 64), torch.zeros(1, 2, 12, 64))
    with pytest.raises(ValueError, match=r"lengths from starts must lie within 10, got 5 \+ 6"):
        c.prefill(k, v, lengths=[6], starts=[5])


def test_bitmaps_and_values_that_disagree_are_refused_on_a_cpu() -> None:
    c, _, _ = filled([100], 2, 64, device="cpu", dtype=torch.float32, block=16)
    c.tensors.k_bitmaps[0, 0, 3] = 0
    with pytest.raises(RuntimeError, match="a bitmap of k has 0 bits, its token 21 values"):
        decode_attention(torch.zeros(1, 4, 64), c)


def test_bitmaps_and_values_that_disagree_are_refused_on_a_gpu_where_asked(gpu: str) -> None:
    c, _, _ = filled([100], 2, 64, device=gpu, dtype=torch.float16, block=16)
    c.tensors.v_bitmaps[0, 0, 3] = 0
    with pytest.raises(RuntimeError, match="a bitmap of v has 0 bits, its token 21 values"):
        decode_attention(torch.zeros(1, 4, 64, device=gpu, dtype=torch.float16), c, check=True)


def test_the_ops_refuse_by_themselves_what_would_be_read_wrongly() -> None:
    c, _, _ = filled([40], 2, 64, device="cpu", dtype=torch.float32, block=8)
    q = torch.zeros(1, 4, 64)
    t = c.tensors
    for wrong, match in (
        (t._replace(state=t.state[:, :2].contiguous()), r"state must be \(batch, 4\)"),
        (t._replace(k_values=t.k_values[:, :1].contiguous()), "k_values must be"),
        (t._replace(v_bitmaps=t.v_bitmaps[:0]), "bitmaps must be"),
        (t._replace(v_window=t.v_window[:, :, 1:].contiguous()), "v_window must have the shape"),
    ):
        with pytest.raises(RuntimeError, match=match):
            torch.ops.mustafar.decode(q, *wrong, 1.0, 0)
    with pytest.raises(RuntimeError, match="scale must be a finite float32, got inf"):
        torch.ops.mustafar.decode(q, *t, float("inf"), 0)
