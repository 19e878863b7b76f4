"""Builds of the small wheel: two checkouts give equal bytes, a change reruns what it must."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.nested import Action, Nested, nested, scratch

CACHE_HIT = "disk cache hit"
# Programs and folders of the machine that no action may use: compilers, headers, CUDA toolkits.
COMPILER = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|ld|as|ar|clang|clang\+\+|nvcc)(-[\d.]+)?")
FOLDERS = ["/usr/include", "/usr/lib/gcc", "/usr/local/cuda", "/opt/cuda"]


def host_compilers() -> list[str]:
    found = {os.path.realpath(f) for f in FOLDERS if os.path.isdir(f)}
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        found |= {os.path.realpath(f"{folder}/{n}") for n in names if COMPILER.fullmatch(n)}
    return sorted(path for path in found if os.path.exists(path))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


@pytest.fixture(scope="module")
def first(folder: Path) -> Iterator[tuple[Nested, list[Action]]]:
    """A checkout, and what its first build ran. It fills a disk cache that starts empty."""
    with nested(folder / "first") as one:
        yield one, one.build(f"--disk_cache={folder / 'cache'}")


def cuda(actions: list[Action], *, cached: bool = False) -> list[str]:
    """The targets of the CUDA compiles that ran, or that the disk cache served."""
    return sorted(
        action.target
        for action in actions
        if action.mnemonic == "CudaCompile" and (action.runner == CACHE_HIT) == cached
    )


SCALE, SHIFT = "//tests/build/small:scale_256", "//tests/build/small:shift"


def test_the_first_build_compiles_each_kernel_once(first: tuple[Nested, list[Action]]) -> None:
    _, actions = first
    assert cuda(actions) == [SCALE, SHIFT]


def test_without_a_change_nothing_runs(first: tuple[Nested, list[Action]], folder: Path) -> None:
    one, _ = first
    assert one.build(f"--disk_cache={folder / 'cache'}") == []


def test_after_clean_the_disk_cache_serves_every_compile(
    first: tuple[Nested, list[Action]], folder: Path
) -> None:
    one, _ = first
    before = one.wheel()
    one.bazel("clean")
    actions = one.build(f"--disk_cache={folder / 'cache'}")
    assert cuda(actions, cached=True) == [SCALE, SHIFT]
    assert {action.runner for action in actions} == {CACHE_HIT}
    assert one.wheel() == before


def test_a_changed_source_reruns_its_own_compile_alone(
    first: tuple[Nested, list[Action]],
) -> None:
    one, _ = first
    one.build()
    one.append("tests/build/small/shift.cu", "// changed")
    assert cuda(one.build()) == [SHIFT]


def test_a_changed_header_reruns_only_what_reads_it(first: tuple[Nested, list[Action]]) -> None:
    one, _ = first
    one.build()
    one.append("tests/build/small/shift.h", "// changed")  # scale.cu is given it, too
    assert cuda(one.build()) == [SHIFT]


def test_a_changed_header_that_nothing_reads_reruns_no_compile(
    first: tuple[Nested, list[Action]],
) -> None:
    one, _ = first
    one.build()
    one.append("tests/build/small/unread.h", "// changed")
    assert cuda(one.build()) == []


@pytest.fixture(scope="module")
def second(
    folder: Path, first: tuple[Nested, list[Action]]
) -> Iterator[tuple[Nested, list[Action]]]:
    """Another checkout at a path of another length, and what its first build ran.

    It has no disk cache, and the machine's compilers and headers are hidden from its actions.
    """
    with nested(folder / "elsewhere/second") as two:
        yield two, two.build(*(f"--sandbox_block_path={path}" for path in host_compilers()))


def test_two_checkouts_and_output_bases_give_the_same_bytes(
    first: tuple[Nested, list[Action]], second: tuple[Nested, list[Action]]
) -> None:
    one, _ = first
    two, actions = second
    assert cuda(actions) == [SCALE, SHIFT]
    assert one.source != two.source
    assert one.wheel() == two.wheel()


def test_no_compiler_or_header_of_the_machine_is_used(
    second: tuple[Nested, list[Action]],
) -> None:
    _, actions = second
    if {action.runner for action in actions} != {"linux-sandbox"}:
        pytest.skip("no linux-sandbox on this machine: it is what hides the host's compilers")
    assert {"CppCompile", "CppLink", "CudaCompile", "Wheel"} <= {a.mnemonic for a in actions}
