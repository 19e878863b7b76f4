"""HSTU attention for NVIDIA GPUs from SM80 on: forward and backward, every mask.

>>> from hstu_attn import hstu_attn_varlen_func

See ``hstu_attn.interface`` for the mathematics and the masks, ``hstu_attn.ref`` for the same in
plain PyTorch, ``python -m hstu_attn`` for what this installation can do.
"""

from __future__ import annotations

from importlib import metadata

import hstu_attn._core.main_interpreter  # noqa: F401 - first: it refuses others
from hstu_attn.interface import hstu_attn_qkvpacked_func, hstu_attn_varlen_func
from hstu_attn.ops import build_info


def _version() -> str:
    """The installed package's version; in a source tree, that of the op library."""
    try:
        return metadata.version("hstu-attn")
    except metadata.PackageNotFoundError:
        return str(build_info()["version"])


__version__ = _version()
__all__ = ["__version__", "hstu_attn_qkvpacked_func", "hstu_attn_varlen_func"]
