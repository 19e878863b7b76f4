"""What compiling the release's CUDA sources took, against the budgets.

Those of every source are tools/compile_report/budget.json, those of a package are its row.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.compile_report.report import (
    SHARED,
    Compile,
    chart,
    over_budget,
    read,
    read_ptxas,
    table,
)

if "BUDGET" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/release/... builds what it looks at", allow_module_level=True
    )

EACH = json.loads(Path(os.environ["BUDGET"]).read_text())
ROWS = json.loads(Path(os.environ["PACKAGES"]).read_text())
REPORT = {path.suffix: path for path in map(Path, os.environ["REPORT"].split())}
COMPILES = [
    Compile(**{**entry, "packages": tuple(entry["packages"])})
    for entry in json.loads(REPORT[".json"].read_text())
]

PTXAS = """\
ptxas info    : Compiling entry function '_Z1kv' for 'sm_80'
ptxas info    : Function properties for _Z1kv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 380 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1kv' for 'sm_90'
ptxas info    : Function properties for _Z1kv
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""
SOURCE = Compile("//a:b", "b.cu", 10.0, 300, 100, 1, 128, 0, ("a",))
ROW = {"a": {"unit_seconds": 20, "all_seconds": 29}}


def test_the_release_keeps_to_the_budget() -> None:
    assert not over_budget(COMPILES, EACH, ROWS)


def test_every_compile_was_measured() -> None:
    assert COMPILES
    assert {p for c in COMPILES for p in c.packages} == {p for p in ROWS if ROWS[p]["all_seconds"]}
    for compile in COMPILES:
        assert compile.cpu_seconds > 0.1 and compile.peak_mib > 10 and compile.object_kib > 0


@pytest.mark.parametrize("figure", EACH)
def test_a_source_above_its_budget_is_named(figure: str) -> None:
    over = Compile(**{**vars(SOURCE), figure: EACH[figure] + 1})
    (line,) = over_budget([SOURCE, over], EACH, ROW)
    assert line.startswith(f"a:b: {figure}")


def test_a_source_that_no_shared_core_explains_is_named() -> None:
    within, over = (
        Compile(**{**vars(SOURCE), "cpu_seconds": SHARED * 20 + more}) for more in (0, 0.5)
    )
    (line,) = over_budget([over], EACH, {"a": {"unit_seconds": 20, "all_seconds": 99}})
    assert line == "a:b: cpu_seconds 40.5, the budget is 40"
    assert not over_budget([within], EACH, ROW)


def test_a_package_that_no_shared_core_explains_is_named() -> None:
    (line,) = over_budget([SOURCE] * 6, EACH, ROW)
    assert line == "a: cpu_seconds 60 in all, the budget is 58"
    assert not over_budget([SOURCE] * 5, EACH, ROW)


def test_the_figures_come_from_the_compilers_report() -> None:
    assert read_ptxas(PTXAS) == (1, 255, 32)


def test_a_compile_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "x.cost").write_text('{"cpu_seconds": 2.76, "peak_kib": 275512}')
    (tmp_path / "x.ptxas").write_text(PTXAS)
    (tmp_path / "x.o").write_bytes(bytes(5000))
    entry: dict[str, object] = {
        "label": "//a:x",
        "object": str(tmp_path / "x.o"),
        "packages": ["a"],
    }
    entry |= {"cost": str(tmp_path / "x.cost"), "ptxas": str(tmp_path / "x.ptxas")}
    (tmp_path / "manifest").write_text(json.dumps([entry]))
    assert read(tmp_path / "manifest") == [
        Compile("//a:x", "x.cu", 2.76, 269, 5, 1, 255, 32, ("a",))
    ]


def test_table_and_chart_show_every_source() -> None:
    ElementTree.parse(REPORT[".svg"])
    svg, txt = REPORT[".svg"].read_text(), REPORT[".txt"].read_text()
    for compile in COMPILES:
        assert compile.name in svg and compile.name in txt
    assert chart(COMPILES) == svg and table(COMPILES) == txt
