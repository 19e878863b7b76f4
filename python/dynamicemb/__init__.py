"""Dynamic embeddings: tables of rows by any int64 key, which train on one device.

>>> from dynamicemb import DynamicEmbeddingBagCollection

``BatchedDynamicEmbeddingTablesV2`` (``dynamicemb.batched_dynamicemb_tables``) is the module below
the collections; ``dynamicemb.ref`` says in plain Python what all of it computes.
"""

from __future__ import annotations

from importlib import metadata

import dynamicemb._core.main_interpreter  # noqa: F401 - first: it refuses others
from dynamicemb._core.alone import refuse_others

refuse_others(__file__, "dynamicemb")

from dynamicemb.admission import (  # noqa: E402
    FrequencyAdmissionStrategy,
    KVCounter,
    ProbabilisticAdmissionStrategy,
)
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2  # noqa: E402
from dynamicemb.dynamicemb_config import (  # noqa: E402
    BATCH_SIZE_PER_DUMP,
    BUCKET_ALIGNMENT,
    DEMB_TABLE_ALIGN_SIZE,
    MAX_BUCKET_CAPACITY,
    DynamicEmbTableOptions,
    EmbOptimType,
    OptimizerArgs,
    align_to_table_size,
    get_sharded_table_capacity,
    get_table_value_bytes,
)
from dynamicemb.exchange import ExchangeOptions  # noqa: E402
from dynamicemb.incremental_dump import DynamicEmbDump, DynamicEmbLoad  # noqa: E402
from dynamicemb.modules import (  # noqa: E402
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
    EmbeddingBagConfig,
    EmbeddingConfig,
    KeyedJaggedTensor,
)
from dynamicemb.ops import build_info  # noqa: E402
from dynamicemb.types import (  # noqa: E402
    AdmissionStrategy,
    Counter,
    DynamicEmbCheckMode,
    DynamicEmbEvictStrategy,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbPoolingMode,
    DynamicEmbScoreStrategy,
    ScoreStrategy,
    Storage,
)
from dynamicemb.utils import (  # noqa: E402
    data_type_to_dtype,
    data_type_to_dyn_emb,
    dyn_emb_to_torch,
    string_to_evict_strategy,
    torch_to_dyn_emb,
)


def _version() -> str:
    """The installed package's version; in a source tree, that of the op library."""
    try:
        return metadata.version("dynamicemb")
    except metadata.PackageNotFoundError:
        return str(build_info()["version"])


__version__ = _version()
__all__ = [
    "BATCH_SIZE_PER_DUMP",
    "BUCKET_ALIGNMENT",
    "DEMB_TABLE_ALIGN_SIZE",
    "MAX_BUCKET_CAPACITY",
    "AdmissionStrategy",
    "BatchedDynamicEmbeddingTablesV2",
    "Counter",
    "DynamicEmbCheckMode",
    "DynamicEmbDump",
    "DynamicEmbEvictStrategy",
    "DynamicEmbInitializerArgs",
    "DynamicEmbInitializerMode",
    "DynamicEmbLoad",
    "DynamicEmbPoolingMode",
    "DynamicEmbScoreStrategy",
    "DynamicEmbTableOptions",
    "DynamicEmbeddingBagCollection",
    "DynamicEmbeddingCollection",
    "EmbOptimType",
    "EmbeddingBagConfig",
    "EmbeddingConfig",
    "ExchangeOptions",
    "FrequencyAdmissionStrategy",
    "KVCounter",
    "KeyedJaggedTensor",
    "OptimizerArgs",
    "ProbabilisticAdmissionStrategy",
    "ScoreStrategy",
    "Storage",
    "__version__",
    "align_to_table_size",
    "build_info",
    "data_type_to_dtype",
    "data_type_to_dyn_emb",
    "dyn_emb_to_torch",
    "get_sharded_table_capacity",
    "get_table_value_bytes",
    "string_to_evict_strategy",
    "torch_to_dyn_emb",
]
