"""The common room itself: what it draws, accepts, skips and kills."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.common.accuracy import assert_accurate
from tests.common.jagged import draw_lengths, prefix_sums
from tests.common.processes import killed, python

GPU_TESTS = """
import pytest

def test_fixture(gpu): assert False
def test_device(device): assert device == "cpu"
@pytest.mark.gpu
def test_mark(): assert False
def test_plain(): pass
"""


@pytest.mark.parametrize(("only", "passed", "skipped"), [("gpu or not gpu", 2, 3), ("gpu", 0, 3)])
def test_gpu_tests_are_skipped_with_the_reason_and_chosen_by_mark(
    tmp_path: Path, only: str, passed: int, skipped: int
) -> None:
    file, report = tmp_path / "some_test.py", tmp_path / "report.xml"
    file.write_text(GPU_TESTS)
    pytest_of = ["-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "tests.common.plugin"]
    done = python(*pytest_of, "-m", only, f"--junitxml={report}", file, CUDA_VISIBLE_DEVICES="")
    assert f"{skipped} skipped" in done.stdout and "failed" not in done.stdout, done.stdout
    assert (f"{passed} passed" in done.stdout) == (passed > 0)
    assert "needs a CUDA GPU of compute capability 8.0 or newer; the" in done.stdout
    if passed:
        assert 'name="cpu_seconds"' in report.read_text()


def test_prefix_sums_are_where_sequences_begin() -> None:
    sums = prefix_sums([3, 0, 2])
    assert sums.tolist() == [0, 3, 3, 5] and sums.dtype == torch.int32


def test_lengths_lie_inside_their_bounds_and_reach_them() -> None:
    def draw(**options: bool) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        return draw_lengths(generator, 100, [(0, 3), (1, 2)], **options)

    drawn = draw()
    assert {row[0] for row in drawn} == {0, 1, 2, 3} and {row[1] for row in drawn} == {1, 2}
    assert draw(full=True) == [[3, 2]] * 100
    assert draw(empties=True)[1::3] == [[0, 0]] * 33 and draw(empties=True)[::3] == drawn[::3]


def test_accuracy_is_measured_against_the_plain_program() -> None:
    exact = torch.tensor([1.0, 100.0])
    plain = torch.tensor([1.0, 101.0]).bfloat16()
    assert_accurate("x", torch.tensor([1.0, 102.0]).bfloat16(), exact, plain, factor=2)
    with pytest.raises(AssertionError, match="x: error 3"):
        assert_accurate("x", torch.tensor([1.0, 103.0]).bfloat16(), exact, plain, factor=2)
    with pytest.raises(AssertionError, match="x is not finite"):
        assert_accurate("x", torch.tensor([1.0, torch.nan]).bfloat16(), exact, plain, factor=2)


def test_one_rounding_is_allowed_where_the_plain_program_is_exact() -> None:
    exact = torch.tensor([1.0, 100.0])
    plain = exact.bfloat16()
    assert_accurate("x", torch.tensor([1.0, 100.5]).bfloat16(), exact, plain, factor=2)
    with pytest.raises(AssertionError):
        assert_accurate("x", torch.tensor([1.0, 102.0]).bfloat16(), exact, plain, factor=2)


def test_a_killed_process_has_not_ended_by_itself(tmp_path: Path) -> None:
    end = tmp_path / "end"
    endless = f"import time; print(1, flush=True); time.sleep(60); open({str(end)!r}, 'w')"
    assert list(killed(endless, 3)) == [0, 1, 2] and not end.exists()
    with pytest.raises(AssertionError, match="ends before it prints"):
        list(killed("pass", 1))


def test_a_folder_put_first_wins(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('mine')")
    assert python("-c", "import torch", first=tmp_path).stdout == "mine\n"
