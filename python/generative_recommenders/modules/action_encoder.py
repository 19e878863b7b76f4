"""What a user did to an item, as rows; names, order and defaults are those of
``generative_recommenders.modules.action_encoder`` of Meta's package."""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule
from generative_recommenders.modules._mlp import drawn
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged


class ActionEncoder(HammerModule):
    """A learned row for each bit of an action, side by side; targets, whose action is not known,
    have one learned row.

    Args:
        action_embedding_dim: columns for each bit.
        action_feature_name: the payload of actions, int bits (history rows,).
        action_weights: the bits.
        watchtime_feature_name: a payload (history rows,) of watch times, for the next argument.
        watchtime_to_action_thresholds_and_weights: pairs (threshold, bit): a watch time from the
            threshold on sets the bit, which is one more of the bits.
        embedding_init_std: of the learned rows at first.
        is_inference: no gradients are needed.
    """

    def __init__(
        self,
        action_embedding_dim: int,
        action_feature_name: str,
        action_weights: list[int],
        watchtime_feature_name: str = "",
        watchtime_to_action_thresholds_and_weights: list[tuple[int, int]] | None = None,
        embedding_init_std: float = 0.1,
        is_inference: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        CHECKS.integer(action_embedding_dim, "action_embedding_dim", 1)
        self._name, self._watchtime_name = action_feature_name, watchtime_feature_name
        self._thresholds = list(watchtime_to_action_thresholds_and_weights or [])
        if self._thresholds and not watchtime_feature_name:
            CHECKS.fail(f"watchtime_feature_name must be given with {self._thresholds}, got ''")
        bits = [*action_weights, *(bit for _, bit in self._thresholds)]
        if not bits:
            CHECKS.fail("action_weights must hold at least one bit, got none")
        self.register_buffer("_bits", torch.tensor(bits), persistent=False)
        self._table = drawn(len(bits), action_embedding_dim, std=embedding_init_std)
        self._target_row = drawn(1, len(bits) * action_embedding_dim, std=embedding_init_std)

    @property
    def output_embedding_dim(self) -> int:
        return self._target_row.shape[1]

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
            seq_embeddings: (rows, dim), for the number of rows and the dtype.
            seq_payloads: by feature name.

        Returns:
            (rows, ``output_embedding_dim``).
        """
        actions = seq_payloads[self._name]
        if self._thresholds:
            watched = seq_payloads[self._watchtime_name]
            for threshold, bit in self._thresholds:
                actions = actions | (watched >= threshold).to(actions.dtype) * bit
        bits: Tensor = self._bits.to(actions.dtype)  # type: ignore[assignment]
        there = (actions[:, None] & bits) > 0
        dtype = seq_embeddings.dtype
        rows = (there[:, :, None].to(dtype) * self._table.to(dtype)).flatten(1)
        targets = seq_embeddings.shape[0] - actions.shape[0]
        return concat_2D_jagged(
            max_uih_len + max_targets,
            rows,
            self._target_row.to(dtype).expand(targets, -1),
            offsets_left=uih_offsets,
            offsets_right=target_offsets,
            kernel=self.hammer_kernel(),
        )
