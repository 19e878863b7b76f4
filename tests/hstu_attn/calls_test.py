"""Calls as people write them: causal=True, float32 under autocast, the calls of first examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.hstu_attn.cases import make_case, make_paged


def first_example(device: str, **options: Any) -> tuple[Tensor, Tensor]:
    """Two sequences of 100, four heads of 64, bfloat16: all arguments by position."""
    q, k, v = (torch.randn(200, 4, 64, dtype=torch.bfloat16).to(device) for _ in "qkv")
    cu_seqlens = torch.tensor([0, 100, 200], dtype=torch.int32).to(device)
    return q, hstu_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, 100, 100, **options)


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=["whole", "causal"])
def test_the_first_example_runs_as_written(device: str, options: dict[str, bool]) -> None:
    q, output = first_example(device, **options)
    assert output.shape == q.shape and output.dtype == q.dtype and output.device == q.device
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), [-1, 0]], ids=str)
def test_causal_is_the_causal_window(device: str, window: Any) -> None:
    case = make_case(device=device)
    arguments = case.arguments()
    expected = hstu_attn_varlen_func(**{**arguments, "window_size": (-1, 0)})
    got = hstu_attn_varlen_func(**{**arguments, "window_size": window}, causal=True)
    assert torch.equal(got, expected)
    assert not torch.equal(got, hstu_attn_varlen_func(**arguments, causal=False))
    qkv = torch.stack((case.q, case.k, case.v), 1)
    cu, n = case.cu_seqlens_q, case.max_seqlen_q
    assert torch.equal(hstu_attn_qkvpacked_func(qkv, cu, cu, n, n, causal=True), expected)


def test_causal_beside_another_window_is_refused() -> None:
    arguments = make_case(window=(3, 0)).arguments()
    with pytest.raises(ValueError, match=r"causal=True is window_size=\(-1, 0\).* got \(3, 0\)"):
        hstu_attn_varlen_func(**arguments, causal=True)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_as_it_does_for_torchs_own_attention(
    device: str, dtype: torch.dtype, compiled: bool
) -> None:
    torch._dynamo.reset()
    case = make_case(device=device, dtype=torch.float32, window=(-1, 0), rab_heads=1)
    q = case.q.clone().requires_grad_()
    arguments = case.arguments()

    def layer(q: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device, dtype):
            own = scaled_dot_product_attention(q[None], case.k[None], case.v[None])
            return hstu_attn_varlen_func(**{**arguments, "q": q}), own

    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    out, own = call(q)
    assert out.dtype == own.dtype == dtype
    expected = hstu_attn_varlen_func(**case.cast(dtype).arguments())
    torch.testing.assert_close(out, expected)
    out.backward(case.dout.to(dtype))
    assert q.grad is not None and q.grad.dtype == torch.float32 and q.grad.abs().sum() > 0


def test_autocast_reaches_packed_tensors_and_pages(device: str) -> None:
    case = make_case(device=device, dtype=torch.float32)
    paged = make_paged(device=device, dtype=torch.float32, page_size=16, max_k=40, targets=4)
    cu, n = case.cu_seqlens_q, case.max_seqlen_q
    with torch.autocast(device, torch.bfloat16):
        packed = torch.stack((case.q, case.k, case.v), 1)
        assert hstu_attn_qkvpacked_func(packed, cu, cu, n, n).dtype == torch.bfloat16
        out = hstu_attn_varlen_func(**{**paged.fresh.arguments(), **paged.arguments})
        assert out.dtype == torch.bfloat16


def test_autocast_leaves_float64_alone() -> None:
    case = make_case(dtype=torch.float64)
    expected = hstu_attn_varlen_func(**case.arguments())
    with torch.autocast("cpu"):
        assert torch.equal(hstu_attn_varlen_func(**case.arguments()), expected)
