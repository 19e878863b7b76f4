"""What CI counts, and the time that each package's tests may take."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.common.processes import python
from tools.lint import tree

COUNT = tree.root() / ".ci/count.py"
BUDGET = json.loads(COUNT.with_name("budget.json").read_text())
CASES = """
<testcase name="a"/><testcase name="b"><skipped/></testcase><testcase name="c">{}</testcase>
"""
TIMES = '<properties><property name="cpu_seconds" value="{}"/></properties>'


def count(logs: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    return python(COUNT, logs, str(status))


def report(logs: Path, target: str, times: str, third: str = "") -> None:
    folder = logs / "tests" / target
    folder.mkdir(parents=True)
    suite = f'<testsuite time="61.5">{times}{CASES.format(third)}</testsuite>'
    (folder / "test.xml").write_text(f"<testsuites>{suite}</testsuites>")


def test_every_package_of_tests_has_a_budget_of_at_most_three_minutes() -> None:
    folders = {p.split("/")[1] for p in tree.files() if p.startswith("tests/") and p.count("/") > 1}
    assert set(BUDGET) == folders
    assert all(0 < seconds <= 180 for seconds in BUDGET.values())


def test_tests_and_minutes_are_summed_by_package(tmp_path: Path) -> None:
    report(tmp_path, "hkv/table_test", TIMES.format(6))
    report(tmp_path, "hkv/file_test", TIMES.format(12))
    report(tmp_path, "lint/plain_test", TIMES.format(0))
    done = count(tmp_path)
    assert done.returncode == 0 and not done.stderr
    _, hkv, lint, total = done.stdout.splitlines()
    assert hkv.split() == ["hkv", "4", "0", "2", "2.0", "0.30", f"{BUDGET['hkv'] / 60:.1f}"]
    assert lint.split()[:4] == ["lint", "2", "0", "1"]
    assert total == "6 passed, 0 failed, 3 skipped"


def test_a_package_over_its_budget_is_said_and_fails_where_no_shared_core_explains_it(
    tmp_path: Path,
) -> None:
    for seconds, code in ((BUDGET["hkv"] + 1, 0), (2 * BUDGET["hkv"] + 1, 1)):
        report(tmp_path / str(code), "hkv/table_test", TIMES.format(seconds))
        done = count(tmp_path / str(code))
        assert done.returncode == code
        said = f"tests/hkv took {seconds} CPU-s, .ci/budget.json says {BUDGET['hkv']}"
        assert said in (done.stderr if code else done.stdout)


def test_a_test_that_is_not_pytest_s_counts_with_its_time(tmp_path: Path) -> None:
    report(tmp_path, "ci/plain_test", "")
    assert "tests/ci took 62 CPU-s" in count(tmp_path).stderr


def test_failures_and_the_status_of_bazel_are_kept(tmp_path: Path) -> None:
    assert "0 passed, 1 failed" in count(tmp_path, 3).stdout
    assert count(tmp_path, 3).returncode == 3
    report(tmp_path, "hkv/table_test", TIMES.format(1), "<failure/>")
    assert count(tmp_path).returncode == 1
    assert "1 passed, 1 failed, 1 skipped" in count(tmp_path).stdout
