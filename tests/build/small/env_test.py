"""A test with a Python environment of its own: its packages come first, the others stay."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if "PYTHON_LAYER" not in os.environ:
    pytest.skip("only bazel test makes the environment", allow_module_level=True)

FOLDER, *REQUIREMENTS = Path(os.environ["PYTHON_LAYER"]).read_text().splitlines()


def test_the_packages_of_the_environment_come_first() -> None:
    assert [f"numpy=={np.__version__}"] == REQUIREMENTS
    assert str(np.__file__).startswith(FOLDER + "/")


def test_what_it_does_not_bring_is_the_common_environments() -> None:
    torch = find_spec("torch")
    assert torch is not None and torch.origin is not None
    assert not torch.origin.startswith(FOLDER) and torch.origin.startswith(sys.prefix)
