"""Sequences one behind the other, with their states in lines of a cache: what a server computes.

The names and their meaning are those of vLLM's causal_conv1d_fn and causal_conv1d_update, in one
call: prefill, chunked prefill, decode and the verification of drafts may be mixed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from causal_conv1d import checks, ops


class _Call(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    conv_states: Tensor
    query_start_loc: Tensor
    cache_indices: Tensor | None
    has_initial_state: Tensor | None
    num_accepted_tokens: Tensor | None
    pad_slot_id: int


def causal_conv1d_packed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv_states: Tensor,
    query_start_loc: Tensor,
    cache_indices: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    activation: str | None = None,
    pad_slot_id: int = -1,
    *,
    check: bool = False,
) -> Tensor:
    """Causal convolution of packed sequences, whose state lines are brought up to date in place.

    Nothing is read from the device and nothing depends on the lengths: a CUDA graph of a call can
    be replayed with other lengths. No gradient flows; ``causal_conv1d_fn(cu_seqlens=)`` has one.

    A line's columns [0, width - 1) are the inputs before the next token, the last one next to it.

    Args:
        x: (dim, total) float32, float16 or bfloat16, on the CPU also float64; fast where channels
            are dense (the transpose of rows of tokens).
        weight: (dim, width), width 2 to 8, of any of these dtypes.
        bias: (dim,), dtype of weight, or None.
        conv_states: (lines, dim, >= width - 1), dtype of x, any strides: written in place.
        query_start_loc: (sequences + 1,) int32, contiguous: sequence n is the tokens
            [query_start_loc[n], query_start_loc[n + 1]) of x.
        cache_indices: (sequences,) int32: the line of each; None: 0, 1, 2 ... No line comes twice.
        has_initial_state: (sequences,) bool: whether a sequence begins with what its line holds;
            None: none does.
        num_accepted_tokens: (sequences,) int32. 0: nothing to verify. a >= 1: the tokens are drafts
            to verify, and a of those of the call before were right: the sequence continues behind
            them, from columns [a - 1, a + width - 2). Its line then holds width - 2 inputs and all
            of its tokens, for which it needs as many columns. After a call with 0 a is 1.
        activation: None, "silu" or "swish".
        pad_slot_id: sequences with this index are padding: their line and their inputs are not
            touched.
        check: look into the index tensors on a GPU, too, which waits for it. Without that, an index
            outside of the lines counts as padding.

    Returns:
        (dim, total), dtype of x, channels dense. 0 for padding and behind the last sequence.

    Raises:
        As ``causal_conv1d_fn``.

    Example::

        >>> x, states = torch.randn(5, 64).T, torch.zeros(8, 64, 3)
        >>> starts = torch.tensor([0, 4, 5], dtype=torch.int32)   # a prefill and a decode
        >>> lines = torch.tensor([6, 2], dtype=torch.int32)
        >>> has = torch.tensor([False, True])
        >>> causal_conv1d_packed(x, torch.randn(64, 4), None, states, starts, lines, has).shape
        torch.Size([64, 5])
    """
    silu = checks.silu(activation)
    call = _Call(
        x,
        weight,
        bias,
        conv_states,
        query_start_loc,
        cache_indices,
        has_initial_state,
        num_accepted_tokens,
        pad_slot_id,
    )
    checks.packed(call)
    if checks.values_wanted(x, check):
        checks.packed_values(call)
    with torch.no_grad():
        out: Tensor = ops.packed(x.unsqueeze(0), *call[1:8], silu, pad_slot_id)
    return out.squeeze(0)
