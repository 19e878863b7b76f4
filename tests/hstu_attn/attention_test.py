"""hstu_attn_varlen_func and hstu_attn_qkvpacked_func, feature by feature, on CPU and GPU."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func, ref
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.common.poison import poison
from tests.hstu_attn.cases import (
    MASKS,
    Case,
    assert_right,
    draw_case,
    make_case,
    make_paged,
    reference,
    run,
)


def check(case: Case, **extra: Any) -> None:
    poison(case.q.device.type)
    assert_right(run(case, **extra), case)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("max_q", [None, 40], ids=["self", "delta_q"])
@pytest.mark.parametrize("max_k", [150, 400])
def test_every_mask(device: str, mask: str, max_q: int | None, max_k: int) -> None:
    check(make_case(device=device, max_k=max_k, max_q=max_q, **MASKS[mask]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [32, 64, 128, 256])
def test_every_head_dim_and_dtype(device: str, dim: int, dtype: torch.dtype) -> None:
    check(make_case(device=device, dtype=dtype, dim=dim, max_k=140, window=(-1, 0), targets=20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cpu_also_takes_full_precision(dtype: torch.dtype) -> None:
    case = make_case(dtype=dtype, window=(-1, 0))
    assert_right(run(case), case)


@pytest.mark.parametrize(("heads", "heads_k"), [(1, 1), (4, 1), (4, 2), (6, 3)])
def test_grouped_heads(device: str, heads: int, heads_k: int) -> None:
    check(make_case(device=device, heads=heads, heads_k=heads_k, max_k=90, window=(-1, 0)))


@pytest.mark.parametrize("rab_heads", [1, 4])
@pytest.mark.parametrize("max_k", [64, 99])
@pytest.mark.parametrize("mask", ["none", "causal", "local", "context_target", "func5"])
def test_bias_and_its_gradient(device: str, rab_heads: int, max_k: int, mask: str) -> None:
    check(
        make_case(device=device, heads=4, max_k=max_k, max_q=50, rab_heads=rab_heads, **MASKS[mask])
    )


def test_bias_without_has_drab_has_no_gradient(device: str) -> None:
    case = make_case(device=device, rab_heads=1, window=(-1, 0))
    assert case.rab is not None
    rab = case.rab.clone().requires_grad_()
    q = case.q.clone().requires_grad_()
    hstu_attn_varlen_func(**{**case.arguments(), "q": q, "rab": rab}).sum().backward()
    assert rab.grad is None and q.grad is not None
    assert_right(run(case, has_drab=False), case)


def test_has_drab_with_a_bias_that_needs_no_gradient(device: str) -> None:
    case = make_case(device=device, rab_heads=2, window=(-1, 0))
    q = case.q.clone().requires_grad_()
    hstu_attn_varlen_func(**{**case.arguments(), "q": q}, has_drab=True).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("alpha", [1.0, 0.1, -0.5, 0.0])
def test_alpha(device: str, alpha: float) -> None:
    check(make_case(device=device, alpha=alpha, rab_heads=1, max_k=50))


def test_the_divisor_is_max_seqlen_q_or_scaling_seqlen(device: str) -> None:
    case = make_case(device=device, dtype=torch.bfloat16, window=(-1, 0), max_k=50)
    by_default = run(replace(case, max_seqlen_q=64, max_seqlen_k=64))["out"]
    explicit = run(replace(case, scaling_seqlen=64))["out"]
    assert torch.equal(by_default, explicit)
    check(replace(case, scaling_seqlen=7))


def test_announced_lengths_may_be_larger_than_the_longest(device: str) -> None:
    check(make_case(device=device, slack=200, max_k=77, rab_heads=1, window=(-1, 0)))


@pytest.mark.parametrize("mask", ["none", "causal", "target"])
def test_empty_sequences_give_nothing_and_disturb_nothing(device: str, mask: str) -> None:
    check(make_case(device=device, batch=7, empties=True, max_k=70, **MASKS[mask]))


def test_keys_without_queries_get_zero_gradients(device: str) -> None:
    case = make_case(device=device, max_k=60, max_q=30, window=(-1, 0), rab_heads=1)
    q_lens = torch.diff(case.cu_seqlens_q).tolist()
    kept = [0, q_lens[1], 0]
    rows = slice(q_lens[0], q_lens[0] + q_lens[1])
    sums = torch.tensor([0, *kept]).cumsum(0).to(device, torch.int32)
    case = replace(case, q=case.q[rows], cu_seqlens_q=sums)
    poison(device)
    got = run(case)
    assert_right(got, case)
    first_k = int(case.cu_seqlens_k[1])
    assert (got["dk"][:first_k] == 0).all() and (got["dv"][:first_k] == 0).all()


def test_one_row_and_one_column(device: str) -> None:
    check(make_case(device=device, batch=5, max_k=1, window=(-1, 0)))


def test_fully_masked_rows_are_zero(device: str) -> None:
    case = make_case(device=device, batch=2, max_k=40, n_func=3)
    assert case.func is not None
    func = case.func.clone()
    func[:, :, ::2] = 0
    got = run(replace(case, func=func))
    assert (got["out"][::2] == 0).all() and (got["dq"][::2] == 0).all()
    assert (got["out"][1::2] != 0).any()


def test_no_columns_give_zeros(device: str) -> None:
    case = make_case(device=device, batch=2)
    zero = torch.zeros(3, dtype=torch.int32, device=device)
    empty = replace(case, k=case.k[:0], v=case.v[:0], cu_seqlens_q=zero, cu_seqlens_k=zero)
    poison(device)
    got = run(empty)
    assert got["out"].shape == case.q.shape and (got["out"] == 0).all()
    assert (got["dq"] == 0).all() and got["dk"].shape == (0, 2, 32)


def test_no_sequences_give_an_empty_output(device: str) -> None:
    case = make_case(device=device)
    zero = torch.zeros(1, dtype=torch.int32, device=device)
    none = replace(
        case, q=case.q[:0], k=case.k[:0], v=case.v[:0], cu_seqlens_q=zero, cu_seqlens_k=zero
    )
    got = run(replace(none, max_seqlen_q=0, max_seqlen_k=0))
    assert got["out"].shape == (0, 2, 32) and got["dq"].shape == (0, 2, 32)


def test_slices_of_a_packed_tensor(device: str) -> None:
    case = make_case(device=device, max_k=90, window=(-1, 0))
    packed = torch.stack([case.q, case.k, case.v], dim=1)
    sliced = replace(case, q=packed[:, 0], k=packed[:, 1], v=packed[:, 2])
    assert not sliced.q.is_contiguous()
    check(sliced)
    side_by_side = torch.cat([case.q, case.k, case.v], dim=2)
    q, k, v = side_by_side.split(32, dim=2)
    check(replace(case, q=q, k=k, v=v))


def test_strides_that_no_kernel_can_read_directly(device: str) -> None:
    case = make_case(device=device, max_k=60, window=(-1, 0))
    wide = torch.zeros(case.q.shape[0], 2, 35, dtype=case.q.dtype, device=device)
    wide[:, :, 1:33] = case.q
    check(replace(case, q=wide[:, :, 1:33]))


def test_a_broadcast_gradient_of_the_output(device: str) -> None:
    case = make_case(device=device, dtype=torch.bfloat16, max_k=60, window=(-1, 0))
    q = case.q.clone().requires_grad_()
    hstu_attn_varlen_func(**{**case.arguments(), "q": q}).sum().backward()
    expected, *_ = torch.autograd.grad(
        hstu_attn_varlen_func(**{**case.arguments(), "q": q}), q, torch.ones_like(q)
    )
    torch.testing.assert_close(q.grad, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("padding", [0, 1, 256])
def test_func_may_be_padded_or_not(device: str, padding: int) -> None:
    case = make_case(device=device, max_k=70, n_func=3)
    assert case.func is not None
    padded = torch.nn.functional.pad(case.func, (0, padding), value=5)
    check(replace(case, func=padded))


def test_func_may_be_a_slice(device: str) -> None:
    case = make_case(device=device, max_k=70, n_func=3)
    assert case.func is not None
    wide = torch.nn.functional.pad(case.func, (3, 2))
    total = case.q.shape[0]
    check(replace(case, func=wide[:, :, 3 : 3 + total]))


def test_a_list_as_window_size(device: str) -> None:
    case = make_case(device=device, max_k=40, window=(-1, 0), targets=4)
    extra = {**case.arguments(), "window_size": [-1, 0]}
    assert torch.equal(hstu_attn_varlen_func(**extra), run(case)["out"])


@pytest.mark.parametrize("options", [{}, {"rab_heads": 1}, {"rab_heads": 2}, {"targets": 20}])
def test_packed_is_the_same_attention(device: str, options: dict[str, Any]) -> None:
    case = make_case(device=device, max_k=90, window=(-1, 0), **options)
    poison(device)
    packed = torch.stack([case.q, case.k, case.v], dim=1).requires_grad_()
    arguments = case.arguments()
    for name in ("q", "k", "v"):
        del arguments[name]
    rab = arguments["rab"]
    if rab is not None:
        arguments["rab"] = rab = rab.clone().requires_grad_()
    out = hstu_attn_qkvpacked_func(packed, **arguments, has_drab=rab is not None)
    out.backward(case.dout)
    assert packed.grad is not None and packed.grad.shape == packed.shape
    dq, dk, dv = packed.grad.unbind(1)
    got = {"out": out.detach(), "dq": dq, "dk": dk, "dv": dv}
    if rab is not None:
        assert rab.grad is not None
        got["drab"] = rab.grad
    assert_right(got, case)


def test_signatures_are_those_of_the_ampere_interface() -> None:
    varlen = (
        "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k num_contexts num_targets "
        "target_group_size window_size alpha rab has_drab kv_cache page_offsets page_ids "
        "last_page_lens cu_seqlens_t func scaling_seqlen"
    ).split()
    packed = (
        "qkv cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k num_contexts num_targets "
        "target_group_size window_size alpha rab has_drab func scaling_seqlen"
    ).split()
    for function, names in ((hstu_attn_varlen_func, varlen), (hstu_attn_qkvpacked_func, packed)):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == [*names, "deterministic", "causal"]
        for own in ("deterministic", "causal"):
            assert parameters[own].kind is inspect.Parameter.KEYWORD_ONLY
        defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        expected = {"target_group_size": 1, "window_size": (-1, -1), "alpha": 1.0}
        expected |= {"has_drab": False, "scaling_seqlen": -1}
        expected |= {"deterministic": False, "causal": False}
        for name, value in defaults.items():
            assert value == expected.get(name), name


@pytest.mark.parametrize("page_size", [16, 32, 48, 64, 100, 128, 256])
def test_paged_history(device: str, page_size: int) -> None:
    paged = make_paged(device=device, page_size=page_size, max_k=300, max_q=70, targets=20)
    poison(device)
    with torch.no_grad():
        out = hstu_attn_varlen_func(**paged.fresh.arguments(), **paged.arguments)
    assert_right({"out": out}, paged.dense)


@pytest.mark.parametrize("dim", [32, 64, 128, 256])
def test_paged_head_dims(device: str, dim: int) -> None:
    paged = make_paged(device=device, page_size=32, dim=dim, max_k=150, max_q=40, targets=20)
    out = hstu_attn_varlen_func(**paged.fresh.arguments(), **paged.arguments)
    assert_right({"out": out}, paged.dense)


@pytest.mark.parametrize(
    "options",
    [
        {"targets": 0},
        {"targets": 33, "group": 5},
        {"contexts": 9, "targets": 8},
        {"targets": 5, "heads": 4, "heads_k": 2},
        {"targets": 5, "empties": True, "batch": 7},
        {"targets": 5, "rab_heads": 1},
        {"targets": 5, "max_q": 300},
    ],
    ids=lambda o: "_".join(o),
)
def test_paged_with_every_mask(device: str, options: dict[str, Any]) -> None:
    options = {"max_q": 30, "max_k": 150, **options}
    paged = make_paged(device=device, page_size=32, **options)
    out = hstu_attn_varlen_func(**paged.fresh.arguments(), **paged.arguments)
    assert_right({"out": out}, paged.dense)


def test_paged_targets_as_prefix_sums(device: str) -> None:
    paged = make_paged(device=device, page_size=16, max_k=50, max_q=9, targets=6)
    arguments = {**paged.fresh.arguments(), **paged.arguments}
    targets = paged.dense.num_targets
    assert targets is not None
    sums = torch.nn.functional.pad(targets.cumsum(0), (1, 0)).int()
    expected = hstu_attn_varlen_func(**arguments)
    both = hstu_attn_varlen_func(**arguments, cu_seqlens_t=sums)
    alone = hstu_attn_varlen_func(**{**arguments, "num_targets": None}, cu_seqlens_t=sums)
    assert torch.equal(both, expected) and torch.equal(alone, expected)


def test_paged_has_no_backward(device: str) -> None:
    paged = make_paged(device=device, page_size=16, max_k=50, max_q=9, targets=6)
    q = paged.fresh.q.clone().requires_grad_()
    out = hstu_attn_varlen_func(**{**paged.fresh.arguments(), "q": q}, **paged.arguments)
    with pytest.raises(NotImplementedError, match=r"kv_cache.*no backward"):
        out.sum().backward()


def test_there_is_no_second_derivative(device: str) -> None:
    case = make_case(device=device)
    q = case.q.clone().requires_grad_()
    out = hstu_attn_varlen_func(**{**case.arguments(), "q": q})
    (dq,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        dq.sum().backward()


def test_inputs_are_left_alone(device: str) -> None:
    case = make_case(device=device, rab_heads=1, n_func=3, max_k=40)
    before = {n: x.clone() for n, x in case.arguments().items() if isinstance(x, torch.Tensor)}
    run(case)
    for name, value in before.items():
        assert torch.equal(value, getattr(case, name)), name


@pytest.mark.parametrize("options", [{}, {"rab_heads": 1}, {"targets": 20, "contexts": 6}])
def test_deterministic_gradients_are_bit_equal(device: str, options: dict[str, Any]) -> None:
    case = make_case(device=device, batch=6, max_k=300, window=(-1, 0), **options)
    first = run(case, deterministic=True)
    assert_right(first, case)
    for _ in range(3):
        for name, value in run(case, deterministic=True).items():
            assert torch.equal(value, first[name]), name


@settings(max_examples=25)
@given(st.data())
def test_random_problems_on_the_cpu(data: st.DataObject) -> None:
    check(draw_case("cpu", data))


def test_cpu_attention_is_the_reference() -> None:
    case = make_case(window=(-1, 0), targets=4)
    assert torch.equal(run(case)["out"], reference(case)["out"])
    assert ref.compute_dtype(torch.bfloat16) is torch.float32
