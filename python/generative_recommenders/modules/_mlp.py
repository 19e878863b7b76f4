"""Linear layers as every module here makes them."""

from __future__ import annotations

import torch
from torch import nn

from generative_recommenders.ops.layer_norm import LayerNorm, SwishLayerNorm


def draw_xavier_uniform(module: nn.Module) -> nn.Module:
    """Draws the weights of each linear layer inside; biases are 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    return module


def mlp4(in_dim: int, hidden_dim: int, out_dim: int, is_inference: bool) -> nn.Module:
    """Linear, SwishLayerNorm, Linear, LayerNorm: (rows, in_dim) -> (rows, out_dim)."""
    return draw_xavier_uniform(
        nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            SwishLayerNorm(hidden_dim, is_inference=is_inference),
            nn.Linear(hidden_dim, out_dim),
            LayerNorm(out_dim, is_inference=is_inference),
        )
    )


def drawn(*shape: int, std: float) -> nn.Parameter:
    """Normal numbers of mean 0."""
    return nn.Parameter(torch.empty(shape).normal_(mean=0.0, std=std))
