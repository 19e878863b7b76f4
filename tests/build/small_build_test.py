"""Builds of the small wheel: two checkouts give equal bytes, a change reruns what it must.

One checkout is the one that Bazel runs this test in, which has built the wheel; the other is a copy
of it at another path, with an output base and a disk cache of its own, both empty at first. The
machine's compilers are hidden from the copy's actions.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.build.nested import Action, Nested, nested, scratch
from tools.lint import tree

CACHE_HIT = "disk cache hit"
CHANGED = [f"tests/build/small/{name}" for name in ("shift.cu", "shift.h", "unread.h")]
SCALE, SHIFT = "//tests/build/small:scale_256", "//tests/build/small:shift"

# Programs and folders of the machine that no action may use: compilers, headers, CUDA toolkits.
COMPILER = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|ld|as|ar|clang|clang\+\+|nvcc)(-[\d.]+)?")
FOLDERS = ["/usr/include", "/usr/lib/gcc", "/usr/local/cuda", "/opt/cuda"]


def host_compilers() -> list[str]:
    found = {os.path.realpath(f) for f in FOLDERS if os.path.isdir(f)}
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        found |= {os.path.realpath(f"{folder}/{n}") for n in names if COMPILER.fullmatch(n)}
    return sorted(path for path in found if os.path.exists(path))


@dataclass
class Built:
    """The copy after its first build."""

    checkout: Nested
    actions: list[Action]
    wheel: bytes


@pytest.fixture(scope="module")
def first() -> Iterator[Built]:
    with scratch() as folder, nested(folder / "first") as checkout:
        hidden = [f"--sandbox_block_path={path}" for path in host_compilers()]
        checkout.flags = [f"--disk_cache={folder / 'cache'}", *hidden]
        actions = checkout.build()
        yield Built(checkout, actions, checkout.wheel())


def cuda(actions: list[Action]) -> list[str]:
    """The targets of the CUDA compiles that really ran."""
    ran = [a for a in actions if a.mnemonic == "CudaCompile" and a.runner != CACHE_HIT]
    return sorted(action.target for action in ran)


def test_the_first_build_compiles_each_kernel_once(first: Built) -> None:
    assert cuda(first.actions) == [SCALE, SHIFT]


def test_two_checkouts_and_output_bases_give_the_same_bytes(first: Built) -> None:
    assert Path(os.environ["WHEEL"]).read_bytes() == first.wheel, "or the flags are not the default"


def test_no_compiler_or_header_of_the_machine_is_used(first: Built) -> None:
    if {action.runner for action in first.actions} != {"linux-sandbox"}:
        pytest.skip("no linux-sandbox on this machine: it is what hides the host's compilers")
    mnemonics = {action.mnemonic for action in first.actions}
    assert {"CppCompile", "CppLink", "CudaCompile", "Wheel"} <= mnemonics


def test_an_environment_that_no_built_target_needs_is_not_fetched(first: Built) -> None:
    package = first.checkout.source / "tests/build/small/BUILD.bazel"
    assert 'env = "oldest_numpy"' in package.read_text()  # a neighbour of what was built needs it
    assert not list((first.checkout.folder / "base/external").glob("*oldest_numpy*"))


def test_without_a_change_nothing_runs(first: Built) -> None:
    assert first.checkout.build() == []


def test_a_changed_source_reruns_its_own_compile_alone(first: Built) -> None:
    first.checkout.append("tests/build/small/shift.cu", "// changed")
    assert cuda(first.checkout.build()) == [SHIFT]


def test_a_changed_header_reruns_only_what_reads_it(first: Built) -> None:
    first.checkout.append("tests/build/small/shift.h", "// changed")  # scale.cu is given it, too
    assert cuda(first.checkout.build()) == [SHIFT]


def test_a_changed_header_that_nothing_reads_reruns_no_compile(first: Built) -> None:
    first.checkout.append("tests/build/small/unread.h", "// changed")
    assert cuda(first.checkout.build()) == []


def test_after_clean_the_disk_cache_serves_every_action(first: Built) -> None:
    for path in CHANGED:
        shutil.copy(tree.root() / path, first.checkout.source / path)
    first.checkout.bazel("clean")
    actions = first.checkout.build()
    assert {action.runner for action in actions} == {CACHE_HIT}
    assert sorted(a.target for a in actions if a.mnemonic == "CudaCompile") == [SCALE, SHIFT]
    assert first.checkout.wheel() == first.wheel
