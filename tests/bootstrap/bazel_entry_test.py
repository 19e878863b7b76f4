"""Which Bazel tools/bazel takes, and what it says when there is none to take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

Machine = Any  # the fixture's class, in conftest.py

RIGHT = """
if [ "$*" = --version ]; then echo bazel 7.7.1; exit; fi
printf '%s:' "$NAME"; printf '<%s>' "$@"; exit 7
"""
WRONG = "echo bazel 8.0.0"


def answering(name: str) -> str:
    return f"NAME={name}\n{RIGHT}"


def test_a_bazel_of_the_right_version_on_the_path_is_used_as_it_is(machine: Machine) -> None:
    machine.program("bazel", answering("path"))
    done = machine.bazel("build", "a b", "", "//x:*")
    assert (done.stdout, done.stderr, done.returncode) == ("path:<build><a b><><//x:*>", "", 7)
    assert not machine.cache.exists()


def test_a_bazel_of_another_version_is_passed_over_with_one_line_why(machine: Machine) -> None:
    wrong = machine.program("bazel", WRONG)
    machine.program("bazelisk", answering("bazelisk"))
    done = machine.bazel("info")
    assert done.stdout == "bazelisk:<info>"
    (line,) = done.stderr.splitlines()
    assert str(wrong) in line
    assert "'bazel 8.0.0'" in line
    assert "'bazel 7.7.1'" in line


def test_a_bazel_that_cannot_answer_is_passed_over(machine: Machine) -> None:
    machine.program("bazel", "exit 1")
    machine.program("bazelisk", answering("bazelisk"))
    assert machine.bazel("info").stdout == "bazelisk:<info>"


def test_bazel_real_goes_before_the_path(machine: Machine) -> None:
    machine.program("bazel", answering("path"))
    machine.env["BAZEL_REAL"] = str(machine.program("real", answering("real")))
    assert machine.bazel("info").stdout == "real:<info>"


def test_a_bazel_real_of_another_version_is_passed_over(machine: Machine) -> None:
    machine.program("bazel", answering("path"))
    machine.env["BAZEL_REAL"] = str(machine.program("real", WRONG))
    assert machine.bazel("info").stdout == "path:<info>"


@pytest.mark.parametrize("name", ["bazel", "bazelisk"])
def test_a_launcher_that_calls_tools_bazel_with_bazel_real_ends(
    machine: Machine, name: str
) -> None:
    """What bazelisk and Debian's launcher do, whichever name bazelisk is installed under."""
    real = machine.program("real", answering("real"))
    machine.program(name, f'BAZEL_REAL={real} exec {machine.entry} "$@"')
    done = machine.bazel("info")
    assert (done.stdout, done.stderr) == ("real:<info>", "")


def test_a_program_that_only_calls_tools_bazel_again_is_refused(machine: Machine) -> None:
    machine.program("bazel", f'{machine.entry} "$@"')
    machine.program("bazelisk", answering("bazelisk"))
    done = machine.bazel("info")
    assert done.stdout == "bazelisk:<info>"
    assert "called by the program it asked" in done.stderr


def test_tools_bazel_on_the_path_is_not_taken_for_a_bazel(machine: Machine) -> None:
    (machine.bin / "bazel").symlink_to(machine.entry)
    machine.program("bazelisk", answering("bazelisk"))
    done = machine.bazel("info", entry=machine.bin / "bazel")
    assert (done.stdout, done.stderr) == ("bazelisk:<info>", "")


def test_a_bazel_on_the_path_serves_a_machine_for_which_none_is_installed(machine: Machine) -> None:
    machine.program("uname", "echo Darwin arm64")
    machine.program("bazel", answering("path"))
    assert machine.bazel("info").stdout == "path:<info>"


def test_another_architecture_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.program("uname", "echo Linux aarch64")
    line = machine.refusal()
    assert "Linux aarch64" in line
    assert "put bazel 7.7.1 or bazelisk on the PATH" in line
    assert not machine.cache.exists()


@pytest.mark.parametrize("body", ["exit 127", "exit 1  # what an old Python answers"])
def test_no_python_is_refused_in_one_line(machine: Machine, body: str) -> None:
    machine.can_install()
    machine.program("python3", body)
    assert "no python3 >= 3.9 on the PATH" in machine.refusal()


@pytest.mark.parametrize("cache", [None, "not/absolute"])
def test_no_home_is_refused_in_one_line(machine: Machine, cache: str | None) -> None:
    machine.can_install()
    del machine.env["HOME"]
    if cache:
        machine.env["XDG_CACHE_HOME"] = cache
    assert "set HOME or XDG_CACHE_HOME" in machine.refusal()


def test_xdg_cache_home_is_where_bazel_is_installed(machine: Machine, tmp_path: Path) -> None:
    machine.can_install()
    machine.env["XDG_CACHE_HOME"] = str(tmp_path / "xdg")
    assert machine.bazel("info").stdout.endswith("<info>")
    assert len(list((tmp_path / "xdg/accelerated-modules").glob("bazel-7.7.1-*"))) == 1
    assert not machine.cache.exists()


def test_an_installed_bazel_starts_in_well_under_a_second(machine: Machine) -> None:
    machine.can_install()
    machine.bazel("info")
    start = time.monotonic()
    machine.bazel("info")
    assert time.monotonic() - start < 1


def test_an_installed_bazel_does_not_wait_for_a_bazelisk_that_cannot_answer(
    machine: Machine,
) -> None:
    machine.can_install()
    machine.bazel("info")
    machine.program("bazelisk", "sleep 50")
    start = time.monotonic()
    done = machine.bazel("info")
    assert done.stdout.endswith("<info>")
    assert "not using" in done.stderr
    assert time.monotonic() - start < 10


def test_a_bazel_put_on_the_path_later_goes_before_the_installed_one(machine: Machine) -> None:
    machine.can_install()
    machine.bazel("info")
    machine.program("bazel", answering("path"))
    assert machine.bazel("info").stdout == "path:<info>"


def test_the_entry_works_through_a_link(machine: Machine) -> None:
    machine.program("bazel", answering("path"))
    link = machine.root / "link"
    link.symlink_to(machine.entry)
    assert machine.bazel("info", entry=link).stdout == "path:<info>"
