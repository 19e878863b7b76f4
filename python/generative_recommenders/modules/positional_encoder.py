"""Place and time of each row; name, order and defaults are those of
``generative_recommenders.modules.positional_encoder`` of Meta's package."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule
from generative_recommenders.ops.position import add_timestamp_positional_embeddings


class HSTUPositionalEncoder(HammerModule):
    """``sqrt(dim) x`` plus a learned row for the place and one for the age of each row.

    Args:
        num_position_buckets: places.
        num_time_buckets: ages, the square roots of minutes.
        embedding_dim: columns.
        contextual_seq_len: contextual rows at the start of each sequence.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        num_position_buckets: int,
        num_time_buckets: int,
        embedding_dim: int,
        contextual_seq_len: int,
        is_inference: bool = True,
    ) -> None:
        super().__init__(is_inference=is_inference)
        for size, name in (
            (num_position_buckets, "num_position_buckets"),
            (num_time_buckets, "num_time_buckets"),
            (embedding_dim, "embedding_dim"),
        ):
            CHECKS.integer(size, name, 1)
        CHECKS.integer(contextual_seq_len, "contextual_seq_len", 0)
        self._contexts, self._scale = contextual_seq_len, math.sqrt(embedding_dim)

        def table(rows: int, buckets: int) -> nn.Parameter:
            bound = math.sqrt(1.0 / buckets)
            return nn.Parameter(torch.empty(rows, embedding_dim).uniform_(-bound, bound))

        self._position_embeddings_weight = table(num_position_buckets, num_position_buckets)
        self._timestamp_embeddings_weight = table(num_time_buckets + 1, num_time_buckets)

    def forward(
        self,
        max_seq_len: int,
        seq_lengths: Tensor,
        seq_offsets: Tensor,
        seq_timestamps: Tensor,
        seq_embeddings: Tensor,
        num_targets: Tensor | None,
    ) -> Tensor:
        """
        Args:
            as ``ops.position.add_timestamp_positional_embeddings``.

        Returns:
            (rows, embedding_dim).
        """
        return add_timestamp_positional_embeddings(
            self._scale,
            max_seq_len,
            self._contexts,
            self._position_embeddings_weight,
            self._timestamp_embeddings_weight,
            seq_offsets,
            seq_lengths,
            seq_embeddings,
            seq_timestamps,
            num_targets,
            interleave_targets=False,
            kernel=self.hammer_kernel(),
        )
