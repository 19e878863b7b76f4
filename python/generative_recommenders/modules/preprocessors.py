"""What makes the rows of an HSTU model from embeddings; names, order and defaults are those of
``generative_recommenders.modules.preprocessors`` of Meta's package."""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import (
    HammerKernel,
    HammerModule,
    complete_cumsum,
    jagged_to_padded_dense,
)
from generative_recommenders.modules._mlp import drawn, mlp4
from generative_recommenders.modules.action_encoder import ActionEncoder
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged


class Sequences(NamedTuple):
    """What an ``InputPreprocessor`` returns: the arguments that it got, after it, and offsets."""

    max_seq_len: int
    total_uih_len: int
    total_targets: int
    lengths: Tensor
    offsets: Tensor
    timestamps: Tensor
    embeddings: Tensor
    num_targets: Tensor
    payloads: dict[str, Tensor]


class InputPreprocessor(HammerModule, abc.ABC):
    @abc.abstractmethod
    def forward(
        self,
        max_uih_len: int,
        max_targets: int,
        total_uih_len: int,
        total_targets: int,
        seq_lengths: Tensor,
        seq_timestamps: Tensor,
        seq_embeddings: Tensor,
        num_targets: Tensor,
        seq_payloads: dict[str, Tensor],
    ) -> Sequences:
        """
        Args:
            max_uih_len, max_targets: the longest history, the most targets.
            total_uih_len, total_targets: rows of histories, rows of targets.
            seq_lengths: (batch,) of histories and targets together.
            seq_timestamps: (rows,), seconds.
            seq_embeddings: (rows, dim).
            num_targets: (batch,).
            seq_payloads: by feature name.
        """

    def interleave_targets(self) -> bool:
        """Whether each target has two rows in the result, the first of which counts."""
        return False


def get_contextual_input_embeddings(
    seq_lengths: Tensor,
    seq_payloads: dict[str, Tensor],
    contextual_feature_to_max_length: dict[str, int],
    contextual_feature_to_min_uih_length: dict[str, int],
    dtype: torch.dtype,
) -> Tensor:
    """Contextual features side by side, a row for each sequence.

    Args:
        seq_lengths: (batch,).
        seq_payloads: of each feature its rows (n, dim), and under ``<name>_offsets`` (batch + 1,).
        contextual_feature_to_max_length: rows of each feature in the result, zeros where a sequence
            has fewer.
        contextual_feature_to_min_uih_length: shorter sequences have zeros.
        dtype: of the result.

    Returns:
        (batch, dim * sum of the lengths).
    """
    parts = []
    for name, longest in contextual_feature_to_max_length.items():
        offsets = seq_payloads[name + "_offsets"]
        part = jagged_to_padded_dense(seq_payloads[name].to(dtype), [offsets], [longest]).flatten(1)
        least = contextual_feature_to_min_uih_length.get(name, 0)
        if least > 0:
            part = part * (seq_lengths >= least).to(dtype)[:, None]
        parts.append(part)
    return torch.cat(parts, dim=1)


class ContextualRows(nn.Module):
    """``ctx_c W_c + b_c``, a row for each contextual place c in front of each sequence.

    Args:
        input_dim, output_dim: columns.
        max_lengths: places of each feature, by name.
    """

    def __init__(self, input_dim: int, output_dim: int, max_lengths: dict[str, int]) -> None:
        super().__init__()
        self.count = sum(max_lengths.values())
        std = math.sqrt(2.0 / (input_dim + output_dim))
        self._weights = drawn(self.count, input_dim, output_dim, std=std)
        self._bias = nn.Parameter(torch.zeros(self.count, 1, output_dim))

    def forward(self, context: Tensor, max_uih_len: int, max_targets: int, rest: Sequences,
                kernel: HammerKernel) -> Sequences:  # fmt: skip
        """``rest`` with the rows of ``context`` (batch, count * input_dim), at the time 0."""
        batch, dtype = context.shape[0], rest.embeddings.dtype
        places = context.view(batch, self.count, -1).transpose(0, 1)
        made = torch.baddbmm(self._bias.to(dtype), places.to(dtype), self._weights.to(dtype))
        longest = max_uih_len + max_targets

        def in_front(first: Tensor, behind: Tensor) -> Tensor:
            return concat_2D_jagged(
                longest + self.count,
                first,
                behind,
                max_len_left=self.count,
                offsets_right=rest.offsets,
                kernel=kernel,
            )

        times = rest.timestamps[:, None]
        lengths = rest.lengths + self.count
        return rest._replace(
            max_seq_len=longest + self.count,
            total_uih_len=rest.total_uih_len + self.count * batch,
            lengths=lengths,
            offsets=complete_cumsum(lengths),
            timestamps=in_front(times.new_zeros(batch * self.count, 1), times)[:, 0],
            embeddings=in_front(made.transpose(0, 1).flatten(0, 1).to(dtype), rest.embeddings),
        )


class ContextualPreprocessor(InputPreprocessor):
    """Embeddings of items, additional ones and those of actions, each through an MLP, added up;
    contextual rows in front.

    Args:
        input_embedding_dim: columns of embeddings.
        hidden_dim: columns inside an MLP.
        output_embedding_dim: columns of the result.
        contextual_feature_to_max_length, contextual_feature_to_min_uih_length: as in
            ``get_contextual_input_embeddings``; empty: no contextual rows.
        action_embedding_dim, action_feature_name, action_weights, action_embedding_init_std: of an
            ``ActionEncoder``; ``action_weights`` None: no actions.
        additional_embedding_features: payloads (rows, input_embedding_dim).
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        input_embedding_dim: int,
        hidden_dim: int,
        output_embedding_dim: int,
        contextual_feature_to_max_length: dict[str, int],
        contextual_feature_to_min_uih_length: dict[str, int],
        action_embedding_dim: int = 8,
        action_feature_name: str = "",
        action_weights: list[int] | None = None,
        additional_embedding_features: list[str] | None = None,
        action_embedding_init_std: float = 0.1,
        is_inference: bool = True,
    ) -> None:
        super().__init__(is_inference=is_inference)
        for size, name in (
            (input_embedding_dim, "input_embedding_dim"),
            (hidden_dim, "hidden_dim"),
            (output_embedding_dim, "output_embedding_dim"),
        ):
            CHECKS.integer(size, name, 1)

        def mlp(in_dim: int) -> nn.Module:
            return mlp4(in_dim, hidden_dim, output_embedding_dim, is_inference)

        self._max_lengths = dict(contextual_feature_to_max_length)
        self._min_lengths = dict(contextual_feature_to_min_uih_length)
        self._additional = list(additional_embedding_features or [])
        self._content_mlp = mlp(input_embedding_dim)
        self._additional_mlp = (
            mlp(input_embedding_dim * len(self._additional)) if self._additional else None
        )
        self._action_encoder = self._action_mlp = self._contextual_rows = None
        if action_weights is not None:
            self._action_encoder = ActionEncoder(
                action_embedding_dim,
                action_feature_name,
                action_weights,
                embedding_init_std=action_embedding_init_std,
                is_inference=is_inference,
            )
            self._action_mlp = mlp(self._action_encoder.output_embedding_dim)
        if self._max_lengths:
            self._contextual_rows = ContextualRows(
                input_embedding_dim, output_embedding_dim, self._max_lengths
            )

    def forward(
        self,
        max_uih_len: int,
        max_targets: int,
        total_uih_len: int,
        total_targets: int,
        seq_lengths: Tensor,
        seq_timestamps: Tensor,
        seq_embeddings: Tensor,
        num_targets: Tensor,
        seq_payloads: dict[str, Tensor],
    ) -> Sequences:
        x = self._content_mlp(seq_embeddings)
        if self._additional_mlp is not None:
            parts = [seq_payloads[name].to(seq_embeddings.dtype) for name in self._additional]
            x = x + self._additional_mlp(torch.cat(parts, dim=1))
        if self._action_encoder is not None and self._action_mlp is not None:
            actions = self._action_encoder(
                max_uih_len,
                max_targets,
                complete_cumsum(seq_lengths - num_targets),
                complete_cumsum(num_targets),
                seq_embeddings,
                seq_payloads,
            )
            x = x + self._action_mlp(actions)
        made = Sequences(
            max_uih_len + max_targets,
            total_uih_len,
            total_targets,
            seq_lengths,
            complete_cumsum(seq_lengths),
            seq_timestamps,
            x.to(seq_embeddings.dtype),
            num_targets,
            seq_payloads,
        )
        if self._contextual_rows is None:
            return made
        context = get_contextual_input_embeddings(
            seq_lengths, seq_payloads, self._max_lengths, self._min_lengths, x.dtype
        )
        result: Sequences = self._contextual_rows(
            context, max_uih_len, max_targets, made, self.hammer_kernel()
        )
        return result
