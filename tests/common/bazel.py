"""What Bazel hands to a test: the variables of its BUILD file."""

from __future__ import annotations

import os

import pytest


def variable(name: str) -> str:
    """Its value; the tests of a file that asks for it are skipped where Bazel does not run them."""
    if name not in os.environ:
        pytest.skip(
            f"only bazel test sets ${name}, to what the build made", allow_module_level=True
        )
    return os.environ[name]
