"""Causal depthwise convolution over tokens: NVIDIA and AMD GPUs from one source, and CPUs.

>>> from causal_conv1d import causal_conv1d_fn, causal_conv1d_packed, causal_conv1d_update

See ``causal_conv1d.causal_conv1d_interface`` for the mathematics, ``causal_conv1d.ref`` for the
same in plain PyTorch, ``python -m causal_conv1d`` for what this installation can do.
"""

from __future__ import annotations

from importlib import metadata

import causal_conv1d._core.main_interpreter  # noqa: F401 - first: it refuses others
from causal_conv1d._core.alone import refuse_others

DISTRIBUTION = "causal-conv1d-hip"
refuse_others(__file__, DISTRIBUTION)

from causal_conv1d.causal_conv1d_interface import (  # noqa: E402
    causal_conv1d_fn,
    causal_conv1d_update,
)
from causal_conv1d.ops import build_info  # noqa: E402
from causal_conv1d.packed import causal_conv1d_packed  # noqa: E402


def _version() -> str:
    """The installed package's version; in a source tree, that of the op library."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return str(build_info()["version"])


__version__ = _version()
__all__ = ["__version__", "causal_conv1d_fn", "causal_conv1d_packed", "causal_conv1d_update"]
