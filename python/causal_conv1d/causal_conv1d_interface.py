"""The functions of the causal-conv1d package (1.7.0), by its names and signatures.

The mathematics. For each sequence and channel, with a weight of ``width`` taps::

    s[t]   = bias + sum over k of weight[k] * x[t - (width - 1) + k]
    out[t] = s[t], or silu(s[t]) = s[t] * sigmoid(s[t])

Before the first token stand ``initial_states``, width - 1 columns, or zeros; the final states are
the last width - 1 columns of both. Sums are made in float32 (on the CPU float64). The
gradients of weight and bias are added up in one order: they are the same bits in every run,
whatever CAUSAL_CONV1D_DETERMINISTIC or torch.use_deterministic_algorithms say.

Tensors may be channel-first (tokens dense) or channel-last (channels dense), of any dim and
strides; results are laid out as x. Another layout is copied first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causal_conv1d import checks, ops
from causal_conv1d.ref import causal_conv1d_ref, causal_conv1d_update_ref

__all__ = [
    "CausalConv1dFn",
    "causal_conv1d_fn",
    "causal_conv1d_ref",
    "causal_conv1d_update",
    "causal_conv1d_update_ref",
]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    check: bool = False,
) -> Any:
    """Causal depthwise convolution. Differentiable, and works under torch.compile and CUDA graphs.

    Args:
        x: (batch, dim, seqlen) float32, float16 or bfloat16; on the CPU also float64.
        weight: (dim, width), width 2 to 8, of any of these dtypes.
        bias: (dim,), dtype of weight.
        seq_idx: (batch, seqlen) int32, last stride 1: which fragment each token is of. Taps on
            tokens of another fragment add nothing; a negative one is padding, whose output is 0.
        initial_states: (batch, dim, width - 1), dtype of x. With ``seq_idx`` they are the states of
            the fragment of token 0.
        return_final_states: return (out, final states). Not with ``seq_idx``, see ``cu_seqlens``.
        final_states_out: a tensor to write the final states into, which is then returned.
        activation: None, "silu" or "swish" (the same).
        cu_seqlens: (sequences + 1,) int32, contiguous: x is (1, dim, total), sequence n its tokens
            [cu_seqlens[n], cu_seqlens[n + 1]), and states have one row a sequence. Tokens behind
            the last sequence give 0.
        check: look into ``cu_seqlens`` on a GPU, too, which waits for it.

    Returns:
        out (batch, dim, seqlen), dtype and layout of x (with ``cu_seqlens`` channel-last); with
        ``return_final_states`` also the final states, shaped as ``initial_states``.

    Raises:
        ValueError: a bad argument, named, with its value and what is allowed.
        NotImplementedError: an unknown activation, or a second derivative.
        RuntimeError: a GPU that this build does not serve, or an error of CUDA or HIP, by name.

    Example::

        >>> x, weight = torch.randn(2, 64, 512), torch.randn(64, 4)
        >>> causal_conv1d_fn(x, weight, torch.randn(64), activation="silu").shape
        torch.Size([2, 64, 512])
    """
    silu = checks.silu(activation)
    checks.forward(
        x,
        weight,
        bias,
        seq_idx,
        initial_states,
        return_final_states,
        final_states_out,
        cu_seqlens,
    )
    if checks.values_wanted(x, check) and cu_seqlens is not None:
        checks.starts_values(cu_seqlens, "cu_seqlens", x.shape[2])
    out, final = ops.fwd(
        x, weight, bias, seq_idx, initial_states, cu_seqlens, return_final_states, silu
    )
    if not return_final_states:
        return out
    return out, final if final_states_out is None else final_states_out.copy_(final)


class CausalConv1dFn:
    """``apply`` with the arguments of ``causal_conv1d_fn``, as programs call the peer's class."""

    apply = staticmethod(causal_conv1d_fn)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    check: bool = False,
) -> Tensor:
    """The next tokens behind those that ``conv_state`` remembers. No gradient flows.

    Args:
        x: (batch, dim) or (batch, dim, seqlen), dtypes as ``causal_conv1d_fn``.
        conv_state: (batch or lines, dim, state_len), state_len >= width - 1, dtype of x, any
            strides: written in place.
        weight: (dim, width), width 2 to 8.
        bias: (dim,), dtype of weight.
        activation: None, "silu" or "swish".
        cache_seqlens: (batch,) int32: the state is a circle, and the next token goes to column
            ``cache_seqlens % state_len``. None: the state is shifted by the tokens.
        conv_state_indices: (batch,) int32: the line of each; a negative one gives zeros and touches
            no line. No line may come twice.
        check: look into ``conv_state_indices`` on a GPU, too, which waits for it. Without that, an
            index behind the last line counts as negative.

    Returns:
        The shape and dtype of x.

    Raises:
        As ``causal_conv1d_fn``.
    """
    silu = checks.silu(activation)
    checks.update(x, conv_state, weight, bias, cache_seqlens, conv_state_indices)
    if checks.values_wanted(x, check):
        checks.lines_values(conv_state_indices, "conv_state_indices", conv_state.shape[0])
    tokens = x if x.dim() == 3 else x.unsqueeze(-1)
    with torch.no_grad():
        out: Tensor = ops.update(
            tokens, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu
        )
    return out if x.dim() == 3 else out.squeeze(-1)
