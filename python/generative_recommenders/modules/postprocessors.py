"""What is done to the rows of targets at the end; names, order and defaults are those of
``generative_recommenders.modules.postprocessors`` of Meta's package."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule
from generative_recommenders.ops.layer_norm import LayerNorm

LEAST_NORM = 1e-6
TURN = 2 * 3.14  # as Meta's models were trained


class OutputPostprocessor(HammerModule, abc.ABC):
    @abc.abstractmethod
    def forward(
        self, seq_embeddings: Tensor, seq_timestamps: Tensor, seq_payloads: dict[str, Tensor]
    ) -> Tensor:
        """
        Args:
            seq_embeddings: (rows, dim).
            seq_timestamps: (rows,), seconds.
            seq_payloads: by feature name.

        Returns:
            (rows, dim).
        """


class L2NormPostprocessor(OutputPostprocessor):
    """``x / max(|x|, 1e-6)``."""

    def __init__(self, is_inference: bool = False) -> None:
        super().__init__(is_inference=is_inference)

    def forward(
        self, seq_embeddings: Tensor, seq_timestamps: Tensor, seq_payloads: dict[str, Tensor]
    ) -> Tensor:
        length: Tensor = torch.linalg.norm(seq_embeddings, dim=-1, keepdim=True)
        return seq_embeddings / length.clamp(min=LEAST_NORM).to(seq_embeddings.dtype)


class LayerNormPostprocessor(OutputPostprocessor):
    """``layer_norm(x)``."""

    def __init__(self, embedding_dim: int, eps: float = 1e-5, is_inference: bool = False) -> None:
        super().__init__(is_inference=is_inference)
        self._norm = LayerNorm(embedding_dim, eps, is_inference)

    def forward(
        self, seq_embeddings: Tensor, seq_timestamps: Tensor, seq_payloads: dict[str, Tensor]
    ) -> Tensor:
        out: Tensor = self._norm(seq_embeddings)
        return out


class TimestampLayerNormPostprocessor(OutputPostprocessor):
    """``layer_norm(Linear([x, cos f1, sin f1, cos f2, sin f2 ...]))``, where f is the place of a
    time in its period: 2 * 3.14 (floor(t / unit) mod units) / units.

    Args:
        embedding_dim: columns.
        time_duration_features: pairs (seconds of a unit, units of a period).
        eps: of the norm.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        embedding_dim: int,
        time_duration_features: list[tuple[int, int]],
        eps: float = 1e-5,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        for unit, units in time_duration_features:
            CHECKS.integer(unit, "time_duration_features: the seconds of a unit", 1)
            CHECKS.integer(units, "time_duration_features: the units of a period", 1)
        self._periods = list(time_duration_features)
        self._linear = nn.Linear(embedding_dim + 2 * len(self._periods), embedding_dim)
        self._norm = LayerNorm(embedding_dim, eps, is_inference)

    def forward(
        self, seq_embeddings: Tensor, seq_timestamps: Tensor, seq_payloads: dict[str, Tensor]
    ) -> Tensor:
        columns = [seq_embeddings]
        for unit, units in self._periods:
            place = torch.div(seq_timestamps, unit, rounding_mode="floor") % units
            angle = (TURN * place.to(torch.float32) / units)[:, None]
            columns += [f(angle).to(seq_embeddings.dtype) for f in (torch.cos, torch.sin)]
        out: Tensor = self._norm(self._linear(torch.cat(columns, dim=1)))
        return out
