"""From looked-up rows to tokens and from tokens to what is predicted from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hstu_training.data.batches import Batch
from hstu_training.modules.jagged import Sequences, take
from hstu_training.modules.sampled_softmax_loss import l2_normalised
from hstu_training.ops.counter import Randomness, token_keys


def sequences_of(batch: Batch, seed: int | None, rank: int) -> Sequences:
    """A batch's layout; with a seed in training."""
    random = None
    if seed is not None:
        random = Randomness(seed, rank, token_keys(batch.slots, batch.positions))
    return Sequences(
        batch.cu, batch.max_len, batch.contexts, batch.targets, batch.cu_targets,
        batch.max_targets, batch.target_rows, batch.times, batch.next_times, random, batch.places,
    )  # fmt: skip


class _Joined(torch.autograd.Function):
    """Matrices one below the other in another dtype, by one launch."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.sizes, ctx.dtype = [len(part) for part in parts], parts[0].dtype
        out = parts[0].new_empty(sum(ctx.sizes), parts[0].shape[1], dtype=dtype)
        torch._foreach_copy_(torch.split(out, ctx.sizes), parts)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *torch.split(grad.to(ctx.dtype), ctx.sizes)


def joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """``torch.cat`` of matrices in ``dtype``."""
    given = {part.dtype for part in parts}
    if len(given) > 1 or dtype in given:
        return torch.cat([part.to(dtype) for part in parts])
    out: Tensor = _Joined.apply(dtype, *parts)  # type: ignore[no-untyped-call]
    return out


class HSTUProcessor(nn.Module):
    """Tokens [contextuals | item, action, item, action, ... | candidates], all of one width.

    Args:
        dims: widths of the features' rows.
        hidden: of the tokens; features of another width go through a linear map of their own.
        param_dtype: of parameters.
        dtype: of the tokens.
        eps: the least norm of an output, which is divided by its own.
    """

    def __init__(
        self,
        dims: dict[str, int],
        hidden: int,
        param_dtype: torch.dtype,
        dtype: torch.dtype,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.eps, self.dtype = eps, dtype
        narrow = {name: width for name, width in dims.items() if width != hidden}
        self.maps = nn.ModuleDict(
            {name: nn.Linear(d, hidden, dtype=param_dtype) for name, d in narrow.items()}
        )

    def tokens(self, rows: dict[str, Tensor], batch: Batch) -> Tensor:
        """(tokens, hidden) of each feature's rows."""
        parts = []
        for name, given in rows.items():
            part = given
            if name in self.maps:
                linear = self.maps[name]
                assert isinstance(linear, nn.Linear)
                weight, bias = linear.weight.to(self.dtype), linear.bias.to(self.dtype)
                part = nn.functional.linear(part.to(self.dtype), weight, bias)
            parts.append(part)
        return take(joined(parts, self.dtype), batch.order)

    def outputs(self, encoded: Tensor, batch: Batch) -> Tensor:
        """(outputs, hidden), each of norm 1, in float32 or more."""
        if batch.read_rows is not None:
            encoded = take(encoded, batch.read_rows)
        return l2_normalised(encoded, self.eps)
