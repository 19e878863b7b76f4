"""Bazel inside a test: a copy of the checkout, built in an output base of its own.

Nothing is fetched again: the copy gets hard links to the external repositories that the outer
build unpacked, at another path, so that a build which writes paths down does not go unnoticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tools.lint import tree

# As hard links would: what a test changes is replaced, never written in place.
_COPY = ["cp", "--archive", "--link"]


def outer_base() -> Path:
    """The output base of the Bazel that runs this test."""
    base, found, _ = os.getcwd().partition("/execroot/")
    if not found:
        pytest.skip("only bazel test runs this: it takes the repositories of the outer build")
    return Path(base)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder outside of every output base (Bazel builds no checkout in one), on the same disk."""
    near = outer_base().parent
    folder = Path(
        tempfile.mkdtemp(prefix="nested-", dir=near if os.access(near, os.W_OK) else None)
    )
    try:
        yield folder
    finally:
        # Folders only: a hard link's mode is its other names' mode, too.
        locked = ["find", folder, "-type", "d", "!", "-perm", "-u+w", "-exec", "chmod", "u+w"]
        subprocess.run([*locked, "{}", "+"], check=False)
        subprocess.run(["rm", "-rf", folder], check=False)


@dataclass(frozen=True)
class Action:
    """A line of the execution log: one action that was run or taken from the disk cache."""

    mnemonic: str
    target: str
    runner: str


class Nested:
    """One copy of the checkout with its own server. `folder` must not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "checkout"
        self.workspace = self.source  # where Bazel runs
        self.flags: list[str] = []  # of every build
        self.canonical = "_main~third_party~"  # what repositories' names begin with
        for path in tree.files():
            place = self.source / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree.root() / path, place)

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Repository -> the flag that gives the copy the outer build's one."""
        return {
            name: f"--override_repository={self.canonical}{name}={self._link(name)}"
            for name in ("cc", "cuda", "python_env")
        }

    def _link(self, name: str) -> Path:
        """Hard links to an unpacked repository; its links into the checkout lead into the copy."""
        outer = outer_base() / "external"
        there = (outer / f"_main~third_party~{name}").resolve()
        if not there.exists():  # the outer build is in WORKSPACE mode
            there = (outer / name).resolve()
        here = self.folder / "external" / name
        here.mkdir(parents=True)
        for entry in there.iterdir():
            place = here / entry.name
            target = os.path.realpath(entry)
            inside = os.path.relpath(target, os.path.realpath(tree.root()))
            if entry.is_symlink() and not inside.startswith(".."):
                place.symlink_to(self.source / inside)
            elif entry.name in ("BUILD.bazel", "compiler.sh"):
                place.write_text(entry.read_text().replace(str(there), str(here)))
            elif entry.name == "env":  # the interpreter is no input: only its path is new
                place.symlink_to(target)
            elif subprocess.run([*_COPY, target, place], capture_output=True).returncode:
                subprocess.run(["cp", "--archive", target, place], check=True)
        return here

    def bazel(
        self, verb: str, *arguments: str, env: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [
            str(self.source / "tools/bazel"),
            "--nohome_rc",
            f"--output_base={self.folder / 'base'}",
            "--host_jvm_args=-Xmx800m",
            "--max_idle_secs=60",
            verb,
        ]
        if verb != "shutdown":
            command += ["--color=no", "--curses=no", "--noshow_progress"]
            # The Python that the outer build took, without what the outer test adds to its path.
            command += [f"--repo_env=ACCEL_PYTHON={os.path.realpath(sys.executable)}"]
        mine = {k: v for k, v in os.environ.items() if k in ("BAZEL_REAL", "HOME", "PATH")}
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.workspace,
            env=mine | {k: v for k, v in os.environ.items() if k.startswith("XDG_")} | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def build(self) -> list[Action]:
        """Builds the small wheel; returns what was run for it, or taken from the disk cache."""
        log = self.folder / "actions.json"
        log.unlink(missing_ok=True)
        self.bazel(
            "build",
            *self.overrides.values(),
            "--jobs=2",
            f"--execution_log_json_file={log}",
            "--noexecution_log_sort",
            "--remote_download_outputs=all",
            *self.flags,
            "//tests/build/small:wheel",
        )
        decoder, text, at, found = json.JSONDecoder(), log.read_text(), 0, []
        while (at := text.find("{", at)) >= 0:
            entry, at = decoder.raw_decode(text, at)
            found.append(
                Action(entry["mnemonic"], entry.get("targetLabel", ""), entry.get("runner", ""))
            )
        return found

    def wheel(self) -> bytes:
        folder = self.source / "bazel-bin/tests/build/small"
        (path,) = folder.glob("*.whl")
        return path.read_bytes()

    def append(self, path: str, line: str) -> None:
        """Adds a line to a file of the copy."""
        with (self.source / path).open("a") as file:
            file.write(line + "\n")

    def close(self) -> None:
        self.bazel("shutdown", check=False)


@contextmanager
def nested(folder: Path) -> Iterator[Nested]:
    one = Nested(folder)
    try:
        yield one
    finally:
        one.close()
