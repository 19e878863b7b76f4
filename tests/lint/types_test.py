"""The Python packages type-check under mypy --strict."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools.lint import tree

CORE = "accel_core"


def test_the_packages_are_typed(tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        pytest.skip("no mypy in this Python environment: pip install mypy")
    packages = sorted({f.split("/")[1] for f in tree.files() if f.endswith("/py.typed")})
    assert CORE in packages and len(packages) > 1
    for package in packages:  # as they lie in a wheel, each with its copy of the core
        files = {f: f for f in tree.files() if f.startswith(f"python/{package}/")}
        core = [f for f in tree.files() if f.startswith(f"python/{CORE}/") and package != CORE]
        files |= {f.replace(CORE, f"{package}/_core"): f for f in core}
        for place, file in files.items():
            if file.endswith((".py", ".pyi", "py.typed")):
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree.root() / file, tmp_path / place)
    config = tree.root() / "pyproject.toml"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir=cache", f"--config-file={config}"]
        + [f"python/{package}" for package in packages],
        cwd=tmp_path,
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
