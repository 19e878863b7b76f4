"""FBGEMM's Python names without FBGEMM, so far as TorchRec asks for them when it is imported.

Enums have FBGEMM's members, because TorchRec compares and stores them, and the class that reorders
pooled embeddings works; every other class says what it is when one wants to use it.
"""

from __future__ import annotations

import enum
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NAME = "fbgemm_gpu"


class SparseType(enum.Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    BF16 = "bf16"
    MX4 = "mx4"
    NFP8 = "nfp8"

    def as_dtype(self) -> torch.dtype:
        known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        return known.get(self.value, torch.uint8)


def _numbered(name: str, members: str) -> Any:
    return enum.IntEnum(name, members.split(), start=0)


def _named(name: str, **members: str) -> Any:
    return enum.Enum(name, members)


ENUMS: dict[str, Any] = {
    "SparseType": SparseType,
    "PoolingMode": _numbered("PoolingMode", "SUM MEAN NONE"),
    "EmbeddingLocation": _numbered("EmbeddingLocation", "DEVICE MANAGED MANAGED_CACHING HOST MTIA"),
    "BoundsCheckMode": _numbered(
        "BoundsCheckMode", "FATAL WARNING IGNORE NONE V2_IGNORE V2_WARNING V2_FATAL"
    ),
    "ComputeDevice": _numbered("ComputeDevice", "CPU CUDA MTIA"),
    "BackendType": _numbered("BackendType", "SSD DRAM PS"),
    "CacheAlgorithm": _numbered("CacheAlgorithm", "LRU LFU"),
    "EmbOptimType": _named(
        "EmbOptimType",
        SGD="sgd",
        EXACT_SGD="exact_sgd",
        LAMB="lamb",
        ADAM="adam",
        EXACT_ADAGRAD="exact_adagrad",
        EXACT_ROWWISE_ADAGRAD="exact_row_wise_adagrad",
        LARS_SGD="lars_sgd",
        PARTIAL_ROWWISE_ADAM="partial_row_wise_adam",
        PARTIAL_ROWWISE_LAMB="partial_row_wise_lamb",
        ROWWISE_ADAGRAD="row_wise_adagrad",
        SHAMPOO="shampoo",
        MADGRAD="madgrad",
        NONE="none",
    ),
}
globals().update(ENUMS)  # where pickle looks for them: a plan with them goes to every rank
_PERMUTE = (
    "(Tensor permute, Tensor lengths, Tensor values, Tensor? weights=None, "
    "SymInt? permuted_lengths_sum=None) -> (Tensor, Tensor, Tensor?)"
)
_POOLED = (
    "(Tensor pooled_embs, Tensor offset_dim_list, Tensor permute_list, "
    "Tensor inv_offset_dim_list, Tensor inv_permute_list) -> Tensor"
)
SCHEMAS = {
    "asynchronous_complete_cumsum": "(Tensor t_in) -> Tensor",
    "asynchronous_inclusive_cumsum": "(Tensor t_in) -> Tensor",
    "asynchronous_exclusive_cumsum": "(Tensor t_in) -> Tensor",
    "invert_permute": "(Tensor permute) -> Tensor",
    "permute_1D_sparse_data": _PERMUTE,
    "permute_2D_sparse_data": _PERMUTE,
    "expand_into_jagged_permute": (
        "(Tensor permute, Tensor input_offset, Tensor output_offset, SymInt output_size) -> Tensor"
    ),
    "segment_sum_csr": "(SymInt batch_size, Tensor csr_seg, Tensor values) -> Tensor",
    "block_bucketize_sparse_features": (
        "(Tensor lengths, Tensor indices, bool bucketize_pos, bool sequence, Tensor block_sizes, "
        "SymInt my_size, Tensor? weights=None, Tensor? batch_size_per_feature=None, "
        "SymInt max_B=-1, Tensor[]? block_bucketize_pos=None, bool keep_orig_idx=False, "
        "Tensor? total_num_blocks=None, Tensor? keep_orig_idx_per_feature=None) "
        "-> (Tensor, Tensor, Tensor?, Tensor?, Tensor?)"
    ),
    "permute_pooled_embs": _POOLED,
    "permute_pooled_embs_auto_grad": _POOLED,
    "batch_index_select_dim0": (
        "(Tensor inputs, Tensor indices, SymInt[] input_num_indices, SymInt[] input_rows, "
        "SymInt[] input_columns, bool permute_output_dim_0_1=False, "
        "SymInt? total_num_indices=None) -> Tensor"
    ),
    "keyed_jagged_index_select_dim1": (
        "(Tensor values, Tensor lengths, Tensor offsets, Tensor indices, SymInt batch_size, "
        "Tensor? weights=None, SymInt? selected_lengths_sum=None) -> Tensor[]"
    ),
}


class _Missing:
    """Of what only FBGEMM has."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError(
            f"dynamicemb: {type(self).__module__}.{type(self).__name__} is FBGEMM's, and "
            "use_stubs() stands in for it: `python -m dynamicemb torchrec` prints how to install it"
        )

    def __init_subclass__(cls, **_: Any) -> None: ...

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


class PermutePooledEmbeddings:
    """Reorders the columns of pooled embeddings, block by block.

    Args:
        embs_dims: columns of each block.
        permute: the block that stands at each place of the result.
        device: not looked at.
    """

    def __init__(
        self, embs_dims: Sequence[int], permute: Sequence[int], device: object = None
    ) -> None:
        self._dims, self._order = list(embs_dims), list(permute)

    def __call__(self, pooled_embs: Tensor) -> Tensor:
        blocks = torch.split(pooled_embs, self._dims, 1)
        return torch.cat([blocks[place] for place in self._order], 1)


KNOWN: dict[str, Any] = {**ENUMS, "PermutePooledEmbeddings": PermutePooledEmbeddings}


class _Stub(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = KNOWN.get(name)
        if made is None:
            made = type(name, (_Missing,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != NAME:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def installed() -> bool:
    return isinstance(sys.modules.get(NAME), _Stub)


def install(ops: dict[str, Any]) -> Any:
    """Puts the modules in place and defines the ops; the library that holds them."""
    sys.meta_path.insert(0, _Finder())
    importlib.import_module(NAME)
    kind: Any = torch.library.Library
    library = kind("fbgemm", "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        # Of parts that have gradients, so that it has one.
        library.impl(name, ops[name.removesuffix("_auto_grad")], "CompositeImplicitAutograd")
    return library
