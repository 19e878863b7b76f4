"""``python -m hkv``: what is installed, and if a small table works on the host and each GPU."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from hkv import DeviceArray, HashTable, _hkv, device_count


def try_table(ordinal: int | None) -> str:
    """Stores a key on a GPU, or on the host, and says how that went."""
    keys, values = np.array([7], np.int64), np.ones((1, 4), np.float32)
    try:
        table = HashTable(capacity=1024, dim=4, device="cpu" if ordinal is None else ordinal)
        if ordinal is None:
            table.insert_or_assign(keys, values)
        else:
            on_gpu = (DeviceArray.of(array, ordinal) for array in (keys, values))
            table.insert_or_assign(*on_gpu)
        size = int(table.size())
    except (RuntimeError, MemoryError) as error:
        return f"DOES NOT WORK: {error}"
    return "works" if size == 1 else f"DOES NOT WORK: one key was stored, the size is {size}"


def main() -> int:
    print(f"hkv        {metadata.version('hkv')}")
    print(f"library    {Path(_hkv.__file__).with_name('libhkv.so')}, called by {_hkv.binding}")
    print(f"Python     {platform.python_version()}, numpy {np.__version__}")
    states = {"host": try_table(None)}
    for ordinal in range(device_count()):
        states[f"GPU {ordinal}"] = try_table(ordinal)
    for place, state in states.items():
        print(f"{place:10} {state}")
    if device_count() == 0:
        print("GPU        none is usable: no driver, an older one than CUDA 13.0's, or no device")
    return int(any(state != "works" for state in states.values()))


if __name__ == "__main__":
    sys.exit(main())
