"""EmbeddingBagCollection with dynamic tables, for DistributedModelParallel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dynamicemb import torchrec_compat

torchrec_compat.require()

from torchrec import KeyedTensor  # noqa: E402
from torchrec.distributed.embeddingbag import (  # noqa: E402
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)

from dynamicemb.planner.rw_sharding import (  # noqa: E402
    POOLED,
    chosen,
    convert_static,
    is_dynamic,
)
from dynamicemb.shard.conversion import (  # noqa: E402
    checked_params,
    failing,
    kernels,
    sharding_types,
    static_alone,
)
from dynamicemb.shard.direct import Made, crossed, kernel_of  # noqa: E402


class ShardedDynamicEmbeddingBagCollection(ShardedEmbeddingBagCollection):  # type: ignore[misc]
    """TorchRec's, with our lookups and our dealing where a table is dynamic."""

    @classmethod
    def create_embedding_bag_sharding(
        cls, sharding_infos: list[Any], env: Any, device: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        convert_static(sharding_infos)
        if not any(is_dynamic(info) for info in sharding_infos):
            return super().create_embedding_bag_sharding(
                sharding_infos, env, device, *args, **kwargs
            )
        kind = chosen(POOLED, sharding_infos[0].param_sharding.sharding_type)
        registry = kwargs.get("qcomm_codecs_registry")
        return kind(
            sharding_infos=sharding_infos, env=env, device=device, qcomm_codecs_registry=registry
        )

    def reset_parameters(self) -> None:
        with static_alone(self, "_embedding_bag_configs"):
            super().reset_parameters()

    def forward(self, features: Any) -> Any:
        permutes = self._has_features_permute or self._has_mean_pooling_callback
        kernel = kernel_of(self, features, permutes)
        if kernel is None:
            return super().forward(features)

        def make(sums: Tensor) -> KeyedTensor:
            return KeyedTensor(self._embedding_names, self._embedding_dims, sums, key_dim=1)

        if self._env.world_size == 1:
            return Made(kernel(features), make)
        with failing(self, "forward"):
            keys, came, _ = crossed(self, features, pooled=True)
            return Made(self._output_dists[0].crossing(kernel(came), keys.batches), make)

    def input_dist(self, ctx: Any, features: Any) -> Any:
        with failing(self, "forward"):
            return super().input_dist(ctx, features)

    def compute_and_output_dist(self, ctx: Any, input: Any) -> Any:
        with failing(self, "forward"):
            return super().compute_and_output_dist(ctx, input)


class DynamicEmbeddingBagCollectionSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """Shards EmbeddingBagCollections by a plan in which tables may be dynamic.

    Args:
        fused_params: keywords of ``BatchedDynamicEmbeddingTablesV2`` and of FBGEMM's tables.
        qcomm_codecs_registry: TorchRec's, for fp16 or bf16 on the link.
    """

    def __init__(self, fused_params: Any = None, qcomm_codecs_registry: Any = None) -> None:
        super().__init__(
            fused_params=checked_params(fused_params), qcomm_codecs_registry=qcomm_codecs_registry
        )

    def shard(
        self, module: Any, params: Any, env: Any, device: Any = None, module_fqn: Any = None
    ) -> ShardedDynamicEmbeddingBagCollection:
        return ShardedDynamicEmbeddingBagCollection(
            module=module,
            table_name_to_parameter_sharding=params,
            env=env,
            fused_params=self.fused_params,
            device=device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
        )

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sharding_types(super().sharding_types(compute_device_type), POOLED)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        return kernels(super().compute_kernels(sharding_type, compute_device_type))
