"""The learned bias of the published model: by distance in positions and, bucketed, in time.

    rab[i, j] = position[j - i] + time[floor(ln(max(|t(i + 1) - t(j)|, 1)) / 0.301)]

One for all heads. t(i + 1) is the time of the event that row i predicts, known when it is asked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hstu_training.modules.jagged import Sequences

TIME_BUCKETS = 128
_PER_BUCKET = 0.301
# The first number of seconds in each bucket from 1 on; there is none below 2^63 after the last.
_FIRSTS = [
    first
    for first in (math.ceil(math.exp(_PER_BUCKET * b)) for b in range(1, TIME_BUCKETS + 1))
    if first < 2**63
]


def time_buckets(times: Tensor, next_times: Tensor) -> Tensor:
    """(batch, rows, columns) int32 of (batch, columns) and (batch, rows) times in seconds."""
    apart = (next_times[:, :, None] - times[:, None, :]).abs_()
    firsts = torch.tensor(_FIRSTS, device=apart.device)
    return torch.bucketize(apart, firsts, out_int32=True, right=True)


def _padded(values: Tensor, sequences: Sequences) -> Tensor:
    """(batch, max_len) of (tokens); zeros behind each sequence."""
    sequence, place = sequences.places(values.shape[0])
    dense = values.new_zeros(sequences.cu.numel() - 1, sequences.max_len)
    dense[sequence, place] = values
    return dense


class RelativeBias(nn.Module):
    """The bias of one layer.

    Args:
        max_len: the longest sequence, in tokens.
        with_time: whether time counts.
        dtype: of the parameters.
    """

    def __init__(self, max_len: int, with_time: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.max_len = max_len
        position = torch.empty(2 * max_len - 1, dtype=dtype).normal_(0, 0.02)
        self.position = nn.Parameter(position)
        self.time = None
        if with_time:
            self.time = nn.Parameter(torch.empty(TIME_BUCKETS + 1, dtype=dtype).normal_(0, 0.02))

    def forward(self, length: int, buckets: Tensor | None) -> Tensor:
        """(batch or 1, 1, length, length) in the parameters' dtype."""
        at = torch.arange(length, device=self.position.device)
        bias = self.position[at[None, :] - at[:, None] + self.max_len - 1][None]
        if self.time is not None:
            assert buckets is not None
            bias = bias + _TimeOf.apply(self.time, buckets)  # type: ignore[no-untyped-call]
        return bias[:, None]


class _TimeOf(torch.autograd.Function):
    """``table[buckets]``, its gradient by a weighted count: deterministic on the CPU, and fast."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.size = table.numel()  # type: ignore[attr-defined]
        return table.index_select(0, buckets.view(-1)).view(buckets.shape)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors  # type: ignore[attr-defined]
        size = ctx.size  # type: ignore[attr-defined]
        if grad.is_cuda:  # a count there adds in any order; a product of each bucket does not
            sums = torch.stack([(grad * (buckets == b)).sum() for b in range(size)])
        else:
            sums = torch.bincount(buckets.flatten(), grad.flatten(), size)
        return sums.to(grad.dtype), None


def buckets_of(sequences: Sequences) -> Tensor:
    """The time buckets of a batch, which all layers share."""
    assert sequences.times is not None
    assert sequences.next_times is not None
    return time_buckets(
        _padded(sequences.times, sequences), _padded(sequences.next_times, sequences)
    )
