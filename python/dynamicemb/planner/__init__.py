"""TorchRec's planning for models with dynamic tables."""

from __future__ import annotations

from dynamicemb.planner.enumerators import DynamicEmbeddingEnumerator
from dynamicemb.planner.planner import (
    DynamicEmbeddingShardingPlanner,
    DynamicEmbParameterConstraints,
    DynamicEmbParameterSharding,
)

__all__ = [
    "DynamicEmbParameterConstraints",
    "DynamicEmbParameterSharding",
    "DynamicEmbeddingEnumerator",
    "DynamicEmbeddingShardingPlanner",
]
