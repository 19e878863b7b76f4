"""Another workspace depends on targets here, as docs/build.md shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.nested import Nested, nested, scratch

PAGE = Path(__file__).parents[2] / "docs/build.md"


def shown(name: str) -> str:
    """The file of that name that the page shows: a block whose first line is `# name`."""
    block = rf"^```\w+\n# {re.escape(name)}\n(.*?)^```$"
    found = re.search(block, PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/build.md shows no {name}"
    return found[1]


@pytest.fixture(scope="module")
def other() -> Iterator[Nested]:
    with scratch() as folder, nested(folder / "one") as one:
        one.source.rename(folder / "one/accelerated_modules")
        one.source = folder / "one/accelerated_modules"
        one.workspace = folder / "one/my_model"
        one.workspace.mkdir()
        for name in ("MODULE.bazel", ".bazelrc", "BUILD.bazel", "serve.py"):
            (one.workspace / name).write_text(shown(name))
        yield one


def bazel(other: Nested, verb: str, *arguments: str) -> str:
    other.canonical = "accelerated_modules~~third_party~"
    return other.bazel(verb, *other.overrides.values(), "--jobs=2", *arguments).stdout


def test_a_program_of_another_workspace_imports_a_package(other: Nested) -> None:
    assert bazel(other, "run", "//:serve").startswith("accelerated-modules")


def test_the_toolchains_here_serve_another_workspace(other: Nested) -> None:
    bazel(other, "build", "--nobuild", "@accelerated_modules//tests/build/small:wheel")


def test_another_workspace_compiles_what_lies_here(other: Nested) -> None:
    bazel(other, "build", "@accelerated_modules//tests/build/small:wheel")
