"""An op completed by field name: its results, its gradients, and how it behaves when compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from python.accel_core.ops import no_gradient, op

LIBRARY = torch.library.Library("accel_core_test", "DEF")
LIBRARY.define("scale(Tensor x, float factor, Tensor? bias, bool square) -> Tensor")
LIBRARY.define("scale_bwd(Tensor dout, Tensor x, float factor) -> Tensor")


def _scale(a: Any) -> Tensor:
    scaled = a.x * a.factor
    return scaled if a.bias is None else scaled + a.bias


def _gradients(a: Any, needed: tuple[bool, ...], dout: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.accel_core_test.scale_bwd(dout, a.x, a.factor)
    return dx, dout.clone() if needed[1] else None


scale = op(
    "accel_core_test",
    "scale",
    cpu=_scale,
    fake=lambda a: a.x.new_empty(a.x.shape),
    backward=_gradients,
    gradients=("x", "bias"),
)
op(
    "accel_core_test",
    "scale_bwd",
    cpu=lambda a: a.dout * a.factor,
    fake=lambda a: a.x.new_empty(a.x.shape),
    backward=no_gradient("scale has no second derivative"),
    gradients=("dout", "x"),
)
X, BIAS = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


def leaf(t: Tensor) -> Tensor:
    return t.clone().requires_grad_()


def test_torch_finds_the_op_well_behaved() -> None:
    torch.library.opcheck(
        torch.ops.accel_core_test.scale.default, (leaf(X), 3.0, leaf(BIAS), False)
    )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradients_go_to_the_arguments_by_name(compiled: bool) -> None:
    torch._dynamo.reset()
    call = torch.compile(scale, fullgraph=True, backend="aot_eager") if compiled else scale
    x, bias = leaf(X), leaf(BIAS)
    out = call(x, 3.0, bias, True)
    assert torch.equal(out, 3 * X + 1)
    out.backward(X)
    assert torch.equal(x.grad, 3 * X) and torch.equal(bias.grad, X)


def test_an_argument_that_wants_none_gets_none() -> None:
    x = leaf(X)
    scale(x, 3.0, BIAS, False).sum().backward()
    assert torch.equal(x.grad, torch.full_like(X, 3)) and BIAS.grad is None
    assert scale(x.detach(), 3.0, BIAS, False).grad_fn is None
    with torch.no_grad():
        assert scale(x, 3.0, None, False).grad_fn is None


def test_saved_tensors_are_torchs_own() -> None:
    """Changing a saved input in place is found, and hooks on saved tensors see them."""
    x, bias = leaf(X), BIAS.clone()
    out = scale(x, 3.0, bias, False)
    bias.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_second_derivative_is_refused_by_name() -> None:
    x = leaf(X)
    (dx,) = torch.autograd.grad(scale(x, 3.0, None, False).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="scale has no second derivative"):
        dx.sum().backward()


def test_a_meta_tensor_among_real_ones_gives_no_empty_result() -> None:
    assert scale(X.to("meta"), 3.0, BIAS.to("meta"), False).is_meta
    with pytest.raises(RuntimeError, match="scale: a tensor on cpu and one on meta"):
        scale(X, 3.0, BIAS.to("meta"), False)
