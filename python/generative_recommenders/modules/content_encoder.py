"""What is known of an item, as rows; names, order and defaults are those of
``generative_recommenders.modules.content_encoder`` of Meta's package."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule
from generative_recommenders.modules._mlp import drawn
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged

INIT_STD = 0.1


class ContentEncoder(HammerModule):
    """Embeddings of items, and further features side by side with them.

    Args:
        input_embedding_dim: columns of the embeddings.
        additional_content_features: columns of payloads (rows, columns), by name.
        target_enrich_features: columns of payloads (targets, columns), by name, which targets alone
            have; history has one learned row in their place.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        input_embedding_dim: int,
        additional_content_features: dict[str, int] | None = None,
        target_enrich_features: dict[str, int] | None = None,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        CHECKS.integer(input_embedding_dim, "input_embedding_dim", 1)
        self._additional = dict(additional_content_features or {})
        self._enrich = dict(target_enrich_features or {})
        self._history_rows = nn.ParameterDict(
            {name: drawn(1, columns, std=INIT_STD) for name, columns in self._enrich.items()}
        )
        columns = (*self._additional.values(), *self._enrich.values())
        self._output_dim = input_embedding_dim + sum(columns)

    @property
    def output_embedding_dim(self) -> int:
        return self._output_dim

    def forward(
        self,
        max_uih_len: int,
        max_targets: int,
        uih_offsets: Tensor,
        target_offsets: Tensor,
        seq_embeddings: Tensor,
        seq_payloads: dict[str, Tensor],
    ) -> Tensor:
        """
        Args:
            max_uih_len, max_targets: the longest history, the most targets.
            uih_offsets, target_offsets: (batch + 1,).
            seq_embeddings: (rows, input_embedding_dim).
            seq_payloads: by feature name.

        Returns:
            (rows, ``output_embedding_dim``).
        """
        dtype, rows = seq_embeddings.dtype, seq_embeddings.shape[0]
        parts = [seq_embeddings, *(seq_payloads[name].to(dtype) for name in self._additional)]
        for name in self._enrich:
            of_targets = seq_payloads[name].to(dtype)
            history = self._history_rows[name].to(dtype).expand(rows - of_targets.shape[0], -1)
            parts.append(
                concat_2D_jagged(
                    max_uih_len + max_targets,
                    history,
                    of_targets,
                    offsets_left=uih_offsets,
                    offsets_right=target_offsets,
                    kernel=self.hammer_kernel(),
                )
            )
        return torch.cat(parts, dim=1)
