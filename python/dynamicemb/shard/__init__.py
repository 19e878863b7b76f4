"""TorchRec's sharded collections with dynamic tables."""

from __future__ import annotations

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
