"""HSTU attention by the CUDA kernels of ``hstu_attn``, if that package is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import sequence_of_row


def visible_columns(
    rows: int,
    starts: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    min_full_attn_seq_len: int,
) -> Tensor:
    """The mask of ``hstu_mha`` as ``hstu_attn`` takes it in ``func``: for each packed row the
    columns [low, high) and the row itself, int32 (1, 5, rows)."""
    batch = starts.shape[0] - 1
    sequence, place = sequence_of_row(starts, rows)
    lengths = torch.cat([(starts[1:] - starts[:-1]).long(), starts.new_zeros(1).long()])
    history = lengths[sequence]
    if num_targets is not None:
        history = history - torch.cat([num_targets.long(), history.new_zeros(1)])[sequence]
    before = max(contextual_seq_len - 1, 0)  # places beside the first that have the id 0
    end = history - before
    own = (place - before).clamp(min=0) if contextual_seq_len > 0 else place
    if num_targets is not None:
        own = torch.minimum(own, end)
    high = torch.where(own > 0, own + before, 0)
    low = torch.zeros_like(high)
    if max_attn_len > 0:
        far = own - max_attn_len
        low = torch.where(far > 0, far + before, 0)
        if min_full_attn_seq_len > 0:
            low = torch.where(own >= end - min_full_attn_seq_len, 0, low)
    if contextual_seq_len > 0:
        high = torch.where((own == 0) & (end > 0), history, high)
    itself = torch.where((low <= place) & (place < high), place, place + 1)
    there = sequence < batch
    columns = [torch.zeros_like(low), low, high, place, itself]
    return torch.where(there, torch.stack(columns), 0).to(torch.int32)[None]


def cuda_hstu_mha(
    max_seq_len: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    min_full_attn_seq_len: int = 0,
) -> Tensor:
    """``ops.hstu_attention.hstu_mha`` by ``hstu_attn``: q, k and v with one head dim of 32, 64, 128
    or 256, bfloat16 or float16 on a GPU, and no sequence longer than ``max_seq_len``."""
    try:
        from hstu_attn import hstu_attn_varlen_func
    except ImportError as error:
        raise ImportError(
            "generative_recommenders: hstu_mha: CUDA needs hstu_attn: pip install hstu-attn"
        ) from error
    if v.shape[2] != q.shape[2]:
        CHECKS.fail(f"v must have the head dim of q with CUDA, got {v.shape[2]} and {q.shape[2]}")
    starts = seq_offsets.to(torch.int32)
    masks: dict[str, Any] = {}
    if max_attn_len or contextual_seq_len:
        mask = (num_targets, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
        masks["func"] = visible_columns(q.shape[0], starts, *mask)
    else:
        masks["causal"] = True
        if num_targets is not None:
            masks["num_targets"] = num_targets.to(torch.int32)
    out: Tensor = hstu_attn_varlen_func(
        q,
        k,
        v,
        starts,
        starts,
        max_seq_len,
        max_seq_len,
        alpha=float(alpha),
        scaling_seqlen=max_seq_len,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **masks,
    )
    return out
