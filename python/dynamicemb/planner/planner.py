"""TorchRec's planner for models in which tables may be dynamic."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch.distributed as dist

from dynamicemb import torchrec_compat
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions, get_sharded_table_capacity
from dynamicemb.exchange import shard_options
from dynamicemb.optimizer import EmbOptimType, padded, row_layout
from dynamicemb.types import DynamicEmbInitializerMode, enum_of
from dynamicemb.utils import data_type_to_dtype

torchrec_compat.require()

from torchrec.distributed.collective_utils import (  # noqa: E402
    invoke_on_rank_and_broadcast_result,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology  # noqa: E402
from torchrec.distributed.planner.types import ParameterConstraints  # noqa: E402
from torchrec.distributed.types import BoundsCheckMode, ParameterSharding  # noqa: E402

from dynamicemb.planner.enumerators import DynamicEmbeddingEnumerator  # noqa: E402
from dynamicemb.shard.conversion import CUSTOMIZED  # noqa: E402


@dataclass
class DynamicEmbParameterConstraints(ParameterConstraints):  # type: ignore[misc]
    """TorchRec's constraints of a table, and whether it is dynamic.

    Args:
        use_dynamicemb: the table is dynamic.
        dynamicemb_options: its options; None: the defaults.
        row_bytes: filled in by the planner.
    """

    use_dynamicemb: bool | None = False
    dynamicemb_options: DynamicEmbTableOptions | None = None
    row_bytes: int = 0


@dataclass
class DynamicEmbParameterSharding(ParameterSharding):  # type: ignore[misc]
    """How a dynamic table is sharded."""

    compute_kernel: str = CUSTOMIZED
    customized_compute_kernel: str = "DynamicEmb"
    dist_type: str = "roundrobin"
    dynamicemb_options: DynamicEmbTableOptions | None = None

    def get_additional_fused_params(self) -> dict[str, Any]:
        """What TorchRec hands on to the kernel."""
        found: dict[str, Any] = {"dynamicemb_options": self.dynamicemb_options}
        if self.sharding_type == "table_wise":
            found["dynamicemb_whole"] = True
        return found


def prepared(
    config: Any, given: DynamicEmbTableOptions | None, world: int, optimizer: object
) -> tuple[DynamicEmbTableOptions, int]:
    """A rank's options of a table, from those of all ranks together; bytes of a row."""
    options = copy.copy(given) if given is not None else DynamicEmbTableOptions()
    options.dim = config.embedding_dim
    options.embedding_dtype = data_type_to_dtype(config.data_type)
    if options.max_capacity is None:
        options.max_capacity = get_sharded_table_capacity(
            config.num_embeddings, world, options.bucket_capacity
        )
    if options.init_capacity is not None:
        start = padded(options.init_capacity, options.bucket_capacity)
        options.init_capacity = min(start, options.max_capacity)
    shard_options(options, world)
    first = options.initializer_args = copy.copy(options.initializer_args)
    mode = enum_of(DynamicEmbInitializerMode, first.mode, "initializer_args.mode")
    bounded = (DynamicEmbInitializerMode.UNIFORM, DynamicEmbInitializerMode.TRUNCATED_NORMAL)
    if mode in bounded and first.lower is None and first.upper is None:
        bound = math.sqrt(1 / config.num_embeddings)
        first.lower, first.upper = -bound, bound
    kind = enum_of(EmbOptimType, optimizer, "optimizer") if options.training else None
    layout = row_layout(options.dim, options.embedding_dtype, kind, options.stamped)
    options.check(config.name)
    return options, layout.row_bytes


def check_constraints(configs: Sequence[Any], constraints: Mapping[str, Any]) -> None:
    """Raises ValueError where configs and constraints are not of the same tables."""
    names = [config.name for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"dynamicemb: eb_configs must have distinct names, got twice: {twice}")
    for text, missing in (
        ("constraints without a config of that table", set(constraints) - set(names)),
        ("eb_configs without a constraint", set(names) - set(constraints)),
    ):
        if missing:
            raise ValueError(
                f"dynamicemb: {text}: {', '.join(sorted(missing))}; the tables are "
                f"{', '.join(names)}"
            )
    for name, one in constraints.items():
        if not getattr(one, "use_dynamicemb", False):
            continue
        if one.bounds_check_mode not in (None, BoundsCheckMode.NONE):
            raise ValueError(
                f"dynamicemb: bounds_check_mode of the dynamic table {name!r} must be None or "
                f"BoundsCheckMode.NONE, got {one.bounds_check_mode}: every int64 is a key"
            )


class DynamicEmbeddingShardingPlanner:
    """Plans with TorchRec's EmbeddingShardingPlanner; dynamic tables row-wise over all ranks, or as
    their constraint says.

    Args:
        eb_configs: of every table, dynamic or not.
        topology: default: this machine's, of the process group's size.
        batch_size: of a rank.
        enumerator: default: ``DynamicEmbeddingEnumerator``.
        storage_reservation, proposer, partitioner, performance_model, stats, debug: of TorchRec.
        constraints: of each table of ``eb_configs``, by name.
        optimizer: what dynamic tables train with; their rows' bytes depend on it.

    Raises:
        ValueError: tables without a constraint, or the reverse; see ``check_constraints``.
    """

    def __init__(
        self,
        eb_configs: Sequence[Any],
        topology: Any = None,
        batch_size: int | None = None,
        enumerator: Any = None,
        storage_reservation: Any = None,
        proposer: Any = None,
        partitioner: Any = None,
        performance_model: Any = None,
        stats: Any = None,
        constraints: Mapping[str, Any] | None = None,
        debug: bool = True,
        optimizer: object = EmbOptimType.ADAM,
    ) -> None:
        given = dict(constraints or {})
        check_constraints(eb_configs, given)
        if topology is None:
            topology = Topology(world_size=dist.get_world_size(), compute_device="cpu")
        world = topology.world_size
        self._dynamic: dict[str, DynamicEmbTableOptions] = {}
        self._constraints: dict[str, Any] = {}
        for config in eb_configs:
            one = copy.copy(given[config.name])
            if getattr(one, "use_dynamicemb", False):
                kind = (one.sharding_types or ["row_wise"])[0]
                parts = {"table_wise": 1, "table_row_wise": topology.local_world_size}
                options, one.row_bytes = prepared(
                    config, one.dynamicemb_options, parts.get(kind, world), optimizer
                )
                one.dynamicemb_options = self._dynamic[config.name] = options
                one.bounds_check_mode = BoundsCheckMode.NONE
            self._constraints[config.name] = one
        if enumerator is None:
            enumerator = DynamicEmbeddingEnumerator(
                topology=topology, batch_size=batch_size or 512, constraints=self._constraints
            )
        self._planner = EmbeddingShardingPlanner(
            topology=topology,
            batch_size=batch_size,
            enumerator=enumerator,
            storage_reservation=storage_reservation,
            proposer=proposer,
            partitioner=partitioner,
            performance_model=performance_model,
            stats=stats,
            constraints=self._constraints,
            debug=debug,
        )

    def plan(self, module: Any, sharders: Sequence[Any]) -> Any:
        """Of one process: the same on every rank."""
        made = self._planner.plan(module, list(sharders))
        for of_module in made.plan.values():
            for name, sharding in of_module.items():
                if name in self._dynamic and sharding.compute_kernel == CUSTOMIZED:
                    of_module[name] = self._of_ours(name, sharding)
        return made

    def _of_ours(self, name: str, sharding: Any) -> DynamicEmbParameterSharding:
        options = self._dynamic[name]
        told = {one.name: getattr(sharding, one.name) for one in fields(sharding)}
        return DynamicEmbParameterSharding(
            **told, dist_type=options.dist_type, dynamicemb_options=options
        )

    def collective_plan(self, module: Any, sharders: Sequence[Any], pg: Any = None) -> Any:
        """Rank 0 plans, all ranks get its plan."""
        group = pg if pg is not None else dist.GroupMember.WORLD
        return invoke_on_rank_and_broadcast_result(group, 0, self.plan, module, sharders)
