"""What pytest knows in every test of this project: GPUs, hypothesis settings, what a run costs.

A test is a GPU test if it has the mark ``gpu`` (``pytest -m gpu`` runs those alone), takes the
fixture ``gpu``, or runs with the parameter ``cuda`` of the fixture ``device``. Without a GPU it is
skipped, and the report says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.common import gpus

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are small: more threads wait for each other
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"gpu: {gpus.NO_GPU}")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := gpus.why_none()):
        pytest.skip(reason)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a test of torch tensors runs: on the CPU, and on the GPU where there is one."""
    return str(request.param) if request.param == "cpu" else request.getfixturevalue("gpu")


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of a test of torch tensors that only means something on a GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"needs a PyTorch that finds the GPU; {torch.__version__} does not")
    return "cuda"


@pytest.fixture(scope="session", autouse=True)
def _cost(record_testsuite_property: Callable[[str, object], None]) -> Iterator[None]:
    """CPU-seconds of this process and its children in the JUnit report, for .ci/count.py."""
    yield
    record_testsuite_property("cpu_seconds", round(sum(os.times()[:4]), 2))
