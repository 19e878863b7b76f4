"""torch.func and forward-mode AD: the right derivative, or an error that says there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func
from torch import Tensor
from torch.autograd import forward_ad

from tests.hstu_attn.cases import make_case, run


def attention(device: str, **options: Any) -> tuple[Any, Callable[..., Tensor]]:
    case = make_case(device=device, window=(-1, 0), **options)
    arguments = case.arguments()

    def call(q: Tensor, k: Tensor, v: Tensor, rab: Tensor | None = None) -> Tensor:
        given = {**arguments, "q": q, "k": k, "v": v, "rab": rab}
        return hstu_attn_varlen_func(**given, has_drab=rab is not None)

    return case, call


def direct(name: str, case: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What the op of this name takes for a causal case: tensors with a derivative, and the rest."""
    packed = (torch.stack((case.q, case.k, case.v), 1),)
    tensors = packed if name.startswith("qkvpacked") else (case.q, case.k, case.v)
    longest_q, longest_k = case.max_seqlen_q, case.max_seqlen_k
    rest = (case.cu_seqlens_q, case.cu_seqlens_k, longest_q, longest_k, longest_q, None, None, 1)
    rest = (*rest, -1, 0, case.alpha, None, False, None, False)
    if name.endswith("_bwd"):
        return (case.dout, *tensors), rest
    return tensors, (*rest, None, None, None, None) if name == "varlen_fwd" else rest


def test_vjp_and_grad_are_the_backward(device: str) -> None:
    case, call = attention(device, rab_heads=2)
    expected = run(case, deterministic=True)
    inputs = (case.q, case.k, case.v, case.rab)
    out, vjp = torch.func.vjp(call, *inputs)
    assert torch.equal(out, expected["out"])
    for name, got in zip(("dq", "dk", "dv", "drab"), vjp(case.dout), strict=True):
        torch.testing.assert_close(got, expected[name], msg=name)

    def loss(q: Tensor) -> Tensor:
        return (call(q, *inputs[1:]) * case.dout).sum()

    torch.testing.assert_close(torch.func.grad(loss)(case.q), expected["dq"])


def test_grad_of_a_direct_call_of_the_op_is_the_backward(device: str) -> None:
    case, _ = attention(device)
    tensors, rest = direct("varlen_fwd", case)

    def loss(q: Tensor) -> Tensor:
        return (torch.ops.hstu_attn.varlen_fwd(q, *tensors[1:], *rest) * case.dout).sum()

    torch.testing.assert_close(torch.func.grad(loss)(case.q), run(case)["dq"])


def test_grad_of_the_packed_form_is_the_backward(device: str) -> None:
    case, _ = attention(device)
    cu, longest = case.cu_seqlens_q, case.max_seqlen_q

    def loss(qkv: Tensor) -> Tensor:
        out = hstu_attn_qkvpacked_func(qkv, cu, cu, longest, longest, causal=True)
        return (out * case.dout).sum()

    got = torch.func.grad(loss)(torch.stack((case.q, case.k, case.v), 1))
    expected = run(case)
    for name, part in zip(("dq", "dk", "dv"), got.unbind(1), strict=True):
        torch.testing.assert_close(part, expected[name], msg=name)


def test_jacrev_holds_the_rows_of_the_backward() -> None:
    case, call = attention("cpu", batch=1, max_k=2, heads=1)
    jacobian = torch.func.jacrev(call)(case.q, case.k, case.v)
    dq = torch.einsum("abc,abcdef->def", case.dout, jacobian)
    torch.testing.assert_close(dq, run(case)["dq"])


def test_vmap_is_a_loop(device: str) -> None:
    case, call = attention(device)
    several = torch.stack((case.q, -case.q))
    got = torch.func.vmap(call, (0, None, None))(several, case.k, case.v)
    for q, out in zip(several, got, strict=True):
        torch.testing.assert_close(out, call(q, case.k, case.v))


NO_FORWARD_MODE = pytest.raises(NotImplementedError, match=r"hstu_attn: .* no forward-mode")


def test_forward_mode_is_refused_by_name(device: str) -> None:
    case, call = attention(device)
    inputs = (case.q, case.k, case.v)
    with NO_FORWARD_MODE:
        torch.func.jvp(call, inputs, inputs)
    with NO_FORWARD_MODE:
        torch.func.jacfwd(call)(*inputs)
    with NO_FORWARD_MODE:
        torch.func.hessian(lambda q: call(q, case.k, case.v).sum())(case.q)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(case.k, case.k)
        with NO_FORWARD_MODE:
            call(case.q, dual, case.v)
        assert torch.equal(call(*inputs), run(case)["out"])  # nothing here has a tangent


def test_compiled_forward_mode_is_refused_by_name() -> None:
    torch._dynamo.reset()
    case, call = attention("cpu")
    inputs = (case.q, case.k, case.v)
    compiled = torch.compile(lambda *x: torch.func.jvp(call, x, x), backend="aot_eager")
    with NO_FORWARD_MODE:
        compiled(*inputs)


@pytest.mark.parametrize("name", ["varlen_fwd", "qkvpacked_fwd", "varlen_bwd", "qkvpacked_bwd"])
def test_a_direct_call_of_an_op_refuses_forward_mode_by_name(device: str, name: str) -> None:
    case, _ = attention(device)
    call = getattr(torch.ops.hstu_attn, name)
    tensors, rest = direct(name, case)
    expected = call(*tensors, *rest)
    for place, tensor in enumerate(tensors):

        def alone(x: Tensor, place: int = place) -> Any:
            return call(*tensors[:place], x, *tensors[place + 1 :], *rest)

        with NO_FORWARD_MODE:
            torch.func.jvp(alone, (tensor,), (tensor,))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(tensor, tensor)
            with NO_FORWARD_MODE:
                alone(dual)
            with NO_FORWARD_MODE, torch.no_grad():
                alone(dual)
            torch.testing.assert_close(alone(tensor), expected)  # nothing here has a tangent
