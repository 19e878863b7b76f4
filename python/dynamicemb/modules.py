"""Drop-ins for TorchRec's EmbeddingBagCollection and EmbeddingCollection on one device.

Configs and batches are taken by their fields, so TorchRec's own serve, and the light ones of this
file where TorchRec is not installed.

    >>> ebc = DynamicEmbeddingBagCollection(
    ...     [EmbeddingBagConfig("t", embedding_dim=8, num_embeddings=1000, feature_names=["f"])],
    ...     device="cpu")
    >>> batch = KeyedJaggedTensor(["f"], torch.tensor([5, 7, 5]), torch.tensor([2, 1]))
    >>> ebc(batch)["f"].shape
    torch.Size([2, 8])
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynamicemb.arguments import checks
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions, get_sharded_table_capacity
from dynamicemb.exchange import (
    Exchange,
    ExchangeOptions,
    exchanged,
    same_everywhere,
    shard_options,
)
from dynamicemb.host_copy import Numbers
from dynamicemb.link import Link
from dynamicemb.types import (
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbPoolingMode,
    enum_of,
)
from dynamicemb.utils import data_type_to_dtype


@dataclass
class EmbeddingConfig:
    """A table, by the names of TorchRec's config."""

    name: str
    embedding_dim: int
    num_embeddings: int
    feature_names: list[str] = field(default_factory=list)
    data_type: Any = "FP32"

    def __post_init__(self) -> None:
        checks.instance(self.name, str, "name")
        checks.integer(self.embedding_dim, "embedding_dim", 1)
        checks.integer(self.num_embeddings, "num_embeddings", 1, 2**63 - 1)
        checks.names(self.feature_names, "feature_names")
        data_type_to_dtype(self.data_type)


@dataclass
class EmbeddingBagConfig(EmbeddingConfig):
    pooling: Any = "SUM"

    def __post_init__(self) -> None:
        super().__post_init__()
        enum_of(DynamicEmbPoolingMode, self.pooling, "pooling")


class KeyedJaggedTensor:
    """Bags of several features, feature by feature: TorchRec's fields that a lookup reads.

    Args:
        keys: names of the features.
        values: (n) int64.
        lengths: (features * batch) of the bags.
        weights: (n) or None.
    """

    def __init__(
        self,
        keys: Sequence[str],
        values: Tensor,
        lengths: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        checks.names(keys, "keys")
        given = {"values": values, "lengths": lengths, "weights": weights}
        for name, tensor in given.items():
            if tensor is None and name == "weights":
                continue
            checks.tensor(tensor, name)
            assert tensor is not None
            if tensor.is_complex() or tensor.is_floating_point() != (name == "weights"):
                kind = "floats" if name == "weights" else "integers"
                checks.fail(f"{name} must be {kind}, got {tensor.dtype} {tuple(tensor.shape)}")
        self._keys, self._values, self._lengths = list(keys), values, lengths
        self._weights = weights

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def lengths(self) -> Tensor:
        return self._lengths

    def offsets(self) -> Tensor:
        sums = self._lengths.cumsum(0)
        return torch.cat([sums.new_zeros(1), sums])

    def weights_or_none(self) -> Tensor | None:
        return self._weights

    def stride(self) -> int:
        return self._lengths.numel() // max(1, len(self._keys))


class KeyedTensor(Mapping[str, Tensor]):
    """(batch, dim) of each feature, side by side in ``values()``."""

    def __init__(self, keys: list[str], dims: list[int], values: Tensor) -> None:
        self._keys, self._dims, self._values = keys, dims, values
        self._parts: dict[str, Tensor] = dict(zip(keys, torch.split(values, dims, 1), strict=True))

    def __getitem__(self, key: str) -> Tensor:
        return self._parts[key]

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def values(self) -> Tensor:  # type: ignore[override]  # as TorchRec's
        return self._values

    def to_dict(self) -> dict[str, Tensor]:
        return dict(self._parts)


@dataclass
class JaggedTensor:
    """The rows of one feature, (n, dim), and the lengths of its bags."""

    _values: Tensor
    _lengths: Tensor

    def values(self) -> Tensor:
        return self._values

    def lengths(self) -> Tensor:
        return self._lengths


def _options(
    config: Any, base: DynamicEmbTableOptions | None, world: int
) -> DynamicEmbTableOptions:
    bound = config.num_embeddings**-0.5
    options = base or DynamicEmbTableOptions(
        initializer_args=DynamicEmbInitializerArgs(
            DynamicEmbInitializerMode.UNIFORM, lower=-bound, upper=bound
        )
    )
    options.dim = config.embedding_dim
    options.embedding_dtype = data_type_to_dtype(config.data_type)
    if options.max_capacity is None:
        options.max_capacity = config.num_embeddings
        if world > 1:
            options.max_capacity = get_sharded_table_capacity(
                config.num_embeddings, world, options.bucket_capacity
            )
    shard_options(options, world)
    return options


def _check_tables(tables: Any) -> None:
    """Configs by their fields: ours, or TorchRec's."""
    listed = isinstance(tables, (list, tuple))
    if not listed or not all(hasattr(config, "feature_names") for config in tables):
        checks.fail(f"tables must be a list of configs, got {tables!r}")


def _chunks(members: list[int], chunks: int) -> list[list[int]]:
    parts = min(chunks, len(members))
    ends = [len(members) * i // parts for i in range(parts + 1)]
    return [members[a:b] for a, b in itertools.pairwise(ends)]


def _known_sizes(features: Any) -> list[int] | None:
    """The values of each feature, where a batch knows them on the host, as TorchRec's may."""
    known = getattr(features, "length_per_key_or_none", None)
    return None if known is None else known()


def _offsets(features: Any) -> Tensor:
    """Where the bags begin, without FBGEMM, which TorchRec asks: its wheel for CPUs sums none on a
    GPU."""
    known = getattr(features, "offsets_or_none", None)
    offsets: Tensor | None = None if known is None else known()
    if offsets is not None:
        return offsets
    return _ends(features.lengths().view(-1))


def _ends(lengths: Tensor) -> Tensor:
    """0, then where each bag of such a length ends; int64."""
    sums = lengths.cumsum(0)
    return torch.cat([sums.new_zeros(1), sums])


class _Collection(nn.Module):
    """Tables with equal options and pooling form a group: one module that does them at once."""

    def __init__(
        self,
        tables: Sequence[Any],
        device: torch.device | str | None,
        poolings: Sequence[DynamicEmbPoolingMode],
        options: Mapping[str, DynamicEmbTableOptions] | None,
        fused_params: Mapping[str, Any] | None,
        process_group: Any = None,
        exchange: ExchangeOptions | None = None,
    ) -> None:
        super().__init__()
        for name, mapping in (("options", options), ("fused_params", fused_params)):
            if mapping is not None:
                checks.instance(mapping, Mapping, name)
        if not tables:
            raise ValueError("dynamicemb: tables must hold at least one config, got none")
        names = [config.name for config in tables]
        if len(set(names)) != len(names):
            raise ValueError(f"dynamicemb: tables must have distinct names, got {names}")
        unknown = set(options or {}) - set(names)
        if unknown:
            raise ValueError(f"dynamicemb: options name no table of {names}: {sorted(unknown)}")
        self._tables = list(tables)
        params = dict(fused_params or {})
        if exchange is not None:
            checks.instance(exchange, ExchangeOptions, "exchange")
        if process_group is not None:
            checks.instance(process_group, torch.distributed.ProcessGroup, "process_group")
        given = exchange or ExchangeOptions()
        link = None if process_group is None else Link(process_group)
        if link is None and exchange is not None:
            raise ValueError("dynamicemb: exchange needs a process_group, and there is none")
        world = 1 if link is None else link.world
        every = [_options(config, (options or {}).get(config.name), world) for config in tables]
        clip = None
        if link is not None:
            params["seed"] = same_everywhere(link, tables, every, params, given)
            if params.pop("gradient_clipping", False):
                clip = params.pop("max_gradient", 1.0)
        grouped: dict[Any, list[int]] = {}
        for t, (one, pooling) in enumerate(zip(every, poolings, strict=True)):
            key = (one, one.embedding_dtype, pooling, one.dim if link is not None else None)
            grouped.setdefault(key, []).append(t)
        self._groups = nn.ModuleList()
        self._features: list[list[str]] = []
        self._dims: list[list[int]] = []
        self._exchanges: list[Exchange] = []
        for (_, _, pooling, _), whole in grouped.items():
            for members in _chunks(whole, given.chunks):
                self._add_group(members, every, pooling, device, params)
                if link is not None:
                    sizes = [tables[t].num_embeddings for t in members]
                    module = self.groups[-1]
                    self._exchanges.append(Exchange(module, sizes, link, given, clip))
        self._order = [f for config in tables for f in config.feature_names]
        if len(set(self._order)) != len(self._order):
            raise ValueError(f"dynamicemb: a feature belongs to one table, got {self._order}")

    def _add_group(
        self,
        members: Sequence[int],
        every: Sequence[DynamicEmbTableOptions],
        pooling: DynamicEmbPoolingMode,
        device: torch.device | str | None,
        params: Mapping[str, Any],
    ) -> None:
        tables = self._tables
        features = [(f, i) for i, t in enumerate(members) for f in tables[t].feature_names]
        made = {"enforce_hbm": not any(every[t].local_hbm_for_values for t in members)}
        self._groups.append(
            BatchedDynamicEmbeddingTablesV2(
                [every[t] for t in members],
                [tables[t].name for t in members],
                [i for _, i in features],
                pooling_mode=pooling,
                device=device,
                **(made | dict(params)),
            )
        )
        self._features.append([f for f, _ in features])
        self._dims.append([tables[members[i]].embedding_dim for _, i in features])

    def _looked_up(self, batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> list[Tensor]:
        """What each group gives for its part of a batch."""
        if self._exchanges:
            return exchanged(self._exchanges, batches)
        return [group(*batch) for group, batch in zip(self.groups, batches, strict=True)]

    @property
    def groups(self) -> list[BatchedDynamicEmbeddingTablesV2]:
        return [
            group for group in self._groups if isinstance(group, BatchedDynamicEmbeddingTablesV2)
        ]

    @property
    def device(self) -> torch.device:
        return self.groups[0].device

    def step(self) -> None:
        """Updates the rows where ``fused=False``."""
        for group in self.groups:
            group.step()

    def set_score(self, scores: Mapping[str, int]) -> None:
        for group in self.groups:
            group.set_score({n: s for n, s in scores.items() if n in group.table_names})

    def get_score(self) -> dict[str, int]:
        return {name: s for group in self.groups for name, s in group.get_score().items()}

    def _chosen(self, features: Any, wanted: list[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, offsets and weights of some features of a batch, in that order."""
        if not hasattr(features, "weights_or_none"):
            checks.fail(f"features must be a KeyedJaggedTensor, got {features!r}")
        keys = list(features.keys())
        missing = [name for name in wanted if name not in keys]
        if missing:
            raise ValueError(
                f"dynamicemb: features {missing} are not in the batch, which has {keys}"
            )
        values, weights = features.values(), features.weights_or_none()
        if wanted == keys:
            return values, _offsets(features), weights
        lengths = features.lengths().view(len(keys), -1)
        sizes = _known_sizes(features) or lengths.sum(1).tolist()
        parts = dict(zip(keys, values.split(sizes), strict=True))
        offsets = _ends(torch.cat([lengths[keys.index(name)] for name in wanted]))
        if weights is not None:
            of = dict(zip(keys, weights.split(sizes), strict=True))
            weights = torch.cat([of[name] for name in wanted])
        return torch.cat([parts[name] for name in wanted]), offsets, weights


class DynamicEmbeddingBagCollection(_Collection):
    """Pooled embeddings of several tables without a bound on ids.

    ``num_embeddings`` is a capacity: beyond it the rows that were not used for the longest leave.
    A lookup in training gives new ids a row; in evaluation they read as zeros. The optimizer runs
    in the backward (``fused_params={"fused": False}``: in ``step``).

    Args:
        tables: configs with name, embedding_dim, num_embeddings, feature_names, pooling, data_type.
        device: default: CUDA if there is any.
        is_weighted: the batch's weights weigh the rows.
        options: ``DynamicEmbTableOptions`` by table name, for what the configs do not say.
        fused_params: keywords of ``BatchedDynamicEmbeddingTablesV2``: optimizer, learning_rate ...
        process_group: the tables are dealt out to its ranks, row by row; every rank calls with a
            batch of its own. ``num_embeddings`` is then of all ranks together, a given
            ``max_capacity`` of one.
        exchange: how rows pass between the ranks.
    """

    def __init__(
        self,
        tables: Sequence[Any],
        device: torch.device | str | None = None,
        is_weighted: bool = False,
        options: Mapping[str, DynamicEmbTableOptions] | None = None,
        fused_params: Mapping[str, Any] | None = None,
        process_group: Any = None,
        exchange: ExchangeOptions | None = None,
    ) -> None:
        checks.boolean(is_weighted, "is_weighted")
        _check_tables(tables)
        poolings = [
            enum_of(DynamicEmbPoolingMode, getattr(config, "pooling", "SUM"), "pooling")
            for config in tables
        ]
        super().__init__(tables, device, poolings, options, fused_params, process_group, exchange)
        self._weighted = is_weighted

    def embedding_bag_configs(self) -> list[Any]:
        return self._tables

    def is_weighted(self) -> bool:
        return self._weighted

    def forward(self, features: Any) -> KeyedTensor:
        """A KeyedTensor, (batch, dim) of each feature, from a KeyedJaggedTensor."""
        batches = [self._chosen(features, names) for names in self._features]
        if not self._weighted:
            batches = [(values, offsets, None) for values, offsets, _ in batches]
        elif any(weights is None for _, _, weights in batches):
            raise ValueError("dynamicemb: features have no weights, and is_weighted is True")
        looked_up = self._looked_up(batches)
        if len(looked_up) == 1:
            return KeyedTensor(self._features[0], self._dims[0], looked_up[0])
        parts: dict[str, tuple[int, Tensor]] = {}
        for pooled, names, dims in zip(looked_up, self._features, self._dims, strict=True):
            for name, dim, part in zip(names, dims, torch.split(pooled, dims, 1), strict=True):
                parts[name] = (dim, part)
        pooled = torch.cat([parts[name][1] for name in self._order], dim=1)
        return KeyedTensor(self._order, [parts[name][0] for name in self._order], pooled)


class DynamicEmbeddingCollection(_Collection):
    """As DynamicEmbeddingBagCollection, a row for each id: {feature: JaggedTensor}."""

    def __init__(
        self,
        tables: Sequence[Any],
        device: torch.device | str | None = None,
        options: Mapping[str, DynamicEmbTableOptions] | None = None,
        fused_params: Mapping[str, Any] | None = None,
        process_group: Any = None,
        exchange: ExchangeOptions | None = None,
    ) -> None:
        _check_tables(tables)
        poolings = [DynamicEmbPoolingMode.NONE for _ in tables]
        super().__init__(tables, device, poolings, options, fused_params, process_group, exchange)

    def embedding_configs(self) -> list[Any]:
        return self._tables

    def forward(self, features: Any) -> dict[str, JaggedTensor]:
        found = {}
        batches = [self._chosen(features, names)[:2] for names in self._features]
        keys = list(features.keys())
        lengths = [
            (features.lengths() if names == keys else torch.diff(offsets)).view(len(names), -1)
            for (_, offsets), names in zip(batches, self._features, strict=True)
        ]
        known = dict(zip(keys, _known_sizes(features) or (), strict=False))
        sizes = [None if known else Numbers(one.sum(1)) for one in lengths]
        looked_up = self._looked_up([(values, offsets, None) for values, offsets in batches])
        for rows, of, size, names, dims in zip(
            looked_up, lengths, sizes, self._features, self._dims, strict=True
        ):
            counts = [known[name] for name in names] if size is None else size.read()
            for name, dim, length, part in zip(
                names, dims, of.unbind(), torch.split(rows, counts), strict=True
            ):
                found[name] = JaggedTensor(part if part.shape[1] == dim else part[:, :dim], length)
        return found
