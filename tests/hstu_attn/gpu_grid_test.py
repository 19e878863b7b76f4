"""The kernels over the published grid of problems, sampled, and where they are easily wrong.

Grid: 32 sequences, 2 heads, inputs in +-1; history lengths (q, k); contexts; targets, windows and
groups; head dims; bias; alpha; full or random lengths.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_varlen_func
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.common.poison import poison
from tests.hstu_attn.cases import MASKS, assert_right, draw_case, make_case, make_paged, run

LENGTHS = [
    (32, 32),
    (99, 99),
    (256, 256),
    (1111, 1111),
    (27, 32),
    (8, 99),
    (51, 256),
    (160, 2000),
]
CONTEXTS = [0, 99, 160, 333]
TARGETS: list[dict[str, Any]] = [
    {},
    {"window": (11, 111)},
    {"window": (111, 11)},
    {"window": (111, 222)},
    {"window": (-1, 0)},
    {"window": (-1, 0), "targets": 33},
    {"window": (-1, 0), "targets": 111},
    {"window": (-1, 0), "targets": 111, "group": 11},
    {"window": (-1, 0), "targets": 1111, "group": 222},
    {"window": (-1, 0), "targets": 111, "group": 1111},
]
DIMS = [32, 64, 128, 256]
BIASES = [(0, False), (1, False), (1, True), (2, False), (2, True)]
ALPHAS = [1.0, 0.1]
SAMPLES = 64


def sampled_grid() -> list[tuple[Any, ...]]:
    """SAMPLES points in which every value of every axis occurs equally often.

    Contexts need the causal window and are left out elsewhere.
    """
    rng = random.Random(7)
    columns: list[list[Any]] = []
    for values in (LENGTHS, CONTEXTS, TARGETS, DIMS, BIASES, ALPHAS, [False, True]):
        column = list(itertools.islice(itertools.cycle(values), SAMPLES))
        rng.shuffle(column)
        columns.append(column)
    causal = [mask.get("window") == (-1, 0) for mask in columns[2]]
    columns[1] = [c if ok else 0 for c, ok in zip(columns[1], causal, strict=True)]
    return list(zip(*columns, strict=True))


GRID = sampled_grid()


def name(point: tuple[Any, ...]) -> str:
    (q, k), contexts, mask, dim, (rab_heads, drab), alpha, full = point
    window = "x".join(str(w) for w in mask.get("window", (-1, -1)))
    text = f"q{q}-k{k}-c{contexts}-t{mask.get('targets', 0)}g{mask.get('group', 1)}-w{window}"
    return f"{text}-d{dim}-rab{rab_heads}{'d' * drab}-a{alpha}-{'full' if full else 'random'}"


def test_the_sample_holds_every_value_of_every_axis() -> None:
    for axis, values in enumerate((LENGTHS, CONTEXTS, TARGETS, DIMS, BIASES, ALPHAS)):
        assert all(any(p[axis] == value for p in GRID) for value in values)


@pytest.mark.parametrize("point", GRID, ids=[name(p) for p in GRID])
def test_grid(gpu: str, point: tuple[Any, ...]) -> None:
    (max_q, max_k), contexts, mask, dim, (rab_heads, drab), alpha, full = point
    case = make_case(
        device=gpu,
        batch=32 if max_k <= 256 else 8,
        dim=dim,
        max_q=None if max_q == max_k else max_q,
        max_k=max_k,
        contexts=contexts,
        rab_heads=rab_heads,
        alpha=alpha,
        full=full,
        **mask,
    )
    poison(gpu)
    assert_right(run(case, has_drab=drab), case)


@pytest.mark.parametrize("smem_kb", [164, 100], ids=["as_on_sm80", "as_on_sm86"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": (-1, 0), "targets": 50, "contexts": 6},
        {"window": (70, 200), "max_q": 300},
        {"window": (-1, 0), "rab_heads": 2},
        {"n_func": 5},
    ],
    ids=lambda o: "_".join(o) or "none",
)
def test_kernels_of_gpus_with_less_shared_memory(
    gpu: str,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    dim: int,
    dtype: torch.dtype,
    smem_kb: int,
) -> None:
    monkeypatch.setenv("HSTU_SMEM_KB", str(smem_kb))
    case = make_case(device=gpu, dtype=dtype, dim=dim, max_k=700, empties=True, **options)
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("dim", DIMS)
def test_paged_keys_in_kernels_of_gpus_with_less_shared_memory(
    gpu: str, monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    paged = make_paged(device=gpu, page_size=32, dim=dim, max_k=700, max_q=300, targets=20)
    for smem_kb in (164, 100):
        monkeypatch.setenv("HSTU_SMEM_KB", str(smem_kb))
        poison(gpu)
        out = hstu_attn_varlen_func(**paged.fresh.arguments(), **paged.arguments)
        assert_right({"out": out}, paged.dense)


@pytest.mark.parametrize("value", ["99", "1025", "-164", "164 KB", "much"])
def test_a_wrong_hstu_smem_kb_is_named(
    gpu: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HSTU_SMEM_KB", value)
    with pytest.raises(RuntimeError, match=f"HSTU_SMEM_KB .* 100 to 1024, got '{value}'"):
        run(make_case(device=gpu, dim=32, max_k=40))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("scale", [5.0, 30.0])
def test_large_inputs(gpu: str, dtype: torch.dtype, dim: int, scale: float) -> None:
    case = make_case(
        device=gpu,
        dtype=dtype,
        dim=dim,
        max_k=150,
        window=(-1, 0),
        targets=10,
        scale=scale,
        alpha=dim**-0.5,
        empties=True,
    )
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("value", [0.0, 30.0, -30.0])
def test_scores_far_beyond_the_range_of_exp_are_finite(gpu: str, value: float) -> None:
    """Scores of +-230400: silu is the score itself, or zero."""
    case = make_case(device=gpu, dim=256, max_k=100)
    case = replace(case, q=torch.full_like(case.q, 30.0), k=torch.full_like(case.k, value))
    got = run(case)
    for name, x in got.items():
        assert torch.isfinite(x).all(), name
    if value < 0:
        assert (got["out"] == 0).all() and (got["dv"] == 0).all()


@pytest.mark.parametrize("delta", [-1, 0, 1])
@pytest.mark.parametrize("base", [16, 32, 64, 128, 192])
def test_lengths_round_the_tile_sizes(gpu: str, base: int, delta: int) -> None:
    for dim in (64, 256):
        case = make_case(
            device=gpu, full=True, dim=dim, max_k=base + delta, window=(-1, 0), rab_heads=1
        )
        poison(gpu)
        assert_right(run(case), case)


@settings(max_examples=120)
@given(data=st.data())
def test_random_problems(gpu: str, data: st.DataObject) -> None:
    case = draw_case(gpu, data)
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("options", [{}, {"rab_heads": 1}, {"targets": 50, "contexts": 6}])
def test_deterministic_backward(gpu: str, dim: int, options: dict[str, Any]) -> None:
    case = make_case(
        device=gpu, batch=8, heads=4, heads_k=2, dim=dim, max_k=700, window=(-1, 0), **options
    )
    first = run(case, deterministic=True)
    assert_right(first, case)
    for _ in range(4):
        poison(gpu)
        for name, value in run(case, deterministic=True).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("smem_kb", ["", "164"], ids=["whole_gpu", "as_on_sm80"])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": (-1, 0)},
        {"window": (-1, 0), "targets": 300, "contexts": 40},
        {"window": (900, 200), "max_q": 1000},
        {"window": (-1, 0), "rab_heads": 2},
        {"n_func": 5},
        {"window": (-1, 0), "heads": 4, "heads_k": 2, "dtype": torch.float16},
        {"batch": 3, "window": (-1, 0), "empties": True},
    ],
    ids=lambda o: "_".join(o) or "none",
)
def test_blocks_that_share_a_long_sequence_of_a_small_batch(
    gpu: str, monkeypatch: pytest.MonkeyPatch, dim: int, options: dict[str, Any], smem_kb: str
) -> None:
    """The output is the same in every run, so are the gradients if asked for."""
    monkeypatch.setenv("HSTU_SMEM_KB", smem_kb)
    case = make_case(device=gpu, **{"batch": 1, "full": True, "dim": dim, "max_k": 2900, **options})
    poison(gpu)
    loose = run(case)
    assert_right(loose, case)
    poison(gpu)
    first = run(case, deterministic=True)
    assert_right(first, case)
    assert torch.equal(first["out"], loose["out"])
    for _ in range(3):
        poison(gpu)
        for name, value in run(case, deterministic=True).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("dim", DIMS)
def test_blocks_that_share_a_long_paged_sequence(gpu: str, dim: int) -> None:
    paged = make_paged(
        device=gpu, page_size=32, batch=1, full=True, dim=dim, max_k=2900, max_q=300, targets=20
    )
    poison(gpu)
    out = hstu_attn_varlen_func(**paged.fresh.arguments(), **paged.arguments)
    assert_right({"out": out}, paged.dense)


def test_many_short_sequences(gpu: str) -> None:
    case = make_case(device=gpu, batch=600, max_k=40, window=(-1, 0), empties=True, dim=64)
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_q", [None, 40], ids=["self", "delta_q"])
@pytest.mark.parametrize("mask", MASKS)
def test_sequences_that_one_block_takes_whole(
    gpu: str, mask: str, max_q: int | None, dtype: torch.dtype
) -> None:
    for dim, max_k in ((32, 200), (64, 200), (128, 80)):
        case = make_case(
            device=gpu,
            dtype=dtype,
            batch=40,
            heads=4,
            heads_k=2,
            dim=dim,
            max_k=max_k,
            max_q=max_q,
            empties=True,
            **MASKS[mask],
        )
        poison(gpu)
        assert_right(run(case), case)


@pytest.mark.parametrize("batch", [1, 2, 33, 300])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 65, 128, 129, 255, 256, 257])
def test_short_batches(gpu: str, batch: int, length: int) -> None:
    case = make_case(
        device=gpu, batch=batch, dim=64, max_k=length, full=True, window=(-1, 0), alpha=0.1
    )
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "options",
    [
        {"contexts": 40},
        {"contexts": 40, "targets": 50, "dtype": torch.float16},
        {"contexts": 6, "targets": 50, "full": True},
        {"contexts": 16, "full": True},
        {"contexts": 33, "full": True},
        {"contexts": 40, "max_q": 1000, "empties": True},
        {"contexts": 40, "targets": 7, "rab_heads": 1},
    ],
    ids=lambda o: "_".join(o),
)
def test_context_rows_that_have_a_block_of_their_own_and_that_have_none(
    gpu: str, dim: int, options: dict[str, Any]
) -> None:
    """Up to 32 of them have one (16 at head dim 256)."""
    case = make_case(device=gpu, batch=12, dim=dim, max_k=900, window=(-1, 0), **options)
    poison(gpu)
    assert_right(run(case), case)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "options",
    [
        {"empties": True},
        {"window": (-1, 0), "contexts": 6, "targets": 40, "group": 3},
        {"window": (20, 50), "max_q": 100, "alpha": 0.1},
        {"window": (-1, 0), "heads": 4, "heads_k": 1, "full": True, "max_k": 256},
        {"n_func": 3, "max_q": 120},
        {"window": (-1, 0), "rab_heads": 2, "dtype": torch.float16},
    ],
)
def test_many_sequences_of_a_few_blocks(gpu: str, dim: int, options: dict[str, Any]) -> None:
    """So many that the backward takes each of them whole, its keys block by block."""
    case = make_case(device=gpu, dim=dim, **({"batch": 260, "max_k": 200} | options))
    poison(gpu)
    first = run(case)
    assert_right(first, case)
    if dim < 256:  # there only where a multiprocessor has room; the result is the same in every run
        poison(gpu)
        for name, value in run(case, deterministic=True).items():
            assert torch.equal(value, first[name]), name


def test_one_long_sequence(gpu: str) -> None:
    case = make_case(
        device=gpu, batch=1, heads=1, dim=128, max_k=9000, full=True, window=(-1, 0), targets=100
    )
    poison(gpu)
    assert_right(run(case), case)


def test_one_long_sequence_among_short_ones(gpu: str) -> None:
    case = make_case(device=gpu, batch=40, heads=2, dim=64, max_k=30, full=True, window=(-1, 0))
    lengths = [30] * 39
    long = 30 * 40 - sum(lengths) + 3000
    extra = make_case(device=gpu, batch=1, heads=2, dim=64, max_k=3000, full=True)
    sums = torch.tensor([0, *lengths, long]).cumsum(0).to(gpu, torch.int32)
    case = replace(
        case,
        q=torch.cat([case.q, extra.q]),
        k=torch.cat([case.k, extra.k]),
        v=torch.cat([case.v, extra.v]),
        cu_seqlens_q=sums,
        cu_seqlens_k=sums,
        max_seqlen_q=long,
        max_seqlen_k=long,
    )
    poison(gpu)
    assert_right(run(case), case)
