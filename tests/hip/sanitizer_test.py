"""The sanitizers watch the kernels that are run on the host."""

from __future__ import annotations

import subprocess

from tests.common.bazel import variable

SANITIZED = variable("SANITIZED")


def test_a_write_behind_an_array_ends_the_run() -> None:
    done = subprocess.run([SANITIZED, "too_far"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "WRITE of size 4" in done.stderr
