"""What docs/migration.md names in place of something else exists."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.docs import naming
from tools.lint import tree

WITHOUT = ("not needed", "not here yet")
BAZEL_FLAGS = ("--jobs",)  # Bazel's own


class Row(NamedTuple):
    line: int
    there: str
    here: str
    remark: str


def rows(text: str) -> Iterator[Row]:
    """The rows of every table that has a third column, remarks."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells == ["there", "here", "remarks"]:
            inside = True
        elif inside and not set(line) <= set("|-"):
            assert len(cells) == 3, f"line {number}: {line}"
            yield Row(number, *cells)


ROWS = list(rows((tree.root() / "docs/migration.md").read_text()))


def exists(name: str) -> bool:
    """A flag, a target, an attribute of a package, a path."""
    if name.startswith("--//"):
        return naming.label(name.removeprefix("--").partition("=")[0])
    if name.startswith("--config="):
        return naming.config(name.partition("=")[2])
    if name.startswith("--"):
        return name.partition("=")[0] in BAZEL_FLAGS
    if name.startswith("//"):
        return naming.label(name)
    if re.fullmatch(r"(hkv|hstu_attn)\.\w+", name):
        package, _, attribute = name.partition(".")
        return hasattr(importlib.import_module(package), attribute)
    return naming.path(name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line{row.line}")
def test_the_replacement_exists(row: Row) -> None:
    names = re.findall(r"`([^`]+)`", row.here)
    assert re.findall(r"`([^`]+)`", row.there), row
    assert bool(names) != (row.here in WITHOUT), f"neither a name nor one of {WITHOUT}: {row}"
    assert [name for name in names if not exists(name)] == []


def test_what_is_not_needed_says_why() -> None:
    assert [row for row in ROWS if row.here == "not needed" and not row.remark] == []


def test_every_switch_of_the_build_is_named() -> None:
    text = (tree.root() / "csrc/hstu_attn/instances.bzl").read_text()
    switches = set(re.findall(r'"(\w+)"', text.partition("SWITCHES = [")[2].partition("]")[0]))
    named = set(
        re.findall(r"--//csrc/hstu_attn:HSTU_DISABLE_(\w+)", " ".join(r.here for r in ROWS))
    )
    assert named == switches


def test_a_name_that_is_not_there_is_found() -> None:
    for name in ("csrc/nothing.h", "hkv.nothing", "--nothing=1", "//python/hkv:nothing"):
        assert not exists(name)
    assert not exists("--//csrc/hstu_attn:HSTU_DISABLE_NOTHING")
