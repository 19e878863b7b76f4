"""Every test of the table runs on the host engine, and on the GPU engine where there is one: once
with batches that take one kernel, once with batches that are written in passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hkv
import numpy as np
import pytest


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
