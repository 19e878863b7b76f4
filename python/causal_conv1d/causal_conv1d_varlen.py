"""The states of packed sequences, by the names of the causal-conv1d package."""

from __future__ import annotations

import torch
from torch import Tensor

from causal_conv1d import checks
from causal_conv1d.ref import causal_conv1d_varlen_states_ref

__all__ = ["causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref"]


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last ``state_len`` rows of each sequence, right-aligned, zeros where it is shorter.

    Args:
        x: (total, dim), any dtype.
        cu_seqlens: (batch + 1,) int32 or int64: sequence n is the rows
            [cu_seqlens[n], cu_seqlens[n + 1]).
        state_len: how many rows, >= 0.

    Returns:
        (batch, dim, state_len), dtype of x. Nothing is read from the device.
    """
    checks.varlen_states(x, cu_seqlens, state_len)
    ends = cu_seqlens[1:, None].long()
    rows = ends - state_len + torch.arange(state_len, device=x.device)
    inside = (rows >= cu_seqlens[:-1, None])[:, :, None]
    if x.shape[0] == 0:
        return x.new_zeros(cu_seqlens.shape[0] - 1, state_len, x.shape[1]).transpose(1, 2)
    gathered = x[rows.clamp(0, x.shape[0] - 1)]
    return torch.where(inside, gathered, gathered.new_zeros(())).transpose(1, 2)
