"""What stands around attention: Triton is PyTorch, PyTorch is the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_compute import (
    hstu_compute_output,
    hstu_compute_uqvk,
    hstu_preprocess_and_attention,
)
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

ROWS, HEADS, DIM, E = 19, 2, 24, 10
# concat_u, concat_x, activation of u, group norm
KINDS = [
    (True, True, "none", False),
    (False, False, "silu", False),
    (True, False, "sigmoid", False),
    (False, True, "none", False),
    (True, True, "none", True),
    (False, False, "none", True),
]


def output_inputs(concat_u: bool, concat_x: bool, group_norm: bool) -> list[Tensor]:
    wide = HEADS * DIM
    size = HEADS if group_norm else wide
    shapes = [(ROWS, wide), (ROWS, wide), (ROWS, E), (size,), (size,)]
    shapes.append((wide * (1 + concat_u + concat_x), E))
    return [cases.drawn(*shape, seed=i) for i, shape in enumerate(shapes)]


@needs_triton
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_compute_output_by_triton_is_pytorch(
    kind: tuple[bool, bool, str, bool], recompute: bool
) -> None:
    concat_u, concat_x, act, group = kind

    def output(kernel: HammerKernel, *t: Tensor) -> Tensor:
        attn, u, x, weight, bias, out_weight = t
        return hstu_compute_output(
            attn, u, x, weight, bias, 1e-6, out_weight, HEADS, DIM, 0.3, False, concat_u,
            concat_x, act, group, recompute, kernel,
        )  # fmt: skip

    cases.assert_equal_results(output, output_inputs(concat_u, concat_x, group))


def test_compute_output_is_the_formula() -> None:
    attn, u, x, weight, bias, out_weight = output_inputs(True, True, False)
    got = hstu_compute_output(
        attn, u, x, weight, bias, 1e-6, out_weight, HEADS, DIM, 0.0, True, True, True, "sigmoid",
        False, False,
    )  # fmt: skip
    normed = (attn - attn.mean(1, keepdim=True)) / (attn.var(1, False)[:, None] + 1e-6).sqrt()
    y = torch.sigmoid(u) * (normed * weight + bias)
    torch.testing.assert_close(got, x + torch.cat([u, attn, y], 1) @ out_weight)


@needs_triton
def test_dropout_keeps_its_share_scales_it_and_is_the_same_in_the_backward() -> None:
    from generative_recommenders.ops.triton.triton_hstu_linear import triton_norm_mul_dropout

    x, u = cases.drawn(64, 32), torch.ones(64, 32, device=DEVICE)
    weight, bias = torch.ones(32, device=DEVICE), torch.zeros(32, device=DEVICE)

    def dropped(ratio: float, seed: int | None, u: Tensor = u) -> Tensor:
        return triton_norm_mul_dropout(x, u, weight, bias, 1e-6, ratio, True, seed=seed)

    whole, first, again, other = (
        dropped(0.0, 0),
        dropped(0.25, 5),
        dropped(0.25, 5),
        dropped(0.25, 6),
    )
    kept = first != 0
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(first[kept], whole[kept] / 0.75, rtol=1e-5, atol=1e-5)
    assert abs(kept.float().mean().item() - 0.75) < 0.05
    leaf = u.clone().requires_grad_()
    dropped(0.25, 5, leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, first, rtol=1e-5, atol=1e-5)  # d(u y) / du = y
    one, two = (dropped(0.5, None) for _ in range(2))
    assert not torch.equal(one, two)


def uvqk_inputs(dim: int, dim_v: int) -> list[Tensor]:
    columns = 2 * HEADS * (dim + dim_v)
    shapes = [(34, E), (E,), (E,), (E, columns), (columns,)]
    return [cases.drawn(*shape, seed=i) * 0.5 for i, shape in enumerate(shapes)]


def test_uqvk_are_slices_of_the_projection_in_the_order_u_v_q_k() -> None:
    x, weight, bias, w, b = uvqk_inputs(3, 5)
    u, q, k, v = hstu_compute_uqvk(x, weight, bias, 1e-6, HEADS, 3, 5, w, b)
    uvqk = F.layer_norm(x, (E,), weight, bias, 1e-6) @ w + b
    torch.testing.assert_close(u, F.silu(uvqk[:, :10]))
    torch.testing.assert_close(v, uvqk[:, 10:20].reshape(34, 2, 5))
    torch.testing.assert_close(q, uvqk[:, 20:26].reshape(34, 2, 3))
    torch.testing.assert_close(k, uvqk[:, 26:].reshape(34, 2, 3))


@needs_triton
@pytest.mark.parametrize("recompute", [(False, False), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("with_targets", [False, True])
def test_preprocess_and_attention_by_triton_is_pytorch(
    with_targets: bool, recompute: tuple[bool, bool]
) -> None:
    starts = cases.starts_of([5, 0, 20, 9])
    targets = torch.tensor([1, 0, 4, 2], device=DEVICE) if with_targets else None

    def whole(kernel: HammerKernel, *t: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, bias, w, b = t
        u, attention, _, _ = hstu_preprocess_and_attention(
            x, weight, bias, 1e-6, HEADS, 16, 32, w, b, 20, starts, 0.25, True, targets, 5, 2,
            *recompute, True, False, kernel, False,
        )  # fmt: skip
        return u, attention

    cases.assert_equal_results(whole, uvqk_inputs(16, 32), scale=5)


@needs_triton
def test_prefill_returns_keys_and_values() -> None:
    starts = cases.starts_of([5, 0, 20, 9])
    x, weight, bias, w, b = uvqk_inputs(16, 16)
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        _, _, k, v = hstu_preprocess_and_attention(
            x, weight, bias, 1e-6, HEADS, 16, 16, w, b, 20, starts, 0.25, True, None, 0, 0, False,
            False, False, True, kernel,
        )  # fmt: skip
        assert k is not None and v is not None
        _, _, expected_k, expected_v = hstu_compute_uqvk(x, weight, bias, 1e-6, HEADS, 16, 16, w, b)
        torch.testing.assert_close(k, expected_k, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(v, expected_v, rtol=1e-4, atol=1e-4)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("silu", [24, 80], ids=["u", "all"])
def test_the_kernels_of_bias_and_silu_are_pytorch(silu: int, dtype: torch.dtype) -> None:
    from generative_recommenders.ops.triton._uvqk_kernels import _bias_silu_bwd, _bias_silu_fwd

    values, keys, programs = 24, 16, 2
    columns = 2 * (values + keys)
    x, b = cases.drawn(ROWS, columns, dtype=dtype), cases.drawn(columns, dtype=dtype)
    blocks = {"BLOCK_D": 16, "BLOCK_N": 8}
    y = torch.full_like(x, torch.nan)
    rest = (x.stride(0), y.stride(0), ROWS, columns, silu)
    _bias_silu_fwd[(3, 5)](x, b, y, *rest, **blocks)
    leaves = [t.clone().requires_grad_() for t in (x, b)]
    z = leaves[0] + leaves[1]
    expected = torch.cat([F.silu(z[:, :silu]), z[:, silu:]], 1)
    rtol, atol = cases.TOLERANCE[dtype]
    torch.testing.assert_close(y, expected, rtol=rtol, atol=atol)

    parts = [cases.drawn(ROWS, n, dtype=dtype, seed=n) for n in (values, values, keys, keys)]
    expected.backward(torch.cat(parts, 1))
    dx = torch.full_like(x, torch.nan)
    sums = torch.full((programs, columns), torch.nan, device=DEVICE)
    strides = [t.stride(0) for t in (*parts, x, dx)]
    _bias_silu_bwd[(programs, 2 * 2 + 2 * 1)](
        *parts, x, b, dx, sums, *strides, ROWS, 16, values, keys, silu, **blocks
    )
    assert leaves[0].grad is not None and leaves[1].grad is not None
    torch.testing.assert_close(dx, leaves[0].grad, rtol=rtol, atol=atol)
    torch.testing.assert_close(sums.sum(0).to(dtype), leaves[1].grad, rtol=rtol, atol=8 * atol)
