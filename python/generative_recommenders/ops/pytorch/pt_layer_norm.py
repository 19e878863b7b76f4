"""Norms of rows in plain PyTorch: computed in float32 or more, in the dtype of ``x`` at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _exact(*tensors: Tensor) -> list[Tensor]:
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return [t.to(dtype) for t in tensors]


def pytorch_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension."""
    x_, w, b = _exact(x, weight, bias)
    return F.layer_norm(x_, (x.shape[-1],), w, b, eps).to(x.dtype)


def pytorch_swish_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``x * sigmoid(layer_norm(x))``."""
    x_, w, b = _exact(x, weight, bias)
    return (x_ * torch.sigmoid(F.layer_norm(x_, (x.shape[-1],), w, b, eps))).to(x.dtype)


def pytorch_rms_norm(x: Tensor, weight: Tensor, eps: float, silu: bool = False) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight``, and its SiLU if asked for."""
    x_, w = _exact(x, weight)
    y = x_ * torch.rsqrt(x_.square().mean(-1, keepdim=True) + eps) * w
    return (F.silu(y) if silu else y).to(x.dtype)


def pytorch_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, num_heads: int, linear_dim: int
) -> Tensor:
    """A layer norm over each of ``num_heads`` groups of ``linear_dim`` columns; weight and bias
    (num_heads,) belong to groups."""
    x_, w, b = _exact(x, weight, bias)
    grouped = x_.reshape(-1, num_heads, linear_dim)
    y = F.layer_norm(grouped, (linear_dim,), eps=eps) * w[:, None] + b[:, None]
    return y.reshape(x.shape).to(x.dtype)
