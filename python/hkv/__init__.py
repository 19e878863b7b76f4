"""GPU and host hash tables for embeddings: keys to rows of values, bounded, evicting by score.

>>> import numpy as np
>>> import hkv
>>> table = hkv.HashTable(capacity=1000, dim=4, device="cpu")
>>> keys = np.array([3, 5], np.int64)
>>> status = table.insert_or_assign(keys, np.ones((2, 4), np.float32))
>>> values, founds = table.find(np.array([5, 7], np.int64))
>>> founds
array([ True, False])

Method names and meanings are those of HierarchicalKV's ``nv::merlin::HashTable``.
"""

from __future__ import annotations

from importlib import metadata

import hkv._core.main_interpreter  # noqa: F401 - first: it refuses others
from hkv import _hkv
from hkv._allocator import Allocator
from hkv._arrays import ArrayLike, DeviceArray
from hkv._results import Evicted, Exported, Missed, Status
from hkv._rows import NO_ROW, RowsView
from hkv._table import HashTable
from hkv._table_set import TableSet


def _version() -> str:
    """The installed package's version; in a source tree there is none."""
    try:
        return metadata.version("hkv")
    except metadata.PackageNotFoundError:
        return "unknown"


def device_count() -> int:
    """How many CUDA GPUs this process can use; 0 without a driver."""
    return _hkv.device_count()


__version__ = _version()
__all__ = [
    "NO_ROW",
    "Allocator",
    "ArrayLike",
    "DeviceArray",
    "Evicted",
    "Exported",
    "HashTable",
    "Missed",
    "RowsView",
    "Status",
    "TableSet",
    "__version__",
    "device_count",
]
