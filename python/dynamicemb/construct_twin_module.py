"""One model twice, to compare: with dynamic tables, and with TorchRec's own of equal weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynamicemb import torchrec_compat
from dynamicemb.dealing import owners
from dynamicemb.dump_load import weights_of
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.incremental_dump import collections_of
from dynamicemb.types import DynamicEmbPoolingMode, enum_of

torchrec_compat.require()

from torchrec import (  # noqa: E402
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    PoolingType,
)
from torchrec.distributed import DistributedModelParallel  # noqa: E402
from torchrec.distributed.comm import get_local_size  # noqa: E402
from torchrec.distributed.embedding import EmbeddingCollectionSharder  # noqa: E402
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder  # noqa: E402
from torchrec.distributed.fbgemm_qcomm_codec import (  # noqa: E402
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology  # noqa: E402
from torchrec.distributed.planner.types import ParameterConstraints  # noqa: E402
from torchrec.distributed.types import ShardingEnv  # noqa: E402

from dynamicemb.planner import (  # noqa: E402
    DynamicEmbeddingShardingPlanner,
    DynamicEmbParameterConstraints,
)
from dynamicemb.shard import (  # noqa: E402
    DynamicEmbeddingBagCollectionSharder,
    DynamicEmbeddingCollectionSharder,
)
from dynamicemb.shard.conversion import static_params  # noqa: E402

SEED = 2026  # of init_fn's draws, so that all ranks make the same rows


def _each(value: int | Sequence[int], count: int, name: str) -> list[int]:
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count or not all(isinstance(one, int) and one > 0 for one in values):
        raise ValueError(
            f"dynamicemb: {name} must be a positive int or {count} of them, one a table, got "
            f"{value!r}"
        )
    return values


def _uniform(weights: Tensor) -> None:
    weights.uniform_(-0.05, 0.05)


class ConstructTwinModule:
    """Builds both models, sharded over the ranks, and gives them equal weights.

    Table t is ``t_{t}``, its feature ``f_{t}``; keys 0 to its ``num_embeddings - 1`` are present
    in both models. The sparse module is ``model.module.sparse``.

    Args:
        table_num: tables.
        dims: of the rows; one for all tables, or one a table. So are ``num_embeddings`` (rows of
            all ranks together) and ``multi_hot_sizes`` (keys of a sample, for the planner).
        pooling_mode: "SUM" or "MEAN", or an enum's member of that name; used if ``is_pooled``.
        is_pooled: EmbeddingBagCollection; False: EmbeddingCollection.
        batch_size: samples of a rank, for the planner.
        output_dtype: of the outputs: a torch dtype or an enum's member ("FP32" ...).
        fwd_a2a_precision, bwd_a2a_precision: on the link: "FP32", "FP16" or "BF16", or a CommType.
        optimizer_kwargs: ``fused_params`` of both models; default SGD.
        use_index_dedup: of the EmbeddingCollection with dynamic tables.
        init_fn: fills a (rows, dim) float32 tensor in place; called once a table with the same
            random numbers on every rank. Default: uniform from -0.05 to 0.05.
        rank, world_size: of the group.
        scale_factor: capacity of a dynamic table over its ``num_embeddings``.
        dist_type: of the dynamic tables.
        device: default: this rank's GPU if there is one, else the CPU.
        process_group: default: all ranks.

    Raises:
        ValueError: a bad argument; rank or world_size that are not the group's.
    """

    def __init__(
        self,
        table_num: int,
        dims: int | Sequence[int],
        num_embeddings: int | Sequence[int],
        pooling_mode: Any = "SUM",
        is_pooled: bool = True,
        multi_hot_sizes: int | Sequence[int] = 1,
        batch_size: int = 65536,
        output_dtype: Any = "FP32",
        fwd_a2a_precision: Any = "FP32",
        bwd_a2a_precision: Any = "FP32",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        use_index_dedup: bool = False,
        init_fn: Callable[[Tensor], Any] = _uniform,
        rank: int = 0,
        world_size: int = 1,
        scale_factor: float = 2,
        *,
        dist_type: str = "roundrobin",
        device: torch.device | None = None,
        process_group: Any = None,
    ) -> None:
        self._group = process_group if process_group is not None else dist.group.WORLD
        there = dist.get_rank(self._group), dist.get_world_size(self._group)
        if (rank, world_size) != there:
            raise ValueError(
                f"dynamicemb: rank and world_size must be those of the process group, {there}, "
                f"got {(rank, world_size)}"
            )
        if not scale_factor >= 1:
            raise ValueError(f"dynamicemb: scale_factor must be at least 1, got {scale_factor!r}")
        _each(table_num, 1, "table_num")
        dims = _each(dims, table_num, "dims")
        self._rows = _each(num_embeddings, table_num, "num_embeddings")
        hot = _each(multi_hot_sizes, table_num, "multi_hot_sizes")
        if device is None:
            on_gpu = torch.cuda.is_available()
            device = torch.device(f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu")
        self._device, self._rank, self._world = torch.device(device), rank, world_size
        self._init_fn, self._dist_type = init_fn, dist_type
        self._names = [f"t_{t}" for t in range(table_num)]
        params = {"optimizer": "SGD", "learning_rate": 0.01, **(optimizer_kwargs or {})}
        params["output_dtype"] = output_dtype
        precisions = [
            CommType[getattr(p, "name", p)] for p in (fwd_a2a_precision, bwd_a2a_precision)
        ]
        codecs = get_qcomm_codecs_registry(QCommsConfig(*precisions), device=self._device)
        self._kind = EmbeddingBagConfig if is_pooled else EmbeddingConfig
        self._more = {}
        if is_pooled:
            mode = enum_of(DynamicEmbPoolingMode, pooling_mode, "pooling_mode")
            self._more = {"pooling": PoolingType[mode.name]}
        self._shapes = list(zip(self._names, self._rows, dims, strict=True))
        ours: Any
        theirs: Any
        if is_pooled:
            ours = DynamicEmbeddingBagCollectionSharder(params, codecs)
            theirs = EmbeddingBagCollectionSharder(static_params(params), codecs)
        else:
            ours = DynamicEmbeddingCollectionSharder(params, codecs, use_index_dedup)
            theirs = EmbeddingCollectionSharder(static_params(params), codecs)
        topology = Topology(
            world_size=world_size,
            compute_device=self._device.type,
            local_world_size=min(world_size, get_local_size(world_size)),
        )
        self._dynamic = self._sharded(
            ours,
            DynamicEmbeddingShardingPlanner(
                self._configs(),
                topology,
                batch_size,
                constraints={
                    name: DynamicEmbParameterConstraints(
                        pooling_factors=[float(hot[t])],
                        use_dynamicemb=True,
                        dynamicemb_options=DynamicEmbTableOptions(
                            max_capacity=int(scale_factor * rows / world_size) + 128,
                            dist_type=dist_type,
                        ),
                    )
                    for t, (name, rows, _) in enumerate(self._shapes)
                },
                debug=False,
                optimizer=params["optimizer"],
            ),
        )
        self._static = self._sharded(
            theirs,
            EmbeddingShardingPlanner(
                topology=topology,
                batch_size=batch_size,
                constraints={
                    name: ParameterConstraints(
                        compute_kernels=["fused"], pooling_factors=[float(hot[t])]
                    )
                    for t, name in enumerate(self._names)
                },
                debug=False,
            ),
        )
        self.init_twin_embedding_model()

    def _configs(self) -> list[Any]:
        return [
            self._kind(
                name=name,
                embedding_dim=dim,
                num_embeddings=rows,
                feature_names=[f"f_{t}"],
                **self._more,
            )
            for t, (name, rows, dim) in enumerate(self._shapes)
        ]

    def _sharded(self, sharder: Any, planner: Any) -> Any:
        pooled = self._kind is EmbeddingBagConfig
        kind: Any = EmbeddingBagCollection if pooled else EmbeddingCollection
        model = _Model(kind(tables=self._configs(), device=torch.device("meta")))
        return DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(self._group),
            device=self._device,
            plan=planner.collective_plan(model, [sharder], self._group),
            sharders=[sharder],
        )

    def init_twin_embedding_model(self) -> None:
        """Gives both models the rows that ``init_fn`` makes. Optimizer state stays as it is."""
        with torch.random.fork_rng([]):
            torch.manual_seed(SEED)
            for t, (name, rows, dim) in enumerate(self._shapes):
                weights = torch.empty(rows, dim)
                self._init_fn(weights)
                self._fill_static(name, weights)
                self._fill_dynamic(t, name, weights)

    def _fill_static(self, name: str, weights: Tensor) -> None:
        state = self._static.state_dict()
        [entry] = [part for key, part in state.items() if key.endswith(f".{name}.weight")]
        for shard in entry.local_shards():
            (row, column), (rows, columns) = (
                shard.metadata.shard_offsets,
                shard.metadata.shard_sizes,
            )
            shard.tensor.copy_(weights[row : row + rows, column : column + columns])

    def _fill_dynamic(self, table: int, name: str, weights: Tensor) -> None:
        keys = torch.arange(len(weights))
        keys = keys[owners(keys, self._dist_type, self._world, len(weights)) == self._rank]
        for modules in collections_of(self._dynamic).values():
            for module in modules:
                if name in module.table_names:
                    _set_rows(module, module.table_index(name), keys, weights)

    @property
    def dynamicemb_model(self) -> Any:
        return self._dynamic

    @property
    def torchrec_model(self) -> Any:
        return self._static


class _Model(nn.Module):
    def __init__(self, sparse: nn.Module) -> None:
        super().__init__()
        self.sparse = sparse

    def forward(self, features: Any) -> Any:
        return self.sparse(features)


def _set_rows(module: Any, table: int, keys: Tensor, weights: Tensor) -> None:
    """Makes rows of the keys, with weights ``weights[key]``."""
    offsets = torch.zeros(len(module.feature_table_map) + 1, dtype=torch.int64)
    offsets[module.feature_table_map.index(table) + 1 :] = len(keys)
    with torch.no_grad():
        module(keys.to(module.device), offsets.to(module.device))
    dtype = module.options[table].embedding_dtype
    for some, rows, scores in list(module.tiers.export(table)):
        dim = weights_of(module, table, rows).shape[1]
        rows.view(dtype)[:, :dim] = weights[some.cpu()].to(rows.device, dtype)
        module.tiers.insert(table, some, rows, scores)
