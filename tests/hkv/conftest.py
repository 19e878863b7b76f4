"""Every test of the table runs on the host engine, and on the GPU engine where there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkv
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # hkv_model, in every import mode of pytest

_GPU_MISSING = "needs a CUDA device"


class Engine:
    """One engine with NumPy arrays in and out."""

    def __init__(self, device: str) -> None:
        self.device = device

    def table(self, capacity: int, dim: int = 4, **options: Any) -> hkv.HashTable:
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
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(hkv.device_count() == 0, reason=_GPU_MISSING)
        ),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(request.param)


@pytest.fixture
def rows() -> Callable[[Any, int], np.ndarray]:
    """Rows that tell their key: row[d] = key mod 100 + d / 8."""

    def make(keys: Any, dim: int = 4, dtype: str = "float32") -> np.ndarray:
        base = (np.asarray(keys).astype(np.int64) % 100).astype(np.float32)
        return (base[:, None] + np.arange(dim, dtype=np.float32) / 8).astype(dtype)

    return make
