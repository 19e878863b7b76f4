"""HSTU ops of generative recommenders: the names, orders and defaults of Meta's package of this
name, in PyTorch and in Triton.

>>> from generative_recommenders.common import HammerKernel
>>> from generative_recommenders.ops.hstu_attention import hstu_mha
"""

from importlib import metadata

from generative_recommenders._core.alone import refuse_others

refuse_others(__file__, "hstu-triton")

try:
    __version__ = metadata.version("hstu-triton")
except metadata.PackageNotFoundError:  # a source tree
    __version__ = "unknown"
