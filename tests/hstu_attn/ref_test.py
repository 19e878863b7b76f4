"""The reference against the formulas, written as loops over single positions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hstu_attn import ref
from torch import Tensor

from tests.hstu_attn.cases import SMALL_MASKS as MASKS
from tests.hstu_attn.cases import Case, make_case, make_paged, reference


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def loops(case: Case) -> Tensor:
    """o_i = sum_j silu(alpha * (q_i . k_j + rab_ij)) v_j / N over the visible j."""
    out = torch.zeros_like(case.q)
    starts_q, starts_k = case.cu_seqlens_q.tolist(), case.cu_seqlens_k.tolist()
    group = case.q.shape[1] // case.k.shape[1]
    for b in range(len(starts_q) - 1):
        q_len, k_len = starts_q[b + 1] - starts_q[b], starts_k[b + 1] - starts_k[b]
        contexts = int(case.num_contexts[b]) if case.num_contexts is not None else 0
        targets = int(case.num_targets[b]) if case.num_targets is not None else 0
        history_end = k_len - targets
        for h in range(case.q.shape[1]):
            for r in range(q_len):
                row, i = starts_q[b] + r, r + k_len - q_len
                for j in range(k_len):
                    if case.func is not None:
                        f = [0, *case.func[0, :, row].tolist()]
                        seen = any(f[n] <= j < f[n + 1] for n in range(0, len(f) - 1, 2))
                    elif i >= history_end and j >= history_end:
                        size = case.target_group_size
                        same = (i - history_end) // size == (j - history_end) // size
                        seen = same and j <= i
                    else:
                        left, right = case.window_size
                        seen = (left < 0 or i - j <= left) and (right < 0 or j - i <= right)
                        seen = seen or (i < contexts and j < history_end)
                    if not seen:
                        continue
                    column = starts_k[b] + j
                    score = float(case.q[row, h] @ case.k[column, h // group])
                    if case.rab is not None:
                        score += float(case.rab[b, h if case.rab.shape[1] > 1 else 0, i, j])
                    p = silu(case.alpha * score) / case.n
                    out[row, h] += p * case.v[column, h // group]
    return out


def forward(case: Case) -> Tensor:
    return reference(case)["out"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("max_q", [None, 4], ids=["all_rows", "last_rows"])
def test_forward_is_the_formula(mask: str, max_q: int | None) -> None:
    case = make_case(
        dtype=torch.float64,
        dim=4,
        max_k=6,
        max_q=max_q,
        alpha=0.7,
        empties=True,
        **MASKS[mask],
    )
    torch.testing.assert_close(forward(case), loops(case))


@pytest.mark.parametrize("rab_heads", [1, 4])
def test_bias_and_grouped_heads_are_the_formula(rab_heads: int) -> None:
    case = make_case(
        dtype=torch.float64,
        dim=4,
        heads=4,
        heads_k=2,
        max_k=5,
        max_q=3,
        window=(-1, 0),
        targets=2,
        rab_heads=rab_heads,
        alpha=0.3,
        scaling_seqlen=11,
        slack=2,
    )
    torch.testing.assert_close(forward(case), loops(case))


def test_one_number_computed_by_hand() -> None:
    q = torch.tensor([[[2.0, 0.0]]])
    k = torch.tensor([[[0.5, 9.0]]])
    v = torch.tensor([[[3.0, -1.0]]])
    cu = torch.tensor([0, 1], dtype=torch.int32)
    out = ref.varlen_fwd(q, k, v, cu, cu, 4)
    p = 1 / (1 + math.exp(-1)) / 4  # silu(2 * 0.5) / N
    torch.testing.assert_close(out, torch.tensor([[[3 * p, -p]]]))


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_are_those_of_finite_differences(mask: str) -> None:
    case = make_case(
        dtype=torch.float64,
        dim=3,
        heads=2,
        batch=2,
        max_k=3,
        max_q=2,
        rab_heads=1,
        **MASKS[mask],
    )

    def f(q: Tensor, k: Tensor, v: Tensor, rab: Tensor) -> Tensor:
        return ref.varlen_fwd(
            q,
            k,
            v,
            case.cu_seqlens_q,
            case.cu_seqlens_k,
            case.n,
            **case.mask(),
            rab=rab,
        )

    assert case.rab is not None
    leaves = [x.clone().requires_grad_() for x in (case.q, case.k, case.v, case.rab)]
    assert torch.autograd.gradcheck(f, leaves)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rab_heads", [0, 1, 4])
def test_the_explicit_backward_is_autograd_of_the_forward(mask: str, rab_heads: int) -> None:
    case = make_case(
        dtype=torch.float64,
        dim=8,
        heads=4,
        heads_k=2,
        max_k=9,
        max_q=7,
        alpha=0.4,
        rab_heads=rab_heads,
        empties=True,
        slack=1,
        **MASKS[mask],
    )
    expected = reference(case)
    got = ref.varlen_bwd(
        case.dout,
        case.q,
        case.k,
        case.v,
        case.cu_seqlens_q,
        case.cu_seqlens_k,
        case.n,
        **case.mask(),
        alpha=case.alpha,
        rab=case.rab,
    )
    for name, grad in zip(("dq", "dk", "dv", "drab"), got, strict=True):
        if grad is None:
            assert name == "drab" and rab_heads == 0
        else:
            torch.testing.assert_close(grad, expected[name], msg=name)


@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_pages_hold_the_history_of_the_dense_problem(page_size: int) -> None:
    paged = make_paged(
        page_size=page_size, dtype=torch.float64, dim=4, max_k=20, max_q=5, targets=3, contexts=2
    )
    fresh, tables = paged.fresh, paged.arguments
    got = ref.varlen_fwd(
        fresh.q,
        fresh.k,
        fresh.v,
        fresh.cu_seqlens_q,
        fresh.cu_seqlens_k,
        fresh.n,
        num_contexts=fresh.num_contexts,
        num_targets=fresh.num_targets,
        window=(-1, 0),
        kv_cache=tables["kv_cache"],
        page_offsets=tables["page_offsets"],
        page_ids=tables["page_ids"],
    )
    torch.testing.assert_close(got, forward(paged.dense))


def test_half_precisions_are_computed_in_float32() -> None:
    case = make_case(dtype=torch.bfloat16, max_k=40, window=(-1, 0))
    exact = forward(case.cast(torch.float32))
    torch.testing.assert_close(forward(case), exact.to(torch.bfloat16))
    plain = reference(case, upcast=False)["out"]
    assert (plain.float() - exact).abs().max() > 0


def test_huge_inputs_stay_finite() -> None:
    case = make_case(dtype=torch.float32, scale=1e4, window=(-1, 0))
    for name, value in reference(case).items():
        assert torch.isfinite(value).all(), name
    got = ref.varlen_bwd(
        case.dout, case.q, case.k, case.v, case.cu_seqlens_q, case.cu_seqlens_k, case.n
    )
    assert all(torch.isfinite(x).all() for x in got if x is not None)


def test_rows_of_no_sequence_are_zero() -> None:
    case = make_case(window=(-1, 0))
    short = replace(case, cu_seqlens_q=case.cu_seqlens_q[:-1], cu_seqlens_k=case.cu_seqlens_k[:-1])
    used = int(short.cu_seqlens_q[-1])
    out = forward(short)
    torch.testing.assert_close(out[:used], forward(case)[:used])
    assert used < out.shape[0] and (out[used:] == 0).all()
