"""The harness without a GPU; with one, every benchmark in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness
from tests.common.processes import python

CEILINGS = harness.Ceilings("Some GPU", 701.4, 4.256, 55.0, 51.0)
FIRST_LINE = (
    "Some GPU: matmul 701 TFLOP/s, copy 4.26 TB/s, host link 55.0 GB/s to the device, "
    "51.0 GB/s from it"
)
FOLDER = Path(harness.__file__).parent
SMALLEST = {
    "causal_convolution.py": (["--case=update, batch 1,"],),
    "dump_rates.py": (["--rows=100000"],),
    "dynamic_beyond.py": (["--rows=2000000", "--hbm=0.1"],),
    "dynamic_embeddings.py": (["--case=small"],),
    "dynamic_tiers.py": (["--case=fits"],),
    "dynamicemb_dist.py": (["--case=small"], ["--case=small", "--simulate=8"]),
    "hash_small.py": (["--rows=1"],),
    "hash_table.py": (["--rows=2"], ["--rows=2", "--hot"], ["--host"]),
    "hstu_attention.py": (["--case=B512"], ["--case=B512", "--forward-only"], ["--host"]),
    "mustafar_attention.py": (["--case=B1 H32/32"],),
    "plan_rank.py": (["--rows=20000000"],),
    "training.py": (["--case=256"], ["--case=loader"]),
    "triton_hstu.py": (["--case=B512", "--kernel=TRITON"],),
}


def test_every_benchmark_is_tried_here() -> None:
    programs = {p.name for p in FOLDER.glob("*.py") if "\ndef main(" in p.read_text()}
    assert programs == set(SMALLEST)


def test_the_ceilings_are_the_first_line_of_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {form: str(tmp_path / form) for form in ("markdown", "json")}
    table = harness.Table(CEILINGS, "two cases", {"case": "<6", "us": ">7.1f"}, files)
    table.row("small", 12.345)
    table.row("large", None)
    assert capsys.readouterr().out.splitlines() == [
        FIRST_LINE, "two cases", "case        us", "small     12.3", "large",
    ]  # fmt: skip
    assert (tmp_path / "markdown").read_text().splitlines() == [
        FIRST_LINE, "", "two cases", "",
        "| case | us |", "|---|---|", "| small | 12.3 |", "| large |  |",
    ]  # fmt: skip
    first, *rows = map(json.loads, (tmp_path / "json").read_text().splitlines())
    assert first["matmul_tflops"] == 701.4 and first["title"] == "two cases"
    assert rows == [{"case": "small", "us": 12.345}, {"case": "large", "us": None}]


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="zip"):
        harness.Table(CEILINGS, "", {"case": "<6", "us": ">7.1f"}).row("small")


def test_the_best_of_several_times_is_taken_and_preparation_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, steps = [0.0], iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    best = harness.best_seconds(
        lambda: advance(next(steps)), lambda: advance(0.5), lambda: advance(100), repeats=3
    )
    assert best == 1.5


def test_jagged_lengths_are_the_same_in_every_run() -> None:
    assert harness.jagged(3, 10, 20) == harness.jagged(3, 10, 20)
    assert set(harness.jagged(1000, 10, 12)) == {10, 11, 12}


@pytest.mark.parametrize("program", SMALLEST)
def test_without_a_gpu_a_benchmark_says_so(program: str) -> None:
    done = python(FOLDER / program, first=FOLDER, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr == f"{program}: no CUDA device, nothing can be measured\n"


@pytest.mark.parametrize(
    ("program", "options"), [(p, options) for p, all in SMALLEST.items() for options in all]
)
def test_a_benchmark_measures_its_smallest_case(gpu: str, program: str, options: list[str]) -> None:
    done = python(FOLDER / program, *options, first=FOLDER)
    assert done.returncode == 0, done.stderr
    first, _, _, *rows = done.stdout.splitlines()
    assert "TFLOP/s" in first and "TB/s" in first and rows


def test_tables_of_ranks_are_measured_without_a_gpu() -> None:
    options = ("--device=cpu", "--case=small", "--repeats=1", "--simulate=2")
    done = python(FOLDER / "dynamicemb_dist.py", *options, first=FOLDER)
    assert done.returncode == 0, done.stderr
    first, second, columns, *rows = done.stdout.splitlines()
    assert "CPU cores" in first and "1 rank(s), gloo" in second and columns.endswith("x ceiling")
    assert [row.split()[2] for row in rows[:1]] == ["2"] and len(rows) == 5
    assert "skipped: TorchRec (dynamicemb: " in done.stderr


def test_the_loader_of_training_is_measured_without_a_gpu() -> None:
    done = python(FOLDER / "training.py", "--case=loader", first=FOLDER, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    first, *_, row = done.stdout.splitlines()
    assert "CPU cores" in first and row.startswith("loader")
    assert float(row.split()[-1]) > 3 * 660  # K tokens/s: three times what an H200 trains
