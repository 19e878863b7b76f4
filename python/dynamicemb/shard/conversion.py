"""Between TorchRec's words and ours."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.keys_dist import link_of
from dynamicemb.optimizer import EmbOptimType
from dynamicemb.types import enum_of
from dynamicemb.utils import output_dtype

CUSTOMIZED = "customized_kernel"
_OURS = set(inspect.signature(BatchedDynamicEmbeddingTablesV2).parameters)
_OUTPUTS = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}


def checked_params(fused_params: Any) -> dict[str, Any]:
    """A copy; an optimizer that is none of ours is named. FBGEMM's of the same name are taken."""
    params = dict(fused_params or {})
    if "optimizer" in params:
        enum_of(EmbOptimType, params["optimizer"], "optimizer")
    return params


def static_params(fused_params: Any) -> dict[str, Any]:
    """What FBGEMM's tables take of the params of both kinds: its own enums, none that only ours
    have."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType as Theirs
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    has = inspect.signature(SplitTableBatchedEmbeddingBagsCodegen.__init__).parameters
    params = {k: v for k, v in dict(fused_params or {}).items() if k in has or k not in _OURS}
    if "optimizer" in params:
        name = enum_of(EmbOptimType, params["optimizer"], "optimizer").name
        params["optimizer"] = enum_of(Theirs, "EXACT_SGD" if name == "SGD" else name, "optimizer")
    if params.get("output_dtype") is not None:
        params["output_dtype"] = SparseType[_OUTPUTS[output_dtype(params["output_dtype"])]]
    return params


@contextmanager
def static_alone(module: Any, configs: str) -> Iterator[None]:
    """TorchRec gives first rows to the tables of ``module.<configs>``; rows of dynamic tables are
    made when their keys come."""
    every = getattr(module, configs)
    plan = module.module_sharding_plan
    static = [c for c in every if plan[c.name].compute_kernel != CUSTOMIZED]
    setattr(module, configs, static)
    try:
        yield
    finally:
        setattr(module, configs, every)


def failing(module: Any, where: str) -> Any:
    """What is raised within is told to the ranks that the module is sharded over."""
    group = getattr(module._env, "process_group", None)
    return nullcontext() if group is None else link_of(group).failing(where)


def sharding_types(theirs: list[str], ours: Iterable[str]) -> list[str]:
    """TorchRec leaves row-wise out on the CPU, where it runs, too."""
    return [*theirs, *(one for one in ours if one not in theirs)]


def kernels(theirs: list[str]) -> list[str]:
    return [*theirs, CUSTOMIZED] if CUSTOMIZED not in theirs else theirs
