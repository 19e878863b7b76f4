"""Every test of the table runs on the host engine, and on the GPU engine where there is one: once
with batches that take one kernel, once with batches that are written in passes.

Where the GPU tables are HierarchicalKV's, the tests with the mark `any_engine` run on it; the
others ask for what it does otherwise (docs/hkv_upstream.md) and skip.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import hkv
import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "any_engine: needs no status of each key")


def pytest_runtest_setup(item: pytest.Item) -> None:
    on_gpu, anywhere = (item.get_closest_marker(mark) for mark in ("gpu", "any_engine"))
    if on_gpu and not anywhere and _engine() == "upstream":
        pytest.skip("needs what HierarchicalKV does otherwise: statuses, any capacity, any key")


@functools.cache
def _engine() -> str:
    """What the GPU tables are built on."""
    return hkv.HashTable(128, 1).engine if hkv.device_count() else "none"


class Engine:
    """One engine with NumPy arrays in and out."""

    def __init__(self, device: str, passes_from: int) -> None:
        self.device = device
        self.passes_from = passes_from

    def table(self, capacity: int, dim: int = 4, **options: Any) -> hkv.HashTable:
        options = {"passes_from": self.passes_from, **options}
        return hkv.HashTable(capacity, dim, device=self.device, **options)

    def put(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """The array where the table wants it."""
        if self.device == "cpu":
            return array
        return hkv.DeviceArray.of(array, 0, dtype)

    def get(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else array.numpy()


@pytest.fixture(
    params=[
        pytest.param(("cpu", 1), id="cpu"),
        pytest.param(("cuda", 1 << 40), id="cuda", marks=pytest.mark.gpu),
        pytest.param(("cuda", 1), id="cuda-passes", marks=pytest.mark.gpu),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(*request.param)


@pytest.fixture
def rows() -> Callable[[Any, int], np.ndarray]:
    """Rows that tell their key: row[d] = key mod 100 + d / 8."""

    def make(keys: Any, dim: int = 4, dtype: str = "float32") -> np.ndarray:
        base = (np.asarray(keys).astype(np.int64) % 100).astype(np.float32)
        return (base[:, None] + np.arange(dim, dtype=np.float32) / 8).astype(dtype)

    return make
