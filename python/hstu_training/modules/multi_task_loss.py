"""The loss of ranking: one logit for each bit of an action, or one for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hstu_training.checks import CHECKS
from hstu_training.configs.task_config import RankingConfig


def labels_of(actions: Tensor, config: RankingConfig, positive_from: int | None) -> Tensor:
    """The targets of (n) int64 actions.

    Returns:
        (n, tasks) float32 bits of the action (one task: whether it is >= ``positive_from``, else
        whether it is not 0), or (n) int64 classes.
    """
    if not config.binary:
        return actions
    if config.num_tasks == 1:
        return (actions >= (1 if positive_from is None else positive_from)).float()[:, None]
    bits = torch.arange(config.num_tasks, device=actions.device)
    return ((actions[:, None] >> bits) & 1).float()


def multi_task_losses(logits: Tensor, labels: Tensor, config: RankingConfig) -> Tensor:
    """(n) float32: binary cross entropies summed over tasks, or the cross entropy of classes."""
    if logits.shape[1] != config.logits:
        CHECKS.fail(f"logits must have {config.logits} columns, got {logits.shape[1]}")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if config.binary:
        each = F.binary_cross_entropy_with_logits(wide, labels.to(wide.dtype), reduction="none")
        return each.sum(1)
    return F.cross_entropy(wide, labels, reduction="none")
