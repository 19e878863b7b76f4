"""Several dynamic tables as one module: a lookup trains them.

    indices, offsets  ->  distinct keys of each table  ->  their rows, new ones initialised
        ->  gathered or pooled  ->  [backward]  gradients summed for each key  ->  rows updated

Signatures and meanings are those of ``BatchedDynamicEmbeddingTablesV2`` of NVIDIA recsys-examples,
but that ``per_sample_weights`` weigh (frequencies have an argument of their own), and that what has
no effect is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamicemb.arguments import checks
from dynamicemb.batched_dynamicemb_function import Features, Lookup, LookupFunction, gather
from dynamicemb.checks import (
    check_frequencies,
    check_offsets,
    check_weights,
    checked_map,
    checked_names,
    checked_options,
    resolved_device,
)
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.ops import ops
from dynamicemb.optimizer import (
    WEIGHT_DTYPES,
    EmbOptimType,
    OptimizerArgs,
    RowOptimizer,
    info_words,
    row_layout,
)
from dynamicemb.prefetching import InPlace, Later, Prefetching, Prepared
from dynamicemb.scores import Scores
from dynamicemb.sorting import Sorted
from dynamicemb.tiers import make_tiers
from dynamicemb.training import Gradients, RefusedKeys, admitted
from dynamicemb.types import DynamicEmbPoolingMode, enum_of

_REFUSED: dict[str, Any] = {
    "momentum": 0.9,
    "eta": 0.001,
    "counter_based_regularization": None,
    "cowclip_regularization": None,
    "use_index_dedup": False,
}


class BatchedDynamicEmbeddingTablesV2(Prefetching):
    """Dynamic embedding tables with a fused optimizer, on one device.

    Args:
        table_options: one ``DynamicEmbTableOptions`` a table; those of one module must be equal,
            and have one ``embedding_dtype``.
        table_names: distinct; default "t_0", "t_1" ... A row depends on its table's name.
        feature_table_map: the table of each feature, ascending; default: a feature a table.
        use_index_dedup: of a sharded module; only False here.
        prefetch_pipeline: ``prefetch`` will be called before each forward.
        pooling_mode: SUM, MEAN, or NONE (a row for each index).
        output_dtype: of the result.
        device: default: CUDA if there is any.
        enforce_hbm: rows in GPU memory, whatever ``local_hbm_for_values`` says.
        bounds_check_mode: accepted; every int64 is a key.
        optimizer: one of ``EmbOptimType``, or FBGEMM's of the same name.
        stochastic_rounding: of 16-bit weights.
        gradient_clipping: each value of the incoming gradient to +-max_gradient.
        max_gradient: see there.
        max_norm: of a row after its update; 0: any.
        learning_rate, eps, initial_accumulator_value, weight_decay, beta1, beta2: numbers.
        weight_decay_mode: NONE (Adam then decays decoupled, others not), L2, DECOUPLE.
        momentum, eta, counter_based_regularization, cowclip_regularization: of optimizers that are
            not here; only the defaults.
        fused: False: the backward sums gradients, ``step`` updates.
        seed: of first rows; default ``torch.initial_seed()``.
        capture_evicted: keep the keys that leave the tables, for ``pop_evicted_keys``.
        learning_rate_power, ftrl_beta, l1, l2: FTRL's.
    """

    def __init__(
        self,
        table_options: Sequence[DynamicEmbTableOptions],
        table_names: Sequence[str] | None = None,
        feature_table_map: Sequence[int] | None = None,
        use_index_dedup: bool = False,
        prefetch_pipeline: bool = False,
        pooling_mode: DynamicEmbPoolingMode = DynamicEmbPoolingMode.SUM,
        output_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        enforce_hbm: bool = False,
        bounds_check_mode: object = None,
        optimizer: object = EmbOptimType.SGD,
        stochastic_rounding: bool = True,
        gradient_clipping: bool = False,
        max_gradient: float = 1.0,
        max_norm: float = 0.0,
        learning_rate: float = 0.01,
        eps: float = 1e-8,
        initial_accumulator_value: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        weight_decay_mode: Any = "NONE",
        eta: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        counter_based_regularization: object = None,
        cowclip_regularization: object = None,
        *,
        fused: bool = True,
        seed: int | None = None,
        capture_evicted: bool = False,
        learning_rate_power: float = -0.5,
        ftrl_beta: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        checks.boolean(use_index_dedup, "use_index_dedup")
        for name, default in _REFUSED.items():
            if (given := locals()[name]) != default:
                raise ValueError(
                    f"dynamicemb: {name} has no effect here; only {default!r} is allowed, got "
                    f"{given!r}"
                )
        for name in ("prefetch_pipeline", "enforce_hbm", "fused", "capture_evicted"):
            checks.boolean(locals()[name], name)
        if seed is not None:
            checks.integer(seed, "seed", -(2**63), 2**64 - 1)
        args = OptimizerArgs(
            learning_rate, eps, beta1, beta2, weight_decay, weight_decay_mode,
            initial_accumulator_value, max_norm, gradient_clipping, max_gradient,
            stochastic_rounding, learning_rate_power, ftrl_beta, l1, l2,
        )  # fmt: skip
        self.device = resolved_device(device)
        self.options = checked_options(table_options)
        self._names = checked_names(table_names, len(self.options))
        self.pooling: DynamicEmbPoolingMode = enum_of(
            DynamicEmbPoolingMode, pooling_mode, "pooling_mode"
        )
        self.feature_table_map = checked_map(feature_table_map, len(self.options))
        if output_dtype not in WEIGHT_DTYPES:
            raise ValueError(
                f"dynamicemb: output_dtype must be a float dtype, got {output_dtype!r}"
            )
        self.output_dtype = output_dtype
        self.prefetch_pipeline = prefetch_pipeline
        self.fused = fused
        self._seed = torch.initial_seed() if seed is None else seed
        self._optimizer = RowOptimizer(optimizer, args, self.device)
        first = self.options[0]
        self.trains = first.training
        kind = self._optimizer.type if self.trains else None
        dtype = first.embedding_dtype
        assert dtype is not None
        self.layouts = [row_layout(o.dim or 0, dtype, kind, o.stamped) for o in self.options]
        self._features = self._make_features(dtype)
        self.tiers = make_tiers(
            self.options, self.layouts, self.device, enforce_hbm, capture_evicted
        )
        self._scores = Scores(self.options, self._names, self.device)
        self._strategy = first.admit_strategy
        self._counter = None
        if self._strategy is not None:
            self._counter = self._strategy.counter or first.admission_counter
        self._prefetched: deque[Prepared | Later] = deque()
        self._awaiting: list[InPlace] = []  # of prefetched batches between forward and update
        self._gradients = Gradients()
        self._refused = RefusedKeys(first.safe_check_mode)
        self._sorter: Any = None  # the stream of ``Sorted``, of a GPU
        if self.device.type == "cuda":
            self._sorter = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._anchor = nn.Parameter(torch.zeros(1, device=self.device))

    # -- what never changes

    def _infos(self, rows: Sequence[list[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64).to(self.device)

    def _make_features(self, dtype: torch.dtype) -> Features:
        state = self._optimizer.initial_state()
        words = [
            info_words(layout, name, self._seed, o.initializer_args, state,
                       o.eval_initializer_args.value)
            for layout, name, o in zip(self.layouts, self._names, self.options, strict=True)
        ]  # fmt: skip
        strategy = self.options[0].admit_strategy
        self._refused_infos = None
        if strategy is not None and strategy.initializer_args is not None:
            others = [
                info_words(layout, name, self._seed, strategy.initializer_args, state, 0.0)
                for layout, name in zip(self.layouts, self._names, strict=True)
            ]
            self._refused_infos = self._infos(others)
        dims = [layout.dim for layout in self.layouts]
        of_features = [dims[t] for t in self.feature_table_map]
        tables = torch.tensor(self.feature_table_map, dtype=torch.int32).to(self.device)
        ends = torch.tensor([0, *of_features]).cumsum(0)
        # Where the features of each table begin: what the segments of a batch are read from.
        starts = [self.feature_table_map.index(t) for t in range(len(dims))]
        self._first_feature = torch.tensor([*starts, len(of_features)]).to(self.device)
        self._starts: dict[int, Tensor] = {}  # by the size of a batch: 1 and the last
        pooled = self.pooling != DynamicEmbPoolingMode.NONE
        return Features(
            self._infos(words),
            WEIGHT_DTYPES[dtype],
            int(self.pooling),
            tables if pooled else None,
            ends.to(self.device) if pooled else None,
            all(dim % 4 == 0 for dim in dims),
            int(ends[-1]) if pooled else max(dims),
            WEIGHT_DTYPES[self.output_dtype],
            max(dims),
        )

    # -- a batch

    def _segments(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """(tables + 1): where the indices of each table begin. No wait for the device."""
        checks.tensor(indices, "indices")
        checks.tensor(offsets, "offsets")
        bags = offsets.numel() - 1
        features = len(self.feature_table_map)
        if indices.device != self.device or offsets.device != self.device:
            raise ValueError(
                f"dynamicemb: indices and offsets must be on {self.device}, got {indices.device} "
                f"and {offsets.device}"
            )
        if indices.dtype not in (torch.int64, torch.uint64) or indices.dim() != 1:
            raise ValueError(
                f"dynamicemb: indices must be a 1-D int64 tensor, got {indices.dtype} "
                f"{tuple(indices.shape)}"
            )
        if offsets.dtype not in (torch.int64, torch.int32) or offsets.dim() != 1:
            raise ValueError(
                f"dynamicemb: offsets must be a 1-D int64 tensor, got {offsets.dtype} "
                f"{tuple(offsets.shape)}"
            )
        if bags < 0 or bags % features:
            raise ValueError(
                f"dynamicemb: offsets must have features * batch + 1 values, got {bags + 1} for "
                f"{features} features"
            )
        if self.device.type == "cpu":
            check_offsets(offsets, indices.numel())
        batch = bags // features
        if batch not in self._starts:
            self._starts = {1: self._first_feature, batch: self._first_feature * batch}
        return offsets.to(torch.int64).index_select(0, self._starts[batch])

    def _prepare(
        self,
        indices: Tensor,
        offsets: Tensor,
        frequencies: Tensor | None,
        pin: bool = False,
        sorts: bool = False,
    ) -> Prepared:
        """Distinct keys and their rows, inserted and initialised. ``sorts``: there will be a
        backward, and the caller joins the order of the occurrences."""
        segments = self._segments(indices, offsets)
        indices = indices.contiguous().view(torch.int64)
        if frequencies is not None:
            check_frequencies(frequencies, indices)
        counted = self._scores.counts or self._strategy is not None
        keys, inverse, key_offsets, counts = ops.segmented_unique(
            indices, segments, frequencies, counted
        )
        order = Sorted(inverse, self._sorter if sorts else None)
        scores = self._scores.of(keys, key_offsets, counts)
        snapshot = self.tiers.snapshot
        if self._strategy is None:
            rows, status = self.tiers.train(keys, key_offsets, scores, pin)
        else:
            rows, status = admitted(
                self.tiers, self._strategy, self._counter, keys, key_offsets, counts, scores, pin
            )
        state = self.tiers.first.state
        lookup = Lookup(state, rows, keys, inverse, key_offsets, offsets.to(torch.int64))
        ops.init_rows(*lookup.source(self._features), status, self._scores.stamp())
        self._refused.tell(keys, status)
        in_place = InPlace(self.tiers.in_place if pin else None)
        version = self.tiers.first.version
        return Prepared(lookup, indices, pin, version, snapshot, in_place, order)

    def _refreshed(self, prepared: Prepared, lookup: Lookup) -> Lookup:
        """The lookup with its rows as they lie now: another batch may have moved them."""
        stays = prepared.pinned and not prepared.in_place.any()
        if stays or prepared.version == self.tiers.first.version:
            return lookup
        return lookup._replace(rows=self.tiers.locate(lookup.keys, lookup.row_offsets))

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None = None,
        feature_requires_grad: Tensor | None = None,
        batch_size_per_feature_per_rank: object = None,
        total_unique_indices: int | None = None,
        *,
        frequency_counters: Tensor | None = None,
    ) -> Tensor:
        """Rows, or pooled rows, of a batch.

        Args:
            indices: (N) int64 keys, feature by feature, sample by sample.
            offsets: (features * batch + 1) int64: the indices of feature f and sample b are
                ``indices[offsets[f * batch + b]:offsets[f * batch + b + 1]]``.
            per_sample_weights: (N), pooling SUM or MEAN: ``out[b] = sum w_i e_i``; they may
                require a gradient.
            feature_requires_grad: only None.
            batch_size_per_feature_per_rank: only None.
            total_unique_indices: not looked at.
            frequency_counters: (N) int64: how often each index counts for LFU and admission.

        Returns:
            (N, greatest dim) without pooling, else (batch, sum of the features' dims), in
            ``output_dtype``.

        Raises:
            ValueError: an argument is wrong, by its name; nothing was changed.
        """
        for name, given in (
            ("feature_requires_grad", feature_requires_grad),
            ("batch_size_per_feature_per_rank", batch_size_per_feature_per_rank),
        ):
            if given is not None:
                raise ValueError(f"dynamicemb: {name} must be None, got {given!r}")
        if total_unique_indices is not None:
            checks.integer(total_unique_indices, "total_unique_indices", 0, 2**63 - 1)
        weights = None
        if per_sample_weights is not None:
            check_weights(per_sample_weights, indices, self.pooling)
            wide = self._features.weight_dtype == WEIGHT_DTYPES[torch.float64]
            real = torch.float64 if wide else torch.float32
            weights = per_sample_weights.to(self.device, real).contiguous()
        if not (self.training and self.trains):
            return self._evaluate(indices, offsets, weights)
        self._scores.check()
        if self._prefetched:
            prepared = self._brought(indices)
        else:
            sorts = torch.is_grad_enabled()
            prepared = self._prepare(indices, offsets, frequency_counters, sorts=sorts)
        self._scores.advance()

        def update(grad: Tensor, bag_of: Tensor | None, w: Tensor | None, lookup: Lookup) -> None:
            self._keep_for_snapshot(prepared, lookup)
            self._update(grad, bag_of, w, lookup, prepared.order)
            if prepared.pinned:
                self._released(prepared, lookup)

        out: Tensor = LookupFunction.apply(  # type: ignore[no-untyped-call]
            self._anchor, weights, prepared.lookup, self._features, self._refused_infos, update,
            lambda lookup: self._refreshed(prepared, lookup),
        )  # fmt: skip
        prepared.order.join()
        if prepared.pinned and not torch.is_grad_enabled():
            self._released(prepared, prepared.lookup)
        return out

    def _evaluate(self, indices: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        segments = self._segments(indices, offsets)
        keys = indices.contiguous().view(torch.int64)
        rows, memory = self.tiers.evaluate(keys, segments)
        bags = offsets.to(torch.int64)
        lookup = Lookup(self.tiers.first.state, rows, keys, None, segments, bags)
        out = gather(lookup, self._features, weights, False, None)
        del memory  # on the CPU and in stream order elsewhere: the rows have been read
        return out

    def _keep_for_snapshot(self, prepared: Prepared, lookup: Lookup) -> None:
        """Before an update: a dump may have begun since the batch's forward."""
        if self.fused and self.tiers.snapshot is not prepared.snapshot:
            with self.tiers.changing(lookup.keys, lookup.row_offsets):
                pass

    def _update(
        self,
        grad: Tensor,
        bag_of: Tensor | None,
        weights: Tensor | None,
        lookup: Lookup,
        order: Sorted,
        features: Features | None = None,
    ) -> None:
        f = features or self._features
        arguments = (
            grad, *lookup.source(f), *lookup.bags(f, weights), bag_of, *order.read(),
            *self._optimizer.schema(), f.max_dim,
        )  # fmt: skip
        if self.fused:
            ops.reduce_update(*arguments)
        else:
            sums = ops.reduce_grads(*arguments)
            self._gradients.add(lookup.keys, lookup.row_offsets, sums)

    # -- gradients apart from the step

    def grads(self) -> list[tuple[Tensor, Tensor]]:
        """For each table the keys with a gradient and their sums (n, dim); ``fused=False``."""
        keys, offsets, sums = self._gradients.summed(len(self.options))
        ends = offsets.tolist()
        return [
            (keys[a:b], sums[a:b, : layout.dim])
            for a, b, layout in zip(ends, ends[1:], self.layouts, strict=False)
        ]

    def step(self) -> None:
        """Updates the rows by the gradients of all backwards since the last step."""
        if self._gradients.empty():
            return
        keys, offsets, sums = self._gradients.summed(len(self.options))
        rows = self.tiers.locate(keys, offsets)
        lookup = Lookup(self.tiers.first.state, rows, keys, None, offsets, None)
        with self.tiers.changing(keys, offsets):
            ops.update_rows(sums, *lookup.source(self._features), *self._optimizer.schema())
        self._gradients.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        checks.boolean(set_to_none, "set_to_none")
        super().zero_grad(set_to_none)
        self._gradients.clear()
