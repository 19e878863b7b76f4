"""The Python packages type-check under mypy --strict."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools.lint import tree


def test_the_packages_are_typed(tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        pytest.skip("no mypy in this Python environment: pip install mypy")
    packages = sorted({f.split("/")[1] for f in tree.files() if f.endswith("/py.typed")})
    assert packages
    done = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"]
        + [f"python/{package}" for package in packages],
        cwd=tree.root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_package_says_that_it_is_typed() -> None:
    files = tree.files()
    packages = {
        "/".join(f.split("/")[:2]) for f in files if f.startswith("python/") and f.count("/") > 1
    }
    assert not {f"{package}/py.typed" for package in packages} - set(files)
