"""The modules' formulas in plain float64: one sequence, one row at a time where rows differ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tests.hstu_triton import oracle


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weight + bias


def mlp(layers: nn.Module, x: Tensor) -> Tensor:
    """Linear, x sigmoid(norm(x)), Linear and, if there is a fourth, norm."""
    first, middle, last, *end = layers.children()
    x = x @ first.weight.t() + first.bias
    x = x * torch.sigmoid(norm(x, middle.weight, middle.bias, 1e-5))
    x = x @ last.weight.t() + last.bias
    return norm(x, end[0].weight, end[0].bias, 1e-5) if end else x


def stu_layer(layer: Any, x: Tensor, lengths: list[int], targets: list[int], n: int) -> Tensor:
    """``x + [u, attn, u norm(attn)] W``."""
    c = layer._config
    rows, heads, d, v = x.shape[0], c.num_heads, c.attention_dim, c.hidden_dim
    normed = norm(x, layer._input_norm_weight, layer._input_norm_bias, 1e-6)
    parts = normed @ layer._uvqk_weight + layer._uvqk_beta
    u, values, q, k = parts.split([heads * v, heads * v, heads * d, heads * d], dim=1)
    starts = [sum(lengths[:b]) for b in range(len(lengths) + 1)]
    attention = oracle.attention(
        n,
        d**-0.5 if c.attn_alpha is None else c.attn_alpha,
        q.reshape(rows, heads, d).detach(),
        k.reshape(rows, heads, d).detach(),
        values.reshape(rows, heads, v).detach(),
        starts,
        targets if c.target_aware else None,
        c.max_attn_len or 0,
        c.contextual_seq_len,
    )
    u = u * torch.sigmoid(u)
    weight, bias = layer._output_norm_weight, layer._output_norm_bias
    if c.use_group_norm:
        y = norm(attention, weight[:, None], bias[:, None], 1e-6).flatten(1)
    else:
        y = norm(attention.flatten(1), weight, bias, 1e-6)
    return x + torch.cat([u, attention.flatten(1), u * y], dim=1) @ layer._output_weight


def sequences(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    return list(rows.split(lengths))


def contextual(weights: Tensor, bias: Tensor, context: Tensor) -> Tensor:
    """(batch, places, columns) of (batch, places * input columns)."""
    places = context.reshape(context.shape[0], weights.shape[0], -1)
    out = [[places[b, c] @ weights[c] + bias[c, 0] for c in range(len(weights))]
           for b in range(len(places))]  # fmt: skip
    return torch.stack([torch.stack(row) for row in out])


def position(
    x: Tensor, times: Tensor, targets: int, contexts: int, places: Tensor, ages: Tensor
) -> Tensor:
    """One sequence."""
    high, last = x.shape[0] - targets, float(times[-1]) if len(times) else 0.0
    rows = []
    for i in range(x.shape[0]):
        place = i if i < contexts else min(high - min(i, high) + contexts, len(places) - 1)
        bucket = int(math.sqrt(max(last - float(times[i]), 1e-6) / 60))
        rows.append(math.sqrt(x.shape[1]) * x[i] + places[place] + ages[min(bucket, len(ages) - 1)])
    return torch.stack(rows) if rows else x
