"""EmbeddingCollection with dynamic tables, for DistributedModelParallel."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dynamicemb import torchrec_compat
from dynamicemb.dealing import constant
from dynamicemb.ops import ops

torchrec_compat.require()

from torchrec import JaggedTensor, KeyedJaggedTensor  # noqa: E402
from torchrec.distributed.embedding import (  # noqa: E402
    EmbeddingCollectionSharder,
    ShardedEmbeddingCollection,
)

from dynamicemb.planner.rw_sharding import (  # noqa: E402
    SEQUENCE,
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


class ShardedDynamicEmbeddingCollection(ShardedEmbeddingCollection):  # type: ignore[misc]
    """TorchRec's, with our lookups, our dealing, and distinct keys on the link."""

    @classmethod
    def create_embedding_sharding(
        cls,
        sharding_type: str,
        sharding_infos: list[Any],
        env: Any,
        device: Any = None,
        **kwargs: Any,
    ) -> Any:
        convert_static(sharding_infos)
        if not any(is_dynamic(info) for info in sharding_infos):
            return super().create_embedding_sharding(
                sharding_type, sharding_infos, env, device, **kwargs
            )
        kind = chosen(SEQUENCE, sharding_type)
        registry = kwargs.get("qcomm_codecs_registry")
        return kind(
            sharding_infos=sharding_infos, env=env, device=device, qcomm_codecs_registry=registry
        )

    def reset_parameters(self) -> None:
        with static_alone(self, "_embedding_configs"):
            super().reset_parameters()

    def forward(self, features: Any) -> Any:
        names = self._embedding_names_per_sharding[0]
        permutes = self._need_indices or len(set(names)) < len(names)
        kernel = kernel_of(self, features, permutes or getattr(self, "_features_order", True))
        if kernel is None:
            return super().forward(features)

        def make(rows: Tensor) -> dict[str, JaggedTensor]:
            lengths = features.lengths().view(-1, features.stride()).unbind()
            parts = zip(names, torch.split(rows, features.length_per_key()), lengths, strict=True)
            return {name: JaggedTensor(part, lengths=length) for name, part, length in parts}

        if self._env.world_size == 1:
            return Made(kernel(features), make)
        with failing(self, "forward"):
            given, repeats = features, None
            if self._use_index_dedup:
                sharding = next(iter(self._sharding_type_to_sharding.values()))
                given, repeats = deduplicated(features, _tables_of(sharding), _counts(sharding))
            keys, came, place = crossed(self, given, pooled=False)
            if repeats is not None:
                place = placed(place, repeats)
            rows = self._output_dists[0].crossing(
                kernel(came), came.lengths().view(-1, came.stride()), place, repeats is not None,
                keys.received_rows, keys.sent_rows,
            )  # fmt: skip
            return Made(rows, make)

    def input_dist(self, ctx: Any, features: Any) -> Any:
        if isinstance(features, KeyedJaggedTensor) and not any(features.stride_per_key()):
            raise ValueError(
                "dynamicemb: features must have one sample or more on each rank, got none: "
                "TorchRec has no sequences of no sample (without TorchRec they work)"
            )
        with failing(self, "forward"):
            found = super().input_dist(ctx, features)
        varies = isinstance(features, KeyedJaggedTensor) and features.variable_stride_per_key()
        shardings = self._sharding_type_to_sharding.values()
        if varies or not all(isinstance(one, SEQUENCE["row_wise"]) for one in shardings):
            ctx.reverse_indices = [rows.long() for rows in ctx.reverse_indices]
        elif ctx.reverse_indices:
            self._leave_rows_to_us(ctx)
        return found

    def compute_and_output_dist(self, ctx: Any, input: Any) -> Any:
        with failing(self, "forward"):
            return super().compute_and_output_dist(ctx, input)

    def _leave_rows_to_us(self, ctx: Any) -> None:
        """The rows of distinct keys are given to their occurrences by ``SequenceDist``, in one
        reading with their order."""
        for one, rows in zip(ctx.sharding_contexts, ctx.reverse_indices, strict=True):
            place = one.unbucketize_permute_tensor
            one.unbucketize_permute_tensor = placed(place, rows)
            one.repeated = True
        ctx.reverse_indices = []

    def _dedup_indices(self, ctx: Any, input_feature_splits: list[Any]) -> list[Any]:
        """Each table's distinct keys are dealt out and looked up in place of all; one rank deals
        nothing out, and a lookup finds the distinct ones itself."""
        if self._env.world_size == 1:
            return input_feature_splits
        found = []
        shardings = list(self._sharding_type_to_sharding.values())
        for features, sharding in zip(input_feature_splits, shardings, strict=True):
            dedup, inverse = deduplicated(features, _tables_of(sharding), _counts(sharding))
            ctx.input_features.append(features)
            ctx.reverse_indices.append(inverse)
            found.append(dedup)
        return found

    def _compute_sequence_vbe_context(self, ctx: Any, unpadded_features: Any) -> None:
        """Rows of a batch of its own for each feature are selected as those of distinct keys are.

        TorchRec permutes them by an FBGEMM op that has no gradient on the CPU, nor a CUDA kernel in
        the wheel for CPUs.
        """
        super()._compute_sequence_vbe_context(ctx, unpadded_features)
        every = torch.arange(unpadded_features.values().numel(), device=unpadded_features.device())
        shardings = self._sharding_type_to_sharding.values()
        came = ctx.reverse_indices or [every] * len(shardings)
        ctx.input_features, ctx.reverse_indices = [], []
        for sharding, found, values in zip(shardings, ctx.seq_vbe_ctx, came, strict=True):
            lengths, n = found.reindexed_lengths, sum(found.reindexed_length_per_key)
            _, rows, _ = torchrec_compat.permute_1D_sparse_data(
                found.recat, found.unpadded_lengths, values, permuted_lengths_sum=n
            )
            ids = rows if found.reindexed_values is None else found.reindexed_values
            bags = KeyedJaggedTensor(
                keys=sharding.embedding_names(),
                values=ids,
                lengths=lengths.reshape(-1),
                stride=lengths.shape[1],
                length_per_key=found.reindexed_length_per_key,
            )
            ctx.input_features.append(bags)
            ctx.reverse_indices.append(rows)
        ctx.seq_vbe_ctx = []


def placed(place: Tensor | None, rows: Tensor) -> Tensor:
    """int32: where the row of each occurrence is, of distinct keys that went to ``place``."""
    return rows if place is None else place.int().index_select(0, rows)


def _tables_of(sharding: Any) -> list[int]:
    """The table of each feature that a sharding handles, in their order."""
    tables: list[int] = []
    number = 0
    private: Any = sharding
    groups = private._grouped_embedding_configs
    if isinstance(sharding, SEQUENCE["table_wise"]):  # a rank has some tables, and all are asked
        groups = [c for rank in private._grouped_embedding_configs_per_rank for c in rank]
    for config in groups:
        for table in config.embedding_tables:
            tables += [number] * table.num_features()
            number += 1
    return tables


def _counts(sharding: Any) -> bool:
    """Whether a table wants to know how often a key occurred."""
    for config in sharding._grouped_embedding_configs:
        for table in config.embedding_tables:
            options = (table.fused_params or {}).get("dynamicemb_options")
            if options is not None and (options.scores.name == "LFU" or options.admit_strategy):
                return True
    return False


def deduplicated(features: Any, tables: list[int], counted: bool) -> tuple[Any, Tensor]:
    """The distinct keys of each table, as one bag of its first feature, and where each value's is
    among them.

    Counts travel as the bits of the weights: whole numbers, not rounded.
    """
    values = features.values().to(torch.int64).contiguous()
    bags = list(accumulate(features.stride_per_key(), initial=0))
    firsts = [f for f in range(len(tables)) if f == 0 or tables[f] != tables[f - 1]]
    at = constant((*(bags[f] for f in firsts), bags[-1]), values.device)
    offsets = features.offsets().to(torch.int64)
    keys, inverse, ends, counts = ops.segmented_unique(values, offsets[at], None, counted)
    upto = ends.tolist()  # the one wait for the device
    n, per_key = upto[-1], [0] * len(tables)
    for t, f in enumerate(firsts):
        per_key[f] = upto[t + 1] - upto[t]
    lengths = torch.diff(ends)
    if len(firsts) < len(tables):
        every = lengths.new_zeros(len(tables))
        lengths = every.index_copy_(0, constant(tuple(firsts), values.device), lengths)
    made = KeyedJaggedTensor(
        keys=features.keys(),
        values=keys[:n].to(features.values().dtype),
        weights=counts[:n].to(torch.int32).view(torch.float32) if counted else None,
        lengths=lengths.to(features.lengths().dtype),
        stride=1,
        length_per_key=per_key,
    )
    return made, inverse


class DynamicEmbeddingCollectionSharder(EmbeddingCollectionSharder):  # type: ignore[misc]
    """Shards EmbeddingCollections by a plan in which tables may be dynamic.

    Args:
        fused_params: keywords of ``BatchedDynamicEmbeddingTablesV2`` and of FBGEMM's tables.
        qcomm_codecs_registry: TorchRec's, for fp16 or bf16 on the link.
        use_index_dedup: a key crosses the link once, not once for each occurrence.
    """

    def __init__(
        self,
        fused_params: Any = None,
        qcomm_codecs_registry: Any = None,
        use_index_dedup: bool = False,
    ) -> None:
        super().__init__(checked_params(fused_params), qcomm_codecs_registry, use_index_dedup)

    def shard(
        self, module: Any, params: Any, env: Any, device: Any = None, module_fqn: Any = None
    ) -> ShardedDynamicEmbeddingCollection:
        return ShardedDynamicEmbeddingCollection(
            module,
            params,
            env,
            self.fused_params,
            device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            use_index_dedup=self._use_index_dedup,
            module_fqn=module_fqn,
        )

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sharding_types(super().sharding_types(compute_device_type), SEQUENCE)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        return kernels(super().compute_kernels(sharding_type, compute_device_type))
