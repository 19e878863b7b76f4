"""What no row sees changes nothing: rows behind the last sequence, hidden keys, values and bias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func, ref
from torch import Tensor

from tests.common.poison import poison
from tests.hstu_attn.cases import Case, assert_right, make_case, make_paged, run

CAUSAL: dict[str, Any] = {"window": (-1, 0)}

# Every kernel: for short and for long sequences, for whole ones in the backward, split ones; every
# order of blocks; every head dim.
BATCHES: dict[str, dict[str, Any]] = {
    "short": {"batch": 3, "max_k": 100, "dim": 64},
    "whole": {"batch": 130, "max_k": 90, "dim": 64},
    "dense": {"batch": 2, "max_k": 300, "dim": 32, "full": True},
    "listed": {"batch": 7, "max_k": 700, "dim": 64},
    "d128": {"batch": 3, "max_k": 300, "dim": 128},
    "d256": {"batch": 3, "max_k": 300, "dim": 256},
    "whole_d256": {"batch": 130, "max_k": 90, "dim": 256},
    "contexts": {"batch": 3, "max_k": 300, "dim": 64, "contexts": 9, "targets": 20},
    "split": {"batch": 1, "max_k": 2000, "dim": 64, "full": True},
}
ON_CPU = ("short", "contexts")
FINITE = "on a GPU hidden values must be finite: docs/hstu_attn.md"


def on(device: str, name: str) -> dict[str, Any]:
    """The options of a batch; the CPU, which has one way of doing it, takes few and small ones."""
    if device == "cpu" and name not in ON_CPU:
        pytest.skip("one kernel of a GPU")
    return {"device": device, "window": (-1, 0)} | BATCHES[name]


def padded(x: Tensor, rows: int) -> Tensor:
    """With rows of NaN at its end."""
    return torch.cat([x, x.new_full((rows, *x.shape[1:]), torch.nan)])


def gradients(q: Tensor, k: Tensor, v: Tensor, case: Case, dout: Tensor, **extra: Any) -> Any:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    arguments = {**case.arguments(), **dict(zip("qkv", leaves, strict=True))}
    out = hstu_attn_varlen_func(**arguments, **extra)
    return out.detach(), *torch.autograd.grad(out, leaves, dout)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("rows", [1, 1500])
@pytest.mark.parametrize("name", BATCHES)
def test_rows_behind_the_last_sequence_are_zeros(
    device: str, name: str, rows: int, deterministic: bool
) -> None:
    case = make_case(**on(device, name), heads=4, heads_k=2, max_q=None)
    total = len(case.q)
    poison(device)
    got = gradients(
        *(padded(x, rows) for x in (case.q, case.k, case.v)),
        case,
        padded(case.dout, rows),
        deterministic=deterministic,
    )
    for result in got:
        assert (result[total:] == 0).all()
    names = ("out", "dq", "dk", "dv")
    assert_right({n: x[:total] for n, x in zip(names, got, strict=True)}, replace(case, rab=None))


@pytest.mark.parametrize("name", BATCHES)
def test_rows_behind_the_last_sequence_are_zeros_with_fewer_rows_than_keys(
    device: str, name: str
) -> None:
    case = make_case(**on(device, name), heads=2, max_q=50)
    poison(device)
    got = gradients(
        padded(case.q, 300), padded(case.k, 7), padded(case.v, 7), case, padded(case.dout, 300)
    )
    for result, rows in zip(got, (300, 300, 7, 7), strict=True):
        assert (result[-rows:] == 0).all() and torch.isfinite(result).all()


def test_packed_rows_behind_the_last_sequence_are_zeros(device: str) -> None:
    case = make_case(**on(device, "short"), heads=2)
    total = len(case.q)
    qkv = torch.stack([padded(x, 200) for x in (case.q, case.k, case.v)], dim=1).requires_grad_()
    poison(device)
    out = hstu_attn_qkvpacked_func(
        qkv,
        case.cu_seqlens_q,
        case.cu_seqlens_k,
        case.max_seqlen_q,
        case.max_seqlen_k,
        window_size=(-1, 0),
    )
    (dqkv,) = torch.autograd.grad(out, qkv, padded(case.dout, 200))
    assert (out[total:] == 0).all() and (dqkv[total:] == 0).all()
    assert_right(
        {"out": out.detach()[:total]} | {f"d{n}": dqkv[:total, i] for i, n in enumerate("qkv")},
        case,
    )


@pytest.mark.parametrize("maximum", [0, 64, 1000])
@pytest.mark.parametrize("batch", [0, 1, 300])
def test_without_a_sequence_all_rows_are_zeros(device: str, batch: int, maximum: int) -> None:
    case = make_case(device=device, heads=2, dim=64, batch=2, max_k=200, window=(-1, 0))
    none = torch.zeros(batch + 1, dtype=torch.int32, device=device)
    case = replace(
        case,
        cu_seqlens_q=none,
        cu_seqlens_k=none,
        max_seqlen_q=maximum,
        max_seqlen_k=maximum,
        scaling_seqlen=1,
    )
    wild = [torch.full_like(x, torch.nan) for x in (case.q, case.k, case.v, case.q)]
    poison(device)
    for result in gradients(wild[0], wild[1], wild[2], case, wild[3]):
        assert (result == 0).all()


@pytest.mark.parametrize("max_k", [60, 500])
def test_paged_rows_behind_the_last_sequence_are_zeros(device: str, max_k: int) -> None:
    paged = make_paged(
        page_size=32, device=device, dim=64, max_k=max_k, max_q=40, targets=5, heads=2
    )
    case = paged.fresh
    total = len(case.q)
    poison(device)
    arguments = {**case.arguments(), **paged.arguments}
    arguments |= {n: padded(getattr(case, n), 333) for n in "qkv"}
    out = hstu_attn_varlen_func(**arguments)
    assert (out[total:] == 0).all()
    assert_right({"out": out[:total]}, paged.dense)


# ---------------------------------------------------------------------------------------------
# Hidden keys and values
# ---------------------------------------------------------------------------------------------

MASKED: dict[str, dict[str, Any]] = {
    "causal": CAUSAL,
    "local": {"window": (20, 9)},
    "context_target": CAUSAL | {"contexts": 5, "targets": 21, "group": 3},
    "func": {"n_func": 3, "window": (-1, -1)},
    "func_of_many": {"n_func": 5, "window": (-1, -1)},
}


def sees(case: Case, keys: Tensor) -> Tensor:
    """Which rows of q see any of the keys, a bool for each."""
    found = torch.zeros(len(case.q), dtype=torch.bool, device=case.q.device)
    marked = torch.zeros(len(case.k), dtype=torch.bool, device=case.q.device)
    marked[keys] = True
    starts_q, starts_k = case.cu_seqlens_q.tolist(), case.cu_seqlens_k.tolist()
    for b in range(len(starts_q) - 1):
        rows = slice(starts_q[b], starts_q[b + 1])
        columns = slice(starts_k[b], starts_k[b + 1])
        if rows.start == rows.stop:
            continue
        mask = ref.visible(
            rows.stop - rows.start,
            columns.stop - columns.start,
            window=case.window_size,
            contexts=0 if case.num_contexts is None else int(case.num_contexts[b]),
            targets=0 if case.num_targets is None else int(case.num_targets[b]),
            group_size=case.target_group_size,
            func=None if case.func is None else case.func[0, :, rows],
            device=case.q.device,
        )
        found[rows] = (mask & marked[columns]).any(1)
    return found


def assert_alike(got: Tensor, clean: Tensor, what: str) -> None:
    assert torch.isfinite(got).all(), what
    scale = clean.abs().max().item() if clean.numel() else 1.0
    tolerance = 1e-5 if got.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, clean, rtol=0, atol=tolerance * scale, msg=what)


@pytest.mark.parametrize(
    ("where", "wild"),
    [("v", torch.nan), ("v", -torch.inf), ("k", torch.nan), ("kv", torch.inf)],
)
@pytest.mark.parametrize("mask", MASKED)
@pytest.mark.parametrize("name", ["short", "whole", "listed", "d128", "d256", "whole_d256"])
def test_wild_keys_and_values_reach_the_rows_that_see_them_and_no_others(
    device: str, name: str, mask: str, where: str, wild: float
) -> None:
    if device != "cpu":
        pytest.skip(FINITE)
    case = make_case(**(on(device, name) | MASKED[mask]), heads=2)
    generator = torch.Generator().manual_seed(5)
    keys = torch.randperm(len(case.k), generator=generator)[: 1 + len(case.k) // 200].to(device)
    touched = {n: getattr(case, n).clone() for n in where}
    for x in touched.values():
        x[keys, :, ::3] = wild
    clean = run(case)
    poison(device)
    got = run(replace(case, **touched))
    aware = sees(case, keys)
    assert not torch.isfinite(got["out"][aware].sum(dim=-1)).any(), "a row that sees them says so"
    assert_alike(got["out"][~aware], clean["out"][~aware], "out")
    assert_alike(got["dq"][~aware], clean["dq"][~aware], "dq")
    others = torch.ones(len(case.k), dtype=torch.bool, device=device)
    others[keys] = False
    for n in ("dk", "dv"):
        assert_alike(got[n][others], clean[n][others], n)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["short", "whole", "listed", "d128", "d256"])
@pytest.mark.parametrize("mask", ["none", "causal", "context_target"])
def test_a_bias_of_minus_infinity_on_the_cpu_or_a_large_negative_one_hides(
    device: str, name: str, mask: str, dtype: torch.dtype
) -> None:
    options = on(device, name) | {"none": {"window": (-1, -1)}, **MASKED}[mask]
    case = make_case(**options, heads=2, rab_heads=2, dtype=dtype)
    assert case.rab is not None
    generator = torch.Generator(device).manual_seed(3)
    hide = torch.rand(case.rab.shape, generator=generator, device=device) < 0.3
    hide[:, :, 3::7] = True  # whole rows
    poison(device)
    hidden = -torch.inf if device == "cpu" else -1e4
    got = run(replace(case, rab=case.rab.masked_fill(hide, hidden)))
    assert_right(got, replace(case, rab=case.rab.masked_fill(hide, -3e4)))
    assert (got["drab"][hide] == 0).all()


@pytest.mark.parametrize("name", ["short", "listed"])
def test_a_hidden_bias_may_be_nan(device: str, name: str) -> None:
    if device != "cpu":
        pytest.skip(FINITE)
    case = make_case(**on(device, name), heads=2, rab_heads=1)
    assert case.rab is not None
    above = torch.ones_like(case.rab, dtype=torch.bool).triu(1)
    poison(device)
    got = run(replace(case, rab=case.rab.masked_fill(above, torch.nan)))
    assert_right(got, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["short", "listed"])
def test_a_row_of_q_that_is_nan_is_nan_in_the_output_and_alone(
    device: str, name: str, dtype: torch.dtype
) -> None:
    if device != "cpu":
        pytest.skip(FINITE)
    case = make_case(**on(device, name), heads=2, dtype=dtype)
    q = case.q.clone()
    q[7] = torch.nan
    got = hstu_attn_varlen_func(**{**case.arguments(), "q": q})
    assert torch.isnan(got[7]).all()
    assert torch.isfinite(got).all(-1).all(-1).sum() == len(q) - 1


@pytest.mark.parametrize("mask", MASKED)
@pytest.mark.parametrize("name", ["short", "whole", "listed", "d128", "d256", "whole_d256"])
def test_what_is_not_finite_stays_inside_its_sequence(device: str, name: str, mask: str) -> None:
    case = make_case(**(on(device, name) | MASKED[mask]), heads=2)
    row = len(case.k) // 2
    starts = case.cu_seqlens_k.tolist()
    mine = max(b for b in range(len(starts) - 1) if starts[b] <= row)
    wild = {n: getattr(case, n).clone() for n in "kv"}
    for x in wild.values():
        x[row] = torch.nan
    clean = run(case)
    poison(device)
    got = run(replace(case, **wild))
    for n, starts_of in (("out", "q"), ("dq", "q"), ("dk", "k"), ("dv", "k")):
        cu = getattr(case, f"cu_seqlens_{starts_of}").tolist()
        others = torch.ones(len(got[n]), dtype=torch.bool, device=device)
        others[cu[mine] : cu[mine + 1]] = False
        assert_alike(got[n][others], clean[n][others], n)
