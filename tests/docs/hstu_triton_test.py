"""What docs/hstu_triton_files.md names in place of Meta's files and functions exists."""

from __future__ import annotations

import re

import pytest

from tests.docs import naming
from tools.lint import tree

PACKAGE = "python/generative_recommenders"


def rows() -> list[list[str]]:
    """The cells of the table whose heading is there, here, remarks."""
    text = (tree.root() / "docs/hstu_triton_files.md").read_text()
    table = text.partition("| there | here | remarks |\n|---|---|---|\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def exists(name: str) -> bool:
    """A path, or a function or class of a module of the package."""
    if "/" in name:
        return naming.path(name)
    module, _, attribute = name.rpartition(".")
    file = tree.root() / PACKAGE / (module.replace(".", "/") + ".py")
    spelled = rf"^(def|class) {re.escape(attribute)}\b"
    return file.is_file() and re.search(spelled, file.read_text(), re.M) is not None


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_replacement_exists(row: list[str]) -> None:
    there, here, remark = row
    assert re.fullmatch(r"`[^`]+`", there)
    if here == "not offered":
        assert remark
        return
    names = re.findall(r"`([^`]+)`", here)
    assert len(names) == 1 and exists(names[0]), row


def test_there_are_as_many_rows_as_files_and_functions_are_known() -> None:
    files = [row for row in rows() if row[0].endswith(".py`")]
    assert len(files) >= 14 and len(rows()) - len(files) >= 14


def test_a_name_that_is_not_there_is_found() -> None:
    for name in ("common.Nothing", "nothing.HammerKernel", "tests/hstu_triton/nothing.py"):
        assert not exists(name)
