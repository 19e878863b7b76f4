"""The compiled tables, by what fits this interpreter: the pybind11 module of the CPython that the
wheel was built with, or ctypes, which fits every CPython. Both have what ``_hkv.pyi`` says, over
one libhkv.so. The environment variable HKV_BINDING=ctypes or =pybind11 asks for one of them.
"""

from __future__ import annotations

import importlib.util
import os

from hkv import _by_ctypes
from hkv._by_ctypes import Options, __all__

binding = os.environ.get("HKV_BINDING") or (
    "pybind11" if importlib.util.find_spec("hkv._by_pybind11") else "ctypes"
)
if binding == "pybind11":
    from hkv._by_pybind11 import *  # noqa: F403
    from hkv._by_pybind11 import Table, adopt

    def create(
        on_device: bool, key: str, value: str, strategy: str, options: Options, num_threads: int
    ) -> Table:
        arguments = (on_device, key, value, strategy, options, num_threads)
        return adopt(_by_ctypes.create_address(*arguments))
elif binding == "ctypes":
    from hkv._by_ctypes import *  # noqa: F403
else:
    raise ImportError(f"hkv: HKV_BINDING is {binding!r}; it must be ctypes or pybind11")


def __dir__() -> list[str]:
    return __all__
