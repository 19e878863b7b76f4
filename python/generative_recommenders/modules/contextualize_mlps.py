"""Layers over the rows of sequences that may depend on what a sequence's user is like; names, order
and defaults are those of ``generative_recommenders.modules.contextualize_mlps`` of Meta's package.
"""

from __future__ import annotations

import abc

from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule
from generative_recommenders.modules._mlp import draw_xavier_uniform, mlp4
from generative_recommenders.ops.jagged_tensors import jagged_dense_bmm_broadcast_add
from generative_recommenders.ops.layer_norm import LayerNorm, SwishLayerNorm


class ContextualizedMLP(HammerModule, abc.ABC):
    @abc.abstractmethod
    def forward(
        self,
        seq_embeddings: Tensor,
        seq_offsets: Tensor,
        max_seq_len: int,
        contextual_embeddings: Tensor | None,
    ) -> Tensor:
        """
        Args:
            seq_embeddings: (rows, sequential_input_dim).
            seq_offsets: (batch + 1,).
            max_seq_len: the longest sequence.
            contextual_embeddings: (batch, contextual_embedding_dim), or None where not used.

        Returns:
            (rows, sequential_output_dim).
        """


class SimpleContextualizedMLP(ContextualizedMLP):
    """Linear, SwishLayerNorm, Linear, LayerNorm of each row, whoever the user is."""

    def __init__(
        self,
        sequential_input_dim: int,
        sequential_output_dim: int,
        hidden_dim: int,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        self._mlp = mlp4(sequential_input_dim, hidden_dim, sequential_output_dim, is_inference)

    def forward(
        self,
        seq_embeddings: Tensor,
        seq_offsets: Tensor,
        max_seq_len: int,
        contextual_embeddings: Tensor | None,
    ) -> Tensor:
        out: Tensor = self._mlp(seq_embeddings)
        return out


class ParameterizedContextualizedMLP(ContextualizedMLP):
    """``x_b A_b + c_b`` for the rows x_b of each sequence: with s = Linear(context) it is
    A = norm(Linear(s)), normed over the whole matrix, and c = Linear, SwishLayerNorm, Linear of s.
    """

    def __init__(
        self,
        contextual_embedding_dim: int,
        sequential_input_dim: int,
        sequential_output_dim: int,
        hidden_dim: int,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        self._shape = (sequential_input_dim, sequential_output_dim)
        size = sequential_input_dim * sequential_output_dim
        self._context = nn.Linear(contextual_embedding_dim, hidden_dim)
        self._matrix = nn.Linear(hidden_dim, size)
        self._matrix_norm = LayerNorm(size, is_inference=is_inference)
        self._bias = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            SwishLayerNorm(hidden_dim, is_inference=is_inference),
            nn.Linear(hidden_dim, sequential_output_dim),
        )
        draw_xavier_uniform(self)

    def forward(
        self,
        seq_embeddings: Tensor,
        seq_offsets: Tensor,
        max_seq_len: int,
        contextual_embeddings: Tensor | None,
    ) -> Tensor:
        CHECKS.tensor(contextual_embeddings, "contextual_embeddings")
        s = self._context(contextual_embeddings)
        dtype = seq_embeddings.dtype
        return jagged_dense_bmm_broadcast_add(
            max_seq_len,
            seq_offsets,
            seq_embeddings,
            self._matrix_norm(self._matrix(s)).unflatten(1, self._shape).to(dtype),
            self._bias(s).to(dtype),
            self.hammer_kernel(),
        )
