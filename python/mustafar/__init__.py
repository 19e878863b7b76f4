"""Mustafar: decode attention over a pruned, bitmap-compressed KV cache.

>>> from mustafar import MustafarCache, decode_attention

``mustafar.prune`` says which keys and values stay, ``mustafar.compression`` packs them,
``mustafar.ref`` is all of it in plain PyTorch; ``python -m mustafar`` says what this installation
can do. ``mustafar_package`` is the same library under the names of older scripts.
"""

from __future__ import annotations

from importlib import metadata

from mustafar._core.alone import refuse_others

refuse_others(__file__, "mustafar")

import mustafar._core.main_interpreter  # noqa: E402, F401
from mustafar.cache import MustafarCache, decode_attention  # noqa: E402
from mustafar.ops import build_info  # noqa: E402


def _version() -> str:
    """The installed package's version; in a source tree, that of the op library."""
    try:
        return metadata.version("mustafar")
    except metadata.PackageNotFoundError:
        return str(build_info()["version"])


__version__ = _version()
__all__ = ["MustafarCache", "__version__", "decode_attention"]
