"""Training of generative recommenders (HSTU): ranking and retrieval, on ``hstu_attn`` and
``dynamicemb``.

    python -m hstu_training.preprocess --dataset ml-1m --input ml-1m.zip --output data/ml-1m
    torchrun -m hstu_training.pretrain_gr_retrieval --gin-config-file=ml_1m_retrieval.gin

``hstu_training.training.gin_config_args`` has every setting; docs/hstu_training.md the formulas.
"""

from __future__ import annotations

from importlib import metadata

import hstu_training._core.main_interpreter  # noqa: F401 - first: it refuses others
from hstu_training.configs.hstu_config import (
    HSTUConfig,
    HSTULayerType,
    KernelBackend,
    get_hstu_config,
)
from hstu_training.configs.task_config import RankingConfig, RetrievalConfig


def _version() -> str:
    """The installed package's version; in a source tree, that of the kernels it stands on."""
    try:
        return metadata.version("hstu-training")
    except metadata.PackageNotFoundError:
        from hstu_attn.ops import build_info

        return str(build_info()["version"])


__version__ = _version()
__all__ = [
    "HSTUConfig",
    "HSTULayerType",
    "KernelBackend",
    "RankingConfig",
    "RetrievalConfig",
    "__version__",
    "get_hstu_config",
]
