"""A planner for tables of three kinds: data-parallel, dynamic, and static row-wise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from dynamicemb import torchrec_compat
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions

torchrec_compat.require()

from torchrec.distributed.comm import get_local_size  # noqa: E402
from torchrec.distributed.planner import Topology  # noqa: E402
from torchrec.distributed.planner.storage_reservations import (  # noqa: E402
    FixedPercentageStorageReservation,
)
from torchrec.distributed.types import BoundsCheckMode  # noqa: E402

from dynamicemb.planner import (  # noqa: E402
    DynamicEmbeddingShardingPlanner,
    DynamicEmbParameterConstraints,
)

STATIC_KERNELS = {
    "none": None,
    "native": ["fused", "fused_uvm"],
    "prefetch": ["fused_uvm_caching"],
}
CPU_MEMORY = 32 * 1024**3  # what TorchRec is told of a rank's "HBM" where there is none


def get_planner(
    eb_configs: Sequence[Any],
    data_parallel_embedding_table_names: Iterable[str],
    dynamicemb_options_dict: Mapping[str, DynamicEmbTableOptions],
    device: torch.device,
    pipeline_type: str = "none",
    ddr_cap: int = 512 * 1024**3,
    intra_host_bw: float = 450e9,
    inter_host_bw: float = 25e9,
    optimizer: object = "ADAM",
) -> DynamicEmbeddingShardingPlanner:
    """Tables named in ``dynamicemb_options_dict`` are dynamic, those of
    ``data_parallel_embedding_table_names`` data-parallel, all others static and row-wise.

    Args:
        eb_configs: every table's config.
        data_parallel_embedding_table_names: names.
        dynamicemb_options_dict: options by name.
        device: what the ranks compute on, cuda or cpu.
        pipeline_type: "none", "native" or "prefetch": TorchRec's train pipeline, which says what
            kernels static tables may have.
        ddr_cap: bytes of host memory of a rank.
        intra_host_bw, inter_host_bw: bytes/s between GPUs of a node, and between nodes.
        optimizer: what dynamic tables train with; their rows' bytes depend on it.

    Returns:
        a planner for the ranks of the default process group, LOCAL_WORLD_SIZE of them a node;
        5 % of each tier stay free.

    Raises:
        ValueError: an unknown ``pipeline_type``; a name without a config, or of two kinds.
    """
    if pipeline_type not in STATIC_KERNELS:
        raise ValueError(
            f"dynamicemb: pipeline_type must be one of {', '.join(STATIC_KERNELS)}, got "
            f"{pipeline_type!r}"
        )
    names = [config.name for config in eb_configs]
    parallel = set(data_parallel_embedding_table_names)
    for text, some in (
        ("data_parallel_embedding_table_names", parallel),
        ("dynamicemb_options_dict", set(dynamicemb_options_dict)),
    ):
        unknown = sorted(some.difference(names))
        if unknown:
            raise ValueError(
                f"dynamicemb: {text} has no config: {', '.join(unknown)}; the tables are "
                f"{', '.join(names)}"
            )
    both = parallel & set(dynamicemb_options_dict)
    if both:
        raise ValueError(f"dynamicemb: both dynamic and data-parallel: {', '.join(sorted(both))}")
    on_gpu = torch.device(device).type == "cuda"
    static = STATIC_KERNELS[pipeline_type] if on_gpu else None
    constraints = {}
    for name in names:
        if name in parallel:
            one = DynamicEmbParameterConstraints(
                sharding_types=["data_parallel"],
                compute_kernels=None if pipeline_type == "none" else ["dense"],
            )
        elif name in dynamicemb_options_dict:
            one = DynamicEmbParameterConstraints(
                sharding_types=["row_wise"],
                enforce_hbm=True,
                bounds_check_mode=BoundsCheckMode.NONE,
                use_dynamicemb=True,
                dynamicemb_options=dynamicemb_options_dict[name],
            )
        else:
            one = DynamicEmbParameterConstraints(
                sharding_types=["row_wise"], compute_kernels=static
            )
        constraints[name] = one
    world = dist.get_world_size()
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else CPU_MEMORY
    topology = Topology(
        world_size=world,
        compute_device="cuda" if on_gpu else "cpu",
        local_world_size=get_local_size(world),
        hbm_cap=memory,
        ddr_cap=ddr_cap,
        intra_host_bw=intra_host_bw / 1000,  # TorchRec reckons in milliseconds
        inter_host_bw=inter_host_bw / 1000,
    )
    return DynamicEmbeddingShardingPlanner(
        eb_configs=eb_configs,
        topology=topology,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(percentage=0.05),
        optimizer=optimizer,
        debug=False,
    )
