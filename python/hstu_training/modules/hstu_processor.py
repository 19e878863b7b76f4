"""From looked-up rows to tokens and from tokens to what is predicted from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hstu_training.data.batches import Batch
from hstu_training.modules.jagged import Sequences
from hstu_training.modules.sampled_softmax_loss import l2_normalised
from hstu_training.ops.counter import Randomness, token_keys


def sequences_of(batch: Batch, seed: int | None, rank: int) -> Sequences:
    """A batch's layout; with a seed in training."""
    random = None
    if seed is not None:
        random = Randomness(seed, rank, token_keys(batch.slots, batch.positions))
    return Sequences(
        batch.cu, batch.max_len, batch.contexts, batch.targets, batch.cu_targets,
        batch.max_targets, batch.target_rows, batch.times, batch.next_times, random,
    )  # fmt: skip


class HSTUProcessor(nn.Module):
    """Tokens [contextuals | item, action, item, action, ... | candidates], all of one width.

    Args:
        dims: widths of the features' rows.
        hidden: of the tokens; features of another width go through a linear map of their own.
        dtype: of parameters.
        eps: the least norm of an output, which is divided by its own.
    """

    def __init__(
        self, dims: dict[str, int], hidden: int, dtype: torch.dtype, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.eps, self.dtype = eps, dtype
        self.maps = nn.ModuleDict(
            {name: nn.Linear(d, hidden, dtype=dtype) for name, d in dims.items() if d != hidden}
        )

    def tokens(self, rows: dict[str, Tensor], batch: Batch) -> Tensor:
        """(tokens, hidden) of each feature's rows."""
        parts = []
        for name, part in rows.items():
            if name in self.maps:
                part = self.maps[name](part.to(self.dtype))
            parts.append(part)
        dtype = max((p.dtype for p in parts), key=lambda d: torch.finfo(d).bits)
        return torch.cat([part.to(dtype) for part in parts]).index_select(0, batch.order)

    def outputs(self, encoded: Tensor, batch: Batch) -> Tensor:
        """(outputs, hidden), each of norm 1, in float32 or more."""
        if batch.read_rows is not None:
            encoded = encoded.index_select(0, batch.read_rows)
        return l2_normalised(encoded, self.eps)
