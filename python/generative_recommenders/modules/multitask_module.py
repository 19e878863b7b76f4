"""Predictions of several tasks and their losses; names, order and defaults are those of
``generative_recommenders.modules.multitask_module`` of Meta's package."""

from __future__ import annotations

import abc
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule


class MultitaskTaskType(IntEnum):
    BINARY_CLASSIFICATION = 0
    REGRESSION = 1


class TaskConfig(NamedTuple):
    """A task; ``task_weight`` are the bits of an action that make its label 1."""

    task_name: str
    task_weight: int
    task_type: MultitaskTaskType


Predictions = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class MultitaskModule(HammerModule, abc.ABC):
    @abc.abstractmethod
    def forward(
        self,
        encoded_user_embeddings: Tensor,
        item_embeddings: Tensor,
        supervision_labels: dict[str, Tensor],
        supervision_weights: dict[str, Tensor],
    ) -> Predictions:
        """
        Args:
            encoded_user_embeddings, item_embeddings: (targets, dim).
            supervision_labels: (targets,) of each task, by name; not looked at in inference.
            supervision_weights: (targets,), by name; a task without any has 1.

        Returns:
            predictions (tasks, targets), and labels, weights (tasks, targets), losses (tasks,),
            float32; None for the last three in inference.
        """


class DefaultMultitaskModule(MultitaskModule):
    """``head(user * item)``: its sigmoid for binary tasks, itself for regressions. Losses are
    weighted means of binary cross entropy and squared error, in float32.

    Args:
        task_configs: sorted by their types.
        embedding_dim: columns of users and items.
        prediction_fn: (embedding_dim, tasks) -> the head, (targets, dim) -> (targets, tasks).
        causal_multitask_weights: what losses are scaled by.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        task_configs: list[TaskConfig],
        embedding_dim: int,
        prediction_fn: Callable[[int, int], nn.Module],
        causal_multitask_weights: float,
        is_inference: bool,
    ) -> None:
        super().__init__(is_inference=is_inference)
        if not task_configs:
            CHECKS.fail("task_configs must hold at least one task, got none")
        types = [config.task_type for config in task_configs]
        if types != sorted(types):
            CHECKS.fail(f"task_configs must be sorted by task_type, got {[t.name for t in types]}")
        self._tasks = list(task_configs)
        self._binary = types.count(MultitaskTaskType.BINARY_CLASSIFICATION)
        self._weight = causal_multitask_weights
        self._head = prediction_fn(embedding_dim, len(task_configs))

    def forward(
        self,
        encoded_user_embeddings: Tensor,
        item_embeddings: Tensor,
        supervision_labels: dict[str, Tensor],
        supervision_weights: dict[str, Tensor],
    ) -> Predictions:
        logits = self._head(encoded_user_embeddings * item_embeddings).t()
        binary, regression = logits[: self._binary], logits[self._binary :]
        predictions = torch.cat([torch.sigmoid(binary), regression])
        if self._is_inference:
            return predictions, None, None, None
        names = [config.task_name for config in self._tasks]
        labels = torch.stack([supervision_labels[name].float() for name in names])
        ones = torch.ones_like(labels[0])
        weights = torch.stack([supervision_weights.get(name, ones).float() for name in names])
        n = self._binary
        with torch.autocast(logits.device.type, enabled=False):
            binary_loss = F.binary_cross_entropy_with_logits(
                binary.float(), labels[:n], reduction="none"
            )
            losses = torch.cat([binary_loss, (regression.float() - labels[n:]).square()])
            total = weights.sum(1).clamp(min=1.0)
            losses = self._weight * (weights * losses).sum(1) / total
        return predictions, labels, weights, losses
