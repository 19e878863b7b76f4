"""The table of configurations, what AUTO takes from it, and the rows that tune adds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_recommenders import tune
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import cuda, kinds, table
from generative_recommenders.ops.hstu_attention import hstu_mha
from generative_recommenders.ops.problem import Mask, Problem
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

H200, A100 = "NVIDIA H200", "NVIDIA A100-SXM4-80GB"
needs_hstu_attn = pytest.mark.skipif(not cuda.INSTALLED, reason="hstu_attn is not installed")


@pytest.fixture(autouse=True)
def no_own_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table.nearest.cache_clear()
    yield
    table.nearest.cache_clear()


def test_rows_of_a_gpu_that_nobody_ran_are_marked() -> None:
    assert {row.gpu for row in table.ROWS if row.tuned} == {"H200"}
    assert {row.gpu for row in table.ROWS if not row.tuned} == {"A100"}
    for gpu in ("H200", "A100"):
        ops = {row.op for row in table.ROWS if row.gpu == gpu}
        assert {op.removesuffix(" general") for op in ops} == {*tune.KERNELS, *tune.KIND}


def test_no_two_rows_have_one_key() -> None:
    keys = [row[:4] for row in table.ROWS]
    assert len(keys) == len(set(keys))


def test_the_nearest_row_serves_a_shape_that_has_none() -> None:
    for dim, expected in ((16, 64), (64, 64), (128, 128), (256, 256), (512, 256)):
        for length in (1, 2048, 100_000):
            row = table.nearest("columns", H200, 9, dim, length)
            assert (row.gpu, row.op, row.dim) == ("H200", "columns", expected)


def test_a_gpu_that_is_not_in_the_table_has_the_rows_of_one_like_it() -> None:
    for name, major, expected in (
        (A100, 8, "A100"),
        ("NVIDIA H100 PCIe", 9, "H200"),
        ("NVIDIA L40S", 8, "A100"),
        ("NVIDIA B200", 10, "A100"),
    ):
        assert table.nearest("forward", name, major, 64, 2048).gpu == expected


def problem(dim: int = 128, dtype: torch.dtype = torch.bfloat16, **more: Any) -> Problem:
    q = torch.zeros(4, 1, dim, dtype=dtype)
    return Problem(2048, 1.0, q, q, q, torch.tensor([0, 4]), **more)


@needs_triton
@needs_hstu_attn
def test_auto_takes_the_fastest_kind_of_each_direction() -> None:
    for gpu, major in ((H200, 9), (A100, 8)):
        for dim in (64, 128, 256):
            found = kinds.choose(problem(dim), gpu, major)
            for kernel, op in zip(found[:2], tune.KIND, strict=True):
                shares = table.nearest(op, gpu, major, dim, 2048).values
                fastest = max(shares, key=shares.__getitem__)
                assert (kernel is HammerKernel.CUDA) == (fastest == "CUDA")
                assert op != "kind forward" or found.enable_tma == (fastest == "TMA")
    assert kinds.choose(problem(), A100, 8)[:2] == (HammerKernel.CUDA,) * 2


@needs_triton
def test_auto_takes_triton_for_what_hstu_attn_does_not_compute() -> None:
    scale = torch.ones(())
    for p in (problem(50), problem(attn_scale=scale)):
        assert kinds.choose(p, A100, 8) == kinds.Kinds(*(HammerKernel.TRITON,) * 2, False)


@needs_triton
def test_auto_takes_what_was_compiled_unless_descriptors_are_faster() -> None:
    scale = torch.ones(())  # which hstu_attn has not
    for dim, forward in ((32, HammerKernel.TRITON_CC), (128, HammerKernel.TRITON)):
        found = kinds.choose(problem(dim, attn_scale=scale), H200, 9, compiled=True)
        assert found == kinds.Kinds(forward, HammerKernel.TRITON_CC, dim == 128)


def test_auto_is_pytorch_on_the_cpu() -> None:
    q = torch.rand(5, 1, 8)
    starts = torch.tensor([0, 2, 5])
    expected = hstu_mha(3, 0.5, q, q, q, starts)
    assert torch.equal(hstu_mha(3, 0.5, q, q, q, starts, kernel=HammerKernel.AUTO), expected)


@needs_triton
@needs_hstu_attn
@pytest.mark.parametrize("mask", ["targets", "window, contexts"])
@pytest.mark.parametrize("directions", ["TRITON CUDA", "CUDA TRITON"])
def test_kinds_of_both_directions_may_differ(mask: str, directions: str) -> None:
    # The last sequence is longer than N: what is beyond has neither result nor gradient.
    lengths, n = [17, 0, 40, 23], 32
    starts = cases.starts_of(lengths)
    targets = torch.tensor([3, 0, 5, 1], device=DEVICE)
    rules = Mask(targets) if mask == "targets" else Mask(targets, 6, 3)
    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    taken = kinds.Kinds(*(HammerKernel(name) for name in directions.split()))

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kernel is HammerKernel.PYTORCH:
            return hstu_mha(
                n, 0.3, q, k, v, starts, num_targets=targets, max_attn_len=rules.max_attn_len,
                contextual_seq_len=rules.contextual_seq_len,
            )  # fmt: skip
        return kinds.attention(Problem(n, 0.3, q, k, v, starts, rules), taken)

    qkv = [cases.drawn(80, 2, 32, dtype=dtype, seed=i) for i in range(3)]
    cases.assert_equal_results(attention, qkv)


class Stopped(Exception):
    pass


def measured(limit: int | None = None) -> tuple[Any, list[tuple[tune.Job, dict[str, Any]]]]:
    """A stand-in for the GPU: 64 x 64 blocks and CUDA are fastest, CUDA cannot do head dim 256."""
    calls: list[tuple[tune.Job, dict[str, Any]]] = []

    def measure(job: tune.Job, choice: dict[str, Any]) -> float | None:
        if limit is not None and len(calls) == limit:
            raise Stopped
        calls.append((job, choice))
        if choice.get("kind") == "CUDA":
            return None if job.dim == 256 else 0.5
        blocks = (choice.get("block_m"), choice.get("block_n"))
        return 1.0 + (blocks != (64, 64)) + 0.01 * choice.get("num_warps", 0)

    return measure, calls


PLAN = [
    tune.Job("forward", 64, 2048),
    tune.Job("kind forward", 64, 2048),
    tune.Job("kind forward", 256, 2048),
]


def test_tune_writes_the_best_and_both_take_it(tmp_path: Path) -> None:
    path = table.own_file(H200)
    assert path.is_relative_to(tmp_path)
    out = io.StringIO()
    measure, calls = measured()
    rows = tune.tune(PLAN, path, H200, measure, out)
    assert [row[1:4] for row in rows] == [tuple(job) for job in PLAN]
    blocks = rows[0].values
    assert (blocks["block_m"], blocks["block_n"], blocks["num_warps"]) == (64, 64, 4)
    assert rows[1].values == {"TRITON": 0.5, "TMA": 0.5, "CUDA": 2.0}
    assert rows[2].values == {"TRITON": 0.5, "TMA": 0.5}
    assert out.getvalue().endswith("\n") and f"{len(calls)}/{len(calls)}" in out.getvalue()
    assert table.nearest("forward", H200, 9, 64, 2048) == rows[0]
    assert table.nearest("forward", A100, 8, 64, 2048).gpu == "A100"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tune_goes_on_where_it_was_interrupted() -> None:
    path = table.own_file(H200)
    first = len(tune.candidates(PLAN[0]))
    measure, _ = measured(limit=first + 1)
    with pytest.raises(Stopped):
        tune.tune(PLAN, path, H200, measure, io.StringIO())
    assert [row[1:4] for row in table.read_rows(path, H200)] == [tuple(PLAN[0])]
    measure, calls = measured()
    tune.tune(PLAN, path, H200, measure, io.StringIO())
    assert {job for job, _ in calls} == set(PLAN[1:])
    measure, calls = measured()
    assert len(tune.tune(PLAN, path, H200, measure, io.StringIO())) == 3 and calls == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": [{}]}', '{"rows": 3}'])
def test_a_broken_file_has_no_rows(content: str) -> None:
    path = table.own_file(H200)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert table.own_rows(H200) == []
    assert table.nearest("forward", H200, 9, 64, 2048).gpu == "H200"


def test_rows_belong_to_a_gpu_a_triton_and_a_state_of_the_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [table.own_file(H200), table.own_file(A100)]
    monkeypatch.setattr(table, "triton_version", lambda: "9.9")
    paths.append(table.own_file(H200))
    monkeypatch.setattr(table, "sources", lambda: "other")
    paths.append(table.own_file(H200))
    assert len(set(paths)) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for a machine without a GPU")
def test_a_dry_run_says_what_would_be_measured_and_needs_no_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune.main(["--dry-run", "--dims", "64", "--lengths", "256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == [*tune.KERNELS, *tune.KIND]
    assert lines[-1].startswith("rows go to ")
    assert tune.main([]) == 1
    assert "needs a GPU" in capsys.readouterr().err


def test_no_candidate_has_blocks_longer_than_its_sequences() -> None:
    for job in tune.jobs([64], [64, 256]):
        for choice in tune.candidates(job):
            assert max(choice.get("block_m", 0), choice.get("block_n", 0)) <= job.length
    assert len(tune.candidates(tune.Job("rows", 64, 2048))) > 20
