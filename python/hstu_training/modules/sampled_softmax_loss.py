"""Softmax of the positive among the negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hstu_training.modules.negatives_sampler import Negatives

_MASKED = -5e4
_DENSE = 64  # so many times more items than negatives are scored whole rather than gathered


def l2_normalised(x: Tensor, eps: float) -> Tensor:
    """Rows divided by their norm, at least ``eps``, in float32 or more."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norms.clamp(min=eps)


def sampled_softmax_losses(
    queries: Tensor, items: Tensor, negatives: Negatives, temperature: float
) -> Tensor:
    """-log softmax of each position's own item.

    Args:
        queries: (positions, dim), normalised.
        items: (items, dim), normalised, the rows of ``negatives.ids``.
        negatives: which of them count; where one is the positive itself, it is masked.
        temperature: of the logits.

    Returns:
        (positions) float32.
    """
    own, drawn = negatives.positive, negatives.drawn
    if drawn is None:
        return F.cross_entropy(queries @ items.t() / temperature, own, reduction="none")
    if len(items) <= _DENSE * drawn.shape[1]:
        scores = queries @ items.t()
        positive, others = scores.gather(1, own[:, None]), scores.gather(1, drawn)
    else:
        positive = (queries * items[own]).sum(1, keepdim=True)
        others = torch.einsum("pd,pnd->pn", queries, items[drawn])
    others = (others / temperature).masked_fill(drawn == own[:, None], _MASKED)
    logits = torch.cat([positive / temperature, others], 1)
    return -F.log_softmax(logits, 1)[:, 0]
