"""The optimizers of ``dynamicemb_extensions`` on rows in a tensor: weights, then state.

grads (n, dim); values (n, dim + state), written in place; sums are taken in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _apart(grads: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, weights and state in float32."""
    dim = grads.shape[1]
    wide = values.to(torch.float32)
    return grads.to(torch.float32), wide[:, :dim], wide[:, dim:]


def dynamic_emb_sgd_fused(grads: Tensor, values: Tensor, lr: float) -> None:
    g, w, _ = _apart(grads, values)
    values[:, : g.shape[1]] = (w - lr * g).to(values.dtype)


def dynamic_emb_adam_fused(
    grads: Tensor, values: Tensor, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, iter_num: int,
) -> None:  # fmt: skip
    """``iter_num``: 1 in the first step; decay is decoupled."""
    g, w, state = _apart(grads, values)
    dim = g.shape[1]
    m = beta1 * state[:, :dim] + (1 - beta1) * g
    v = beta2 * state[:, dim : 2 * dim] + (1 - beta2) * g * g
    step = m / (1 - beta1**iter_num) / ((v / (1 - beta2**iter_num)).sqrt() + eps)
    new = torch.cat([w - lr * (step + weight_decay * w), m, v], 1)
    values[:, : 3 * dim] = new.to(values.dtype)


def dynamic_emb_adagrad_fused(grads: Tensor, values: Tensor, lr: float, eps: float) -> None:
    g, w, state = _apart(grads, values)
    dim = g.shape[1]
    total = state[:, :dim] + g * g
    new = torch.cat([w - lr * g / (total.sqrt() + eps), total], 1)
    values[:, : 2 * dim] = new.to(values.dtype)


def dynamic_emb_rowwise_adagrad_fused(grads: Tensor, values: Tensor, lr: float, eps: float) -> None:
    g, w, state = _apart(grads, values)
    total = state[:, :1] + (g * g).mean(1, keepdim=True)
    new = torch.cat([w - lr * g / (total.sqrt() + eps), total], 1)
    values[:, : g.shape[1] + 1] = new.to(values.dtype)
