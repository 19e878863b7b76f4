"""Rows of content and action, added or taking turns; name, order and defaults are those of
``generative_recommenders.modules.contextual_interleave_preprocessor`` of Meta's package."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import complete_cumsum
from generative_recommenders.modules.action_encoder import ActionEncoder
from generative_recommenders.modules.content_encoder import ContentEncoder
from generative_recommenders.modules.contextualize_mlps import ContextualizedMLP
from generative_recommenders.modules.preprocessors import (
    ContextualRows,
    InputPreprocessor,
    Sequences,
    get_contextual_input_embeddings,
)
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged, split_2D_jagged

MlpFn = Callable[[int, int, int, bool], ContextualizedMLP]


class ContextualInterleavePreprocessor(InputPreprocessor):
    """Contents and actions, each through its encoder and a contextualized MLP.

    Without interleaving they are added. With it each position has two rows, content and action; in
    training targets have both, in evaluation and inference content alone. Contextual rows come in
    front.

    Args:
        input_embedding_dim: columns of embeddings and contextual features.
        output_embedding_dim: columns of the result.
        contextual_feature_to_max_length, contextual_feature_to_min_uih_length: as in
            ``get_contextual_input_embeddings``; at least one feature.
        content_encoder, action_encoder: what gives the rows.
        content_contextualize_mlp_fn, action_contextualize_mlp_fn: (input columns, output columns,
            contextual columns, is_inference) -> the MLP of each.
        pmlp_contextual_dropout_ratio: of what the MLPs are told of the user, in training.
        enable_interleaving: content and action take turns.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        input_embedding_dim: int,
        output_embedding_dim: int,
        contextual_feature_to_max_length: dict[str, int],
        contextual_feature_to_min_uih_length: dict[str, int],
        content_encoder: ContentEncoder,
        content_contextualize_mlp_fn: MlpFn,
        action_encoder: ActionEncoder,
        action_contextualize_mlp_fn: MlpFn,
        pmlp_contextual_dropout_ratio: float = 0.0,
        enable_interleaving: bool = False,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        if not contextual_feature_to_max_length:
            CHECKS.fail("contextual_feature_to_max_length must name a feature, got {}")
        self._max_lengths = dict(contextual_feature_to_max_length)
        self._min_lengths = dict(contextual_feature_to_min_uih_length)
        self._contextual_rows = ContextualRows(
            input_embedding_dim, output_embedding_dim, self._max_lengths
        )
        columns = self._contextual_rows.count * input_embedding_dim

        def mlp(make: MlpFn, encoder: ContentEncoder | ActionEncoder) -> ContextualizedMLP:
            return make(encoder.output_embedding_dim, output_embedding_dim, columns, is_inference)

        self._content_encoder, self._action_encoder = content_encoder, action_encoder
        self._content_mlp = mlp(content_contextualize_mlp_fn, content_encoder)
        self._action_mlp = mlp(action_contextualize_mlp_fn, action_encoder)
        self._dropout, self._interleaving = pmlp_contextual_dropout_ratio, enable_interleaving

    def interleave_targets(self) -> bool:
        return self.is_train and self._interleaving

    def combine_embeddings(
        self,
        max_uih_len: int,
        max_targets: int,
        total_uih_len: int,
        total_targets: int,
        seq_lengths: Tensor,
        seq_timestamps: Tensor,
        content_embeddings: Tensor,
        action_embeddings: Tensor,
        num_targets: Tensor,
    ) -> tuple[int, int, int, int, Tensor, Tensor, Tensor, Tensor]:
        """Both parts as the rows of one sequence.

        Args:
            as ``forward``; content_embeddings and action_embeddings: (rows, output_embedding_dim).

        Returns:
            max_uih_len, max_targets, total_uih_len, total_targets, lengths, timestamps, embeddings,
            num_targets.
        """
        counts = (max_uih_len, max_targets, total_uih_len, total_targets)
        if not self._interleaving:
            both = content_embeddings + action_embeddings
            return (*counts, seq_lengths, seq_timestamps, both, num_targets)
        both = torch.stack([content_embeddings, action_embeddings], dim=1).flatten(0, 1)
        times = seq_timestamps.repeat_interleave(2)
        if self.interleave_targets():
            doubled = (2 * n for n in counts)
            return (*doubled, 2 * seq_lengths, times, both, 2 * num_targets)  # type: ignore[return-value]
        of_history = complete_cumsum(2 * (seq_lengths - num_targets))
        of_targets = complete_cumsum(num_targets)
        kernel = self.hammer_kernel()

        def contents_of_targets(pairs: Tensor) -> Tensor:
            history, targets = split_2D_jagged(
                2 * (max_uih_len + max_targets),
                pairs,
                2 * total_uih_len,
                2 * total_targets,
                offsets_left=of_history,
                offsets_right=2 * of_targets,
                kernel=kernel,
            )
            return concat_2D_jagged(
                2 * max_uih_len + max_targets,
                history,
                targets[::2],
                offsets_left=of_history,
                offsets_right=of_targets,
                kernel=kernel,
            )

        return (
            2 * max_uih_len,
            max_targets,
            2 * total_uih_len,
            total_targets,
            2 * seq_lengths - num_targets,
            contents_of_targets(times[:, None])[:, 0],
            contents_of_targets(both),
            num_targets,
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
        context = get_contextual_input_embeddings(
            seq_lengths, seq_payloads, self._max_lengths, self._min_lengths, seq_embeddings.dtype
        )
        told = F.dropout(context, self._dropout, self.is_train)
        counts = (max_uih_len, max_targets)
        of_parts = (complete_cumsum(seq_lengths - num_targets), complete_cumsum(num_targets))
        offsets = complete_cumsum(seq_lengths)
        content, action = (
            mlp(
                encoder(*counts, *of_parts, seq_embeddings, seq_payloads),
                offsets,
                max_uih_len + max_targets,
                told,
            )
            for encoder, mlp in (
                (self._content_encoder, self._content_mlp),
                (self._action_encoder, self._action_mlp),
            )
        )
        uih, targets, *totals, lengths, times, both, num_targets = self.combine_embeddings(
            *counts,
            total_uih_len,
            total_targets,
            seq_lengths,
            seq_timestamps,
            content,
            action,
            num_targets,
        )
        made = Sequences(
            uih + targets,
            totals[0],
            totals[1],
            lengths,
            complete_cumsum(lengths),
            times,
            both.to(seq_embeddings.dtype),
            num_targets,
            seq_payloads,
        )
        result: Sequences = self._contextual_rows(context, uih, targets, made, self.hammer_kernel())
        return result
