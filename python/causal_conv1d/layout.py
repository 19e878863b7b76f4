"""How the results of the ops lie in memory: as their input does, with channels or tokens dense."""

from __future__ import annotations

from torch import Tensor


def channel_last(x: Tensor) -> bool:
    """Whether the kernels take x (batch, channels, tokens) as rows of channels."""
    tokens_dense = x.shape[2] <= 1 or x.stride(2) == 1
    channels_dense = x.shape[1] <= 1 or x.stride(1) == 1
    return channels_dense and (not tokens_dense or x.shape[2] <= 1)


def empty(x: Tensor, shape: tuple[int, int, int], last: bool) -> Tensor:
    """An uninitialised dense tensor beside x: rows of channels (``last``) or of tokens."""
    a, b, c = shape
    whole = max(b, 1) * max(c, 1)
    strides = (whole, 1, max(b, 1)) if last else (whole, max(c, 1), 1)
    return x.new_empty_strided((a, b, c), strides)


def laid_out(value: Tensor, last: bool) -> Tensor:
    """A copy of ``value`` (sequences, channels, tokens) with that layout."""
    a, b, c = value.shape
    return empty(value, (a, b, c), last).copy_(value)
