"""TorchRec's planner with dynamic, static and data-parallel tables, for any number of ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbTableOptions
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from dynamicemb.get_planner import get_planner  # noqa: E402
from dynamicemb.plan import table_bytes  # noqa: E402
from dynamicemb.planner import (  # noqa: E402
    DynamicEmbeddingEnumerator,
    DynamicEmbeddingShardingPlanner,
    DynamicEmbParameterConstraints,
    DynamicEmbParameterSharding,
)
from dynamicemb.shard import DynamicEmbeddingBagCollectionSharder  # noqa: E402
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig  # noqa: E402
from torchrec.distributed.planner import Topology  # noqa: E402
from torchrec.distributed.planner.types import PlannerError  # noqa: E402
from torchrec.distributed.types import BoundsCheckMode  # noqa: E402

CPU = torch.device("cpu")
ROWS = {"dynamic": 1 << 20, "small": 1 << 8, "static": 1 << 20}


def _configs() -> list[Any]:
    return [
        EmbeddingBagConfig(
            name=name, embedding_dim=16, num_embeddings=rows, feature_names=[f"of_{name}"]
        )
        for name, rows in ROWS.items()
    ]


def _model() -> Any:
    ebc = EmbeddingBagCollection(tables=_configs(), device=torch.device("meta"))
    return torch.nn.Sequential(ebc)


def _planner(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "eb_configs": _configs(),
        "data_parallel_embedding_table_names": ["small"],
        "dynamicemb_options_dict": {"dynamic": DynamicEmbTableOptions(dist_type="continuous")},
        "device": CPU,
    }
    return get_planner(**arguments | changes)


@contextmanager
def simulated(world: int) -> Iterator[None]:
    """This process is rank 0 of so many, eight a node."""
    dist.init_process_group("fake", world_size=world, rank=0, store=FakeStore())
    os.environ["LOCAL_WORLD_SIZE"] = str(min(world, 8))
    try:
        yield
    finally:
        del os.environ["LOCAL_WORLD_SIZE"]
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 16, 1024])
def test_the_plan_deals_each_kind_of_table_as_it_was_asked(world: int) -> None:
    with simulated(world):
        made = _planner().plan(_model(), [DynamicEmbeddingBagCollectionSharder()]).plan["0"]
    ours = made["dynamic"]
    assert isinstance(ours, DynamicEmbParameterSharding)
    assert (ours.sharding_type, ours.compute_kernel) == ("row_wise", "customized_kernel")
    assert (ours.customized_compute_kernel, ours.dist_type) == ("DynamicEmb", "continuous")
    assert ours.ranks == list(range(world)) == made["small"].ranks == made["static"].ranks
    assert ours.dynamicemb_options is not None
    assert ours.dynamicemb_options.max_capacity == max(ROWS["dynamic"] // world, 128)
    shards = ours.sharding_spec.shards
    assert [shard.shard_offsets[0] for shard in shards] == [
        rank * ROWS["dynamic"] // world for rank in range(world)
    ]
    nodes = [str(shard.placement) for shard in shards]
    assert nodes == [f"rank:{rank}/cpu" for rank in range(world)]
    assert (made["small"].sharding_type, made["small"].compute_kernel) == (
        "data_parallel",
        "dense",
    )
    assert made["static"].sharding_type == "row_wise"
    assert made["static"].compute_kernel != "customized_kernel"


def plans(group: Any) -> list[str]:
    """One that this rank makes by itself, and the collective one."""
    model, sharders = _model(), [DynamicEmbeddingBagCollectionSharder()]
    configs = _configs()
    planner = DynamicEmbeddingShardingPlanner(
        configs,
        Topology(world_size=dist.get_world_size(group), compute_device="cpu"),
        constraints={
            config.name: DynamicEmbParameterConstraints(use_dynamicemb=config.name == "dynamic")
            for config in configs
        },
        debug=False,
    )
    found = [planner.plan(model, sharders), planner.collective_plan(model, sharders, group)]
    return [repr({name: repr(of) for name, of in plan.plan["0"].items()}) for plan in found]


def test_every_rank_has_the_same_plan(pool: Pool) -> None:
    every = [plan for of_rank in pool.run(plans, 2) for plan in of_rank]
    assert len(every) == 4 and len(set(every)) == 1 and "DynamicEmb" in every[0]


def test_bytes_of_dynamic_tables_are_in_the_estimate() -> None:
    """And a table that no rank has room for is refused."""
    with simulated(4):
        planner = _planner(optimizer="SGD")
        constraints = planner._constraints
        enumerator = DynamicEmbeddingEnumerator(
            topology=Topology(world_size=4, compute_device="cpu"),
            batch_size=512,
            constraints=constraints,
        )
        sharders = [DynamicEmbeddingBagCollectionSharder()]
        options = enumerator.enumerate(_model(), sharders)
        [ours] = [one for one in options if one.name == "dynamic"]
        for shard in ours.shards:
            assert shard.storage.hbm == 0 or shard.storage.ddr
            rows = ROWS["dynamic"] // 4
            assert 0 <= shard.storage.ddr - table_bytes(rows, 64) < 2_000_000
        with pytest.raises(PlannerError):
            _planner(ddr_cap=1 << 22).plan(_model(), sharders)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pipeline_type": "fast"}, "pipeline_type must be one of none, native, prefetch"),
        (
            {"dynamicemb_options_dict": {"huge": None}},
            "dynamicemb_options_dict has no config: huge",
        ),
        (
            {"data_parallel_embedding_table_names": ["smal"]},
            "data_parallel_embedding_table_names has no config: smal; the tables are dynamic",
        ),
        (
            {"dynamicemb_options_dict": {"small": None}},
            "both dynamic and data-parallel: small",
        ),
        ({"eb_configs": _configs() + _configs()}, "eb_configs must have distinct names"),
    ],
)
def test_a_wrong_argument_of_get_planner_is_named(changes: dict[str, Any], said: str) -> None:
    with simulated(2), pytest.raises(ValueError, match=said):
        _planner(**changes)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"dynamic": {}}, "eb_configs without a constraint: small, static"),
        (
            {"dynamic": {}, "small": {}, "static": {}, "more": {}},
            "constraints without a config of that table: more",
        ),
        (
            {
                "dynamic": {"use_dynamicemb": True, "bounds_check_mode": BoundsCheckMode.FATAL},
                "small": {},
                "static": {},
            },
            "bounds_check_mode of the dynamic table 'dynamic' must be None or",
        ),
    ],
)
def test_a_wrong_constraint_is_named(constraints: dict[str, Any], said: str) -> None:
    given = {name: DynamicEmbParameterConstraints(**of) for name, of in constraints.items()}
    with pytest.raises(ValueError, match=said):
        DynamicEmbeddingShardingPlanner(_configs(), Topology(2, "cpu"), constraints=given)


def test_a_sharding_type_that_dynamic_tables_do_not_have_is_named() -> None:
    constraints = {name: DynamicEmbParameterConstraints() for name in ROWS}
    constraints["dynamic"] = DynamicEmbParameterConstraints(
        use_dynamicemb=True, sharding_types=["column_wise"]
    )
    planner = DynamicEmbeddingShardingPlanner(
        _configs(), Topology(2, "cpu"), constraints=constraints
    )
    with pytest.raises(ValueError, match="sharding_types of table 'dynamic' must be of row_wise"):
        planner.plan(_model(), [DynamicEmbeddingBagCollectionSharder()])
