"""Names of types and strategies, from one vocabulary to another."""

from __future__ import annotations

import enum
from typing import Any

import torch

from dynamicemb.arguments import checks
from dynamicemb.types import DynamicEmbEvictStrategy, enum_of


class DynamicEmbDataType(enum.Enum):
    Float32 = "float32"
    BFloat16 = "bfloat16"
    Float16 = "float16"
    Int64 = "int64"
    UInt64 = "uint64"
    Int32 = "int32"
    UInt32 = "uint32"
    Size_t = "size_t"
    Float64 = "float64"


_TORCH = {
    DynamicEmbDataType.Float32: torch.float32,
    DynamicEmbDataType.BFloat16: torch.bfloat16,
    DynamicEmbDataType.Float16: torch.float16,
    DynamicEmbDataType.Int64: torch.int64,
    DynamicEmbDataType.UInt64: torch.uint64,
    DynamicEmbDataType.Int32: torch.int32,
    DynamicEmbDataType.UInt32: torch.uint32,
    DynamicEmbDataType.Size_t: torch.int64,
    DynamicEmbDataType.Float64: torch.float64,
}

# TorchRec's DataType, by the names of its members.
_DATA_TYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
}


def dyn_emb_to_torch(dtype: DynamicEmbDataType) -> torch.dtype:
    checks.instance(dtype, DynamicEmbDataType, "dtype")
    return _TORCH[dtype]


def torch_to_dyn_emb(dtype: torch.dtype) -> DynamicEmbDataType:
    for ours, theirs in _TORCH.items():
        if theirs == dtype:
            return ours
    allowed = ", ".join(map(str, _TORCH.values()))
    raise ValueError(f"dynamicemb: dtype must be one of {allowed}, got {dtype!r}")


def data_type_to_dtype(data_type: object) -> torch.dtype:
    """The torch dtype of TorchRec's ``DataType`` (or of its name)."""
    name = str(getattr(data_type, "name", data_type)).upper()
    if name not in _DATA_TYPES:
        allowed = ", ".join(_DATA_TYPES)
        raise ValueError(f"dynamicemb: data_type must be one of {allowed}, got {data_type!r}")
    return _DATA_TYPES[name]


def output_dtype(given: Any) -> torch.dtype:
    """Of a dtype, or of a member or its name of TorchRec's DataType or FBGEMM's SparseType."""
    if isinstance(given, torch.dtype):
        return given
    return torch.float32 if given is None else data_type_to_dtype(given)


def data_type_to_dyn_emb(data_type: object) -> DynamicEmbDataType:
    return torch_to_dyn_emb(data_type_to_dtype(data_type))


def string_to_evict_strategy(name: str) -> DynamicEmbEvictStrategy:
    """From "KLru" or "lru", as the names of the hash table's strategies are written."""
    checks.instance(name, str, "name")
    plain = name[1:] if name[:2] in ("KL", "KE", "KC", "kL", "kE", "kC") else name
    snake = "".join("_" + c if c.isupper() and i else c for i, c in enumerate(plain))
    for candidate in (plain, snake):
        for member in DynamicEmbEvictStrategy:
            if member.name == candidate.upper():
                return member
    found: DynamicEmbEvictStrategy = enum_of(DynamicEmbEvictStrategy, name, "evict_strategy")
    return found
