"""Every file is formatted and free of lint warnings (tools/bazel run //tools/lint:fix)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tools.lint import linters, tree


@pytest.mark.parametrize("make", linters.ALL, ids=lambda make: make.__name__)
def test_every_file_passes(make: Callable[[], linters.Linter]) -> None:
    try:
        linter = make()
    except linters.Missing as reason:
        pytest.skip(str(reason))
    assert linter.files(), "the linter has nothing to look at"
    said = "\n".join(filter(None, map(linter.run, linter.checks)))
    assert not said, f"{said}\ntools/bazel run //tools/lint:fix mends most of it"


def shell_scripts() -> list[str]:
    found = []
    for path in tree.files():
        with open(tree.root() / path, "rb") as file:
            first = file.readline(80)
        if path.endswith(".sh") or (first.startswith(b"#!") and first.rstrip().endswith(b"sh")):
            found.append(path)
    return found


def test_every_shell_script_parses() -> None:
    assert "tools/bazel" in shell_scripts()
    for path in shell_scripts():
        done = subprocess.run(["bash", "-n", tree.root() / path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_script_is_executable() -> None:
    for path in tree.files():
        with open(tree.root() / path, "rb") as file:
            script = file.read(2) == b"#!"
        assert script == os.access(tree.root() / path, os.X_OK), path
