"""The header by itself: programs made with plain ``nvcc -std=c++17``, which run where a GPU is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

if "PROGRAMS" not in os.environ:
    pytest.skip("tools/bazel test compiles the programs", allow_module_level=True)

PROGRAMS = {Path(path).name: Path(path) for path in os.environ["PROGRAMS"].split()}


def test_every_program_was_compiled_and_linked_with_nothing_but_the_header() -> None:
    assert set(PROGRAMS) == {"simple_table", "lookup_in_kernel", "header_types"}
    for program in PROGRAMS.values():
        assert program.read_bytes().startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_program_says_that_its_results_are_right(name: str) -> None:
    done = subprocess.run([str(PROGRAMS[name])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right" in done.stdout
    assert "WRONG" not in done.stdout
