"""TorchRec's shardings whose lookups choose our kernel for dynamic tables."""

from __future__ import annotations

from typing import Any

import torch

from dynamicemb.batched_dynamicemb_compute_kernel import (
    BatchedDynamicEmbedding,
    BatchedDynamicEmbeddingBag,
)
from dynamicemb.input_dist import Bucketizer, RwSparseFeaturesDist, TwRwFeaturesDist
from dynamicemb.rows_dist import PooledDist, SequenceDist
from dynamicemb.shard.conversion import static_params
from dynamicemb.torchrec_compat import made

from torchrec.distributed.embedding_lookup import (  # isort: skip
    GroupedEmbeddingsLookup,
    GroupedPooledEmbeddingsLookup,
)
from torchrec.distributed.embedding_types import EmbeddingComputeKernel  # isort: skip
from torchrec.distributed.sharding.rw_sequence_sharding import (  # isort: skip
    RwSequenceEmbeddingSharding,
)
from torchrec.distributed.sharding.rw_sharding import RwPooledEmbeddingSharding  # isort: skip
from torchrec.distributed.sharding.tw_sequence_sharding import (  # isort: skip
    TwSequenceEmbeddingSharding,
)
from torchrec.distributed.sharding.tw_sharding import TwPooledEmbeddingSharding  # isort: skip
from torchrec.distributed.sharding.twrw_sharding import TwRwPooledEmbeddingSharding  # isort: skip
from torchrec.distributed.types import ShardingType  # isort: skip

CUSTOMIZED = EmbeddingComputeKernel.CUSTOMIZED_KERNEL


def is_dynamic(info: Any) -> bool:
    """Of an EmbeddingShardingInfo."""
    return bool(info.param_sharding.compute_kernel == CUSTOMIZED.value)


def convert_static(infos: list[Any]) -> None:
    """Static tables take FBGEMM's params alone."""
    for info in infos:
        if not is_dynamic(info):
            info.fused_params = static_params(info.fused_params)


class DynamicPooledLookup(GroupedPooledEmbeddingsLookup):  # type: ignore[misc]
    def _create_embedding_kernel(
        self, config: Any, device: Any, pg: Any, sharding_type: Any, *more: Any
    ) -> Any:
        if config.compute_kernel == CUSTOMIZED:
            return BatchedDynamicEmbeddingBag(config, pg, device, sharding_type)
        return super()._create_embedding_kernel(config, device, pg, sharding_type, *more)


class DynamicSequenceLookup(GroupedEmbeddingsLookup):  # type: ignore[misc]
    def _create_embedding_kernel(self, config: Any, pg: Any, device: Any, *more: Any) -> Any:
        if config.compute_kernel == CUSTOMIZED:
            return BatchedDynamicEmbedding(config, pg, device)
        return super()._create_embedding_kernel(config, pg, device, *more)


class _Dynamic:
    """A sharding whose ``create_lookup`` makes lookups of ours."""

    lookup: type
    sharding_type: Any = None
    _grouped_embedding_configs: list[Any]
    _pg: Any
    _device: Any
    _env: Any

    def create_lookup(
        self, device: Any = None, fused_params: Any = None, feature_processor: Any = None
    ) -> Any:
        return made(
            self.lookup,
            grouped_configs=self._configs_here(),
            pg=self._pg,
            device=device if device is not None else self._device,
            feature_processor=feature_processor,
            sharding_type=self.sharding_type,
            env=self._env,
        )

    def _configs_here(self) -> list[Any]:
        return self._grouped_embedding_configs


def bucketizer(configs: list[Any], buckets: int, device: torch.device | None) -> Bucketizer:
    """For the features of grouped configs, in their order."""
    dist_types: list[str | None] = []
    sizes = []
    for config in configs:
        for table in config.embedding_tables:
            dist_type = None
            if config.compute_kernel == CUSTOMIZED:
                dist_type = table.fused_params["dynamicemb_options"].dist_type
            dist_types += [dist_type] * table.num_features()
            sizes += [table.num_embeddings] * table.num_features()
    return Bucketizer(dist_types, sizes, buckets, device)


class _RowWise(_Dynamic):
    sharding_type = ShardingType.ROW_WISE
    is_sequence = False
    _world_size: int
    _has_feature_processor: bool
    _need_pos: bool

    def create_input_dist(self, device: torch.device | None = None) -> RwSparseFeaturesDist:
        where = device if device is not None else self._device
        configs = self._grouped_embedding_configs
        sizes = [size for config in configs for size in config.feature_hash_sizes()]
        return RwSparseFeaturesDist(
            bucketizer(configs, self._world_size, where),
            pg=self._pg,
            num_features=len(sizes),
            feature_hash_sizes=sizes,
            device=where,
            is_sequence=self.is_sequence,
            has_feature_processor=self._has_feature_processor,
            need_pos=self._need_pos,
        )


class RwPooledDynamicSharding(_RowWise, RwPooledEmbeddingSharding):  # type: ignore[misc]
    lookup = DynamicPooledLookup

    def create_output_dist(self, device: torch.device | None = None) -> PooledDist:
        dims, registry = self.embedding_dims(), self.qcomm_codecs_registry
        return PooledDist(self._pg, qcomm_codecs_registry=registry, embedding_dims=dims)


class RwSequenceDynamicSharding(_RowWise, RwSequenceEmbeddingSharding):  # type: ignore[misc]
    lookup = DynamicSequenceLookup
    is_sequence = True

    def create_output_dist(self, device: torch.device | None = None) -> SequenceDist:
        where = device if device is not None else self._device
        return SequenceDist(self._pg, self._get_num_features(), where, self.qcomm_codecs_registry)


class TwPooledDynamicSharding(_Dynamic, TwPooledEmbeddingSharding):  # type: ignore[misc]
    lookup = DynamicPooledLookup


class TwSequenceDynamicSharding(_Dynamic, TwSequenceEmbeddingSharding):  # type: ignore[misc]
    lookup = DynamicSequenceLookup


class TwRwPooledDynamicSharding(_Dynamic, TwRwPooledEmbeddingSharding):  # type: ignore[misc]
    lookup = DynamicPooledLookup
    sharding_type = ShardingType.TABLE_ROW_WISE

    def _configs_here(self) -> list[Any]:
        here: list[Any] = self._grouped_embedding_configs_per_rank[self._rank]
        return here

    def create_input_dist(self, device: torch.device | None = None) -> TwRwFeaturesDist:
        where = device if device is not None else self._device
        local = self._intra_pg.size()
        every = self._grouped_embedding_configs_per_rank
        configs = [config for node in every[::local] for config in node]
        return TwRwFeaturesDist(
            bucketizer(configs, local, where),
            pg=self._pg,
            local_size=local,
            features_per_rank=self._features_per_rank(every),
            feature_hash_sizes=self._get_feature_hash_sizes(),
            device=where,
            has_feature_processor=self._has_feature_processor,
            need_pos=self._need_pos,
        )


POOLED = {
    ShardingType.ROW_WISE.value: RwPooledDynamicSharding,
    ShardingType.TABLE_WISE.value: TwPooledDynamicSharding,
    ShardingType.TABLE_ROW_WISE.value: TwRwPooledDynamicSharding,
}
SEQUENCE = {
    ShardingType.ROW_WISE.value: RwSequenceDynamicSharding,
    ShardingType.TABLE_WISE.value: TwSequenceDynamicSharding,
}


def chosen(kinds: dict[str, Any], sharding_type: str) -> Any:
    if sharding_type not in kinds:
        raise ValueError(
            f"dynamicemb: sharding_type of dynamic tables must be one of {', '.join(kinds)}, got "
            f"{sharding_type!r}"
        )
    return kinds[sharding_type]
