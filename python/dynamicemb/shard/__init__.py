"""TorchRec's sharded collections with dynamic tables. FBGEMM's ops get CUDA kernels where it has
none."""

from __future__ import annotations

from dynamicemb import torchrec_compat
from dynamicemb.shard.embedding import (
    DynamicEmbeddingCollectionSharder,
    ShardedDynamicEmbeddingCollection,
)
from dynamicemb.shard.embeddingbag import (
    DynamicEmbeddingBagCollectionSharder,
    ShardedDynamicEmbeddingBagCollection,
)

__all__ = [
    "DynamicEmbeddingBagCollectionSharder",
    "DynamicEmbeddingCollectionSharder",
    "ShardedDynamicEmbeddingBagCollection",
    "ShardedDynamicEmbeddingCollection",
]

torchrec_compat.register_cuda_ops()
