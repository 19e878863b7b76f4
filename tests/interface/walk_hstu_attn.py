"""The calls of hstu_attn that succeed."""

from __future__ import annotations

from typing import Any

import hstu_attn
import torch

from tests.interface.walk import Call, Walk, kinds


def attention() -> dict[str, Any]:
    q = torch.zeros(6, 2, 32)
    cu = torch.tensor([0, 3, 6], dtype=torch.int32)
    counts = torch.tensor([1, 1], dtype=torch.int32)
    return {
        "q": q, "k": q.clone(), "v": q.clone(), "cu_seqlens_q": cu, "cu_seqlens_k": cu,
        "max_seqlen_q": 3, "max_seqlen_k": 3, "window_size": (-1, 0), "num_contexts": counts,
        "num_targets": counts, "rab": torch.zeros(2, 2, 3, 3),
    }  # fmt: skip


def varlen(parameter: str) -> Call:
    given = attention()
    if parameter == "func":
        given |= {"num_contexts": None, "num_targets": None, "window_size": (-1, -1)}
        given["func"] = torch.zeros(1, 3, 6, dtype=torch.int32)
    if parameter in ("kv_cache", "page_offsets", "page_ids", "last_page_lens", "cu_seqlens_t"):
        two = torch.tensor([2, 2], dtype=torch.int32)
        given |= {
            "kv_cache": torch.zeros(2, 2, 16, 2, 32),
            "page_offsets": torch.tensor([0, 1, 2], dtype=torch.int32),
            "page_ids": torch.tensor([0, 1], dtype=torch.int32),
            "last_page_lens": two,
            "cu_seqlens_t": torch.tensor([0, 1, 2], dtype=torch.int32),
        }
    return Call(hstu_attn.hstu_attn_varlen_func, given)


def packed(parameter: str) -> Call:
    given = varlen(parameter).arguments
    qkv = torch.stack([given.pop(name) for name in "qkv"], 1)
    return Call(hstu_attn.hstu_attn_qkvpacked_func, {"qkv": qkv, **given})


def call(name: str, parameter: str) -> Call:
    return packed(parameter) if "packed" in name else varlen(parameter)


KINDS = {
    "tensor": "q k v qkv cu_seqlens_q cu_seqlens_k num_contexts num_targets rab kv_cache "
    "page_offsets page_ids last_page_lens cu_seqlens_t func",
    "integer": "max_seqlen_q max_seqlen_k target_group_size scaling_seqlen",
    "bool": "has_drab deterministic causal",
    "number": "alpha",
    "window": "window_size",
}
WALK = Walk("hstu_attn", kinds(KINDS), call)
