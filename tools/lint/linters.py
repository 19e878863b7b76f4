"""The linters, each pinned (third_party/pins.bzl): what they look at, how they check and mend."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tools.lint import tree

BAZEL_FILES = ("*.bzl", "*.BUILD", "BUILD", "BUILD.bazel", "MODULE.bazel", "WORKSPACE")
CPP_FILES = ("*.cc", "*.cpp", "*.cu", "*.cuh", "*.h", "*.hpp")
PYTHON_FILES = ("*.py", "*.pyi")


class Missing(Exception):
    """A linter is not on this machine; the message says why."""


@dataclass(frozen=True)
class Linter:
    patterns: tuple[str, ...]
    program: tuple[str, ...]
    checks: tuple[tuple[str, ...], ...]
    mends: tuple[tuple[str, ...], ...]

    def files(self) -> list[str]:
        return [f for f in tree.files() if matches(f, self.patterns)]

    def run(self, arguments: tuple[str, ...]) -> str:
        """Runs the program on all of its files; returns what it said if it failed, else ''."""
        done = subprocess.run(
            [*self.program, *arguments, *self.files()],
            cwd=tree.root(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return f"{done.stdout}exit code {done.returncode}" if done.returncode else ""


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(Path(path).name, pattern) for pattern in patterns)


def buildifier() -> Linter:
    program = os.environ.get("BUILDIFIER")
    if not program:
        raise Missing("no buildifier: it comes through npm, which is not on the PATH")
    # native-cc-*: rules_cc 0.0.11 has no such symbols to load.
    warnings = "--warnings=-attr-licenses,-native-cc-common,-native-cc-info"
    return Linter(
        BAZEL_FILES,
        (str(Path(program).resolve()),),
        (("--mode=check", "--lint=warn", warnings),),
        (("--mode=fix", "--lint=fix", warnings),),
    )


def clang_format() -> Linter:
    spec = find_spec("clang_format")
    if spec is None or spec.origin is None:
        raise Missing(
            "no clang-format in this Python environment: pip install clang-format==19.1.7"
        )
    program = Path(spec.origin).parent / "data/bin/clang-format"
    return Linter(
        CPP_FILES, (str(program),), (("--dry-run", "--Werror", "--ferror-limit=20"),), (("-i",),)
    )


def ruff() -> Linter:
    if find_spec("ruff") is None:
        raise Missing("no ruff in this Python environment: pip install ruff")
    return Linter(
        PYTHON_FILES,
        (sys.executable, "-m", "ruff"),
        (
            ("check", "--no-cache", "-q", "--output-format=concise"),
            ("format", "--no-cache", "--check"),
        ),
        (
            ("check", "--no-cache", "-q", "--output-format=concise", "--fix"),
            ("format", "--no-cache", "-q"),
        ),
    )


ALL = (buildifier, clang_format, ruff)
