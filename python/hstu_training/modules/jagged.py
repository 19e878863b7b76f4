"""A batch of sequences of different lengths, packed without padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.ops.counter import Randomness
from hstu_training.ops.fused_hstu_op import Attend
from hstu_training.ops.rows import put_rows


class Sequences(NamedTuple):
    """Where the tokens of a batch lie: [contextuals | history | targets] of each sequence.

    Args:
        cu: (batch + 1) int32, prefix sums of the lengths in tokens.
        max_len: the longest of them, known on the host.
        contexts: (batch) int32 or None: tokens at the front that see the whole history.
        targets: (batch) int32 or None: candidates at the end.
        cu_targets, max_targets: the same of them.
        target_rows: (candidates) int64: their tokens; ``cu_targets`` divides them.
        times: (tokens) int64 seconds, and ``next_times``, those of the events that follow; both for
            a bias of time.
        random: the draws of the step; None: evaluation.
        encoded: (tokens) int64: the places that are encoded, all candidates' being the first one's;
            None: they are reckoned from the rest.
    """

    cu: Tensor
    max_len: int
    contexts: Tensor | None = None
    targets: Tensor | None = None
    cu_targets: Tensor | None = None
    max_targets: int = 0
    target_rows: Tensor | None = None
    times: Tensor | None = None
    next_times: Tensor | None = None
    random: Randomness | None = None
    encoded: Tensor | None = None

    def attend(self, config: HSTUConfig, targets_only: bool = False) -> Attend:
        """The attention's arguments; with ``targets_only`` q holds the candidates alone."""
        cu_q, max_q = self.cu, self.max_len
        if targets_only:
            assert self.cu_targets is not None
            cu_q, max_q = self.cu_targets, self.max_targets
        causal_only = (self.contexts, self.targets) if config.is_causal else (None, None)
        return Attend(
            cu_q, self.cu, max_q, self.max_len, config.divisor, *causal_only,
            config.target_group_size, config.is_causal, config.scale, config.deterministic,
        )  # fmt: skip

    def lengths(self) -> Tensor:
        return (self.cu[1:] - self.cu[:-1]).long()

    def places(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The sequence of each token and its place there, int64 (tokens)."""
        row = torch.arange(tokens, device=self.cu.device)
        sequence = torch.searchsorted(self.cu[1:].long().contiguous(), row, right=True)
        return sequence, row - self.cu.long()[sequence]


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return put_rows(grad.new_zeros(ctx.count, grad.shape[1]), rows, grad), None


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix that are all different: gradients are put in their place, not added up by
    atomic operations, which are slow for narrow dtypes."""
    taken: Tensor = _Take.apply(x, rows)  # type: ignore[no-untyped-call]
    return taken
