"""Layer norm, projection to u, v, q, k, and attention as one function with one backward.

The forward keeps x, statistics of its rows and, unless they are to be computed again, the normed
rows and their projection. The backward writes the gradients of u, v, q, k into one buffer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from generative_recommenders._checks import CHECKS, indices, offsets
from generative_recommenders.common import switch_to_contiguous_if_needed
from generative_recommenders.ops.hstu_compute import check_uvqk, split_uvqk
from generative_recommenders.ops.problem import Mask, Problem
from generative_recommenders.ops.triton._launch import capability, on_gpu
from generative_recommenders.ops.triton.triton_addmm import maybe_triton_addmm_fwd, triton_addmm_bwd
from generative_recommenders.ops.triton.triton_hstu_attention import (
    compile_ahead,
    longest_first,
    triton_hstu_attention_bwd,
    triton_hstu_attention_fwd,
)
from generative_recommenders.ops.triton.triton_layer_norm import _bwd_op, _fwd_op


class _Options(NamedTuple):
    eps: float
    sizes: tuple[int, int, int]
    N: int
    alpha: float
    window: int
    contextual: int
    recompute_uvqk: bool
    recompute_normed: bool
    enable_tma: bool


class _HSTUPreprocessAndAttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        uvqk_weight: Tensor,
        uvqk_bias: Tensor,
        seq_offsets: Tensor,
        num_targets: Tensor | None,
        order: Tensor | None,
        options: _Options,
    ) -> tuple[Tensor, Tensor]:
        o = options
        normed, mean, rstd = _fwd_op(x, norm_weight, norm_bias, o.eps, "none", False)
        uvqk = maybe_triton_addmm_fwd(normed, uvqk_weight, uvqk_bias)
        u, v, q, k = split_uvqk(uvqk, *o.sizes)
        mask = (num_targets, o.window, o.contextual)
        if any(ctx.needs_input_grad) and not torch.compiler.is_compiling():
            given = (o.N, o.alpha, q, k, v, seq_offsets, Mask(*mask))
            compile_ahead(Problem(*given, order=order, enable_tma=o.enable_tma), True)
        out = triton_hstu_attention_fwd(
            o.N, o.alpha, q, k, v, seq_offsets, *mask, order, o.enable_tma, 0
        )
        ctx.save_for_backward(
            x, norm_weight, norm_bias, mean, rstd, uvqk_weight, uvqk_bias, seq_offsets, num_targets,
            order, None if o.recompute_normed else normed, None if o.recompute_uvqk else uvqk,
        )  # fmt: skip
        ctx.options = o
        return F.silu(u), out

    @staticmethod
    def backward(ctx: Any, d_silu_u: Tensor, dout: Tensor) -> tuple[Tensor | None, ...]:
        o = ctx.options
        (
            x, norm_weight, norm_bias, mean, rstd, uvqk_weight, uvqk_bias, seq_offsets, num_targets,
            order, normed, uvqk,
        ) = ctx.saved_tensors  # fmt: skip
        if normed is None:
            normed = _fwd_op(x, norm_weight, norm_bias, o.eps, "none", False)[0]
        if uvqk is None:
            uvqk = maybe_triton_addmm_fwd(normed, uvqk_weight, uvqk_bias)
        d_uvqk = torch.empty_like(uvqk)
        u, v, q, k = split_uvqk(uvqk, *o.sizes)
        du, dv, dq, dk = split_uvqk(d_uvqk, *o.sizes)
        triton_hstu_attention_bwd(
            dout, q, k, v, dq, dk, dv, seq_offsets, num_targets, o.N, o.alpha, o.window,
            o.contextual, order, o.enable_tma, 0,
        )  # fmt: skip
        du.copy_(torch.ops.aten.silu_backward(d_silu_u, u))
        d_normed, d_weight, d_bias = triton_addmm_bwd(normed, uvqk_weight, d_uvqk, True)
        dx, d_norm_weight, d_norm_bias = _bwd_op(
            d_normed, x, norm_weight, norm_bias, mean, rstd, "none", False
        )
        return dx, d_norm_weight, d_norm_bias, d_weight, d_bias, None, None, None, None


def triton_hstu_preprocess_and_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    num_heads: int,
    attn_dim: int,
    hidden_dim: int,
    uvqk_weight: Tensor,
    uvqk_bias: Tensor,
    max_seq_len: int,
    seq_offsets: Tensor,
    attn_alpha: float,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    recompute_uvqk_in_backward: bool = False,
    recompute_normed_x_in_backward: bool = False,
    sort_by_length: bool = False,
    enable_tma: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """``ops.hstu_compute.hstu_preprocess_and_attention`` by Triton; the arguments are described
    there.

    Returns:
        silu(u) (rows, H V), the attention (rows, H, V).
    """
    sizes = (num_heads, attn_dim, hidden_dim)
    check_uvqk(x, norm_weight, norm_bias, *sizes, uvqk_weight, uvqk_bias)
    on_gpu(x, "x")
    CHECKS.integer(max_seq_len, "max_seq_len", 1)
    CHECKS.integer(max_attn_len, "max_attn_len", 0)
    CHECKS.integer(contextual_seq_len, "contextual_seq_len", 0)
    offsets(seq_offsets, "seq_offsets", x.shape[0], x, "x")
    if num_targets is not None:
        indices(num_targets, "num_targets", x, "x", seq_offsets.shape[0] - 1)
    order = longest_first(seq_offsets) if sort_by_length else None
    if enable_tma is None:  # faster on an H200 from head dim 128 on
        enable_tma = capability(x)[0] == 9 and max(attn_dim, hidden_dim) >= 128
    options = _Options(
        norm_eps, sizes, max_seq_len, attn_alpha, max_attn_len, contextual_seq_len,
        recompute_uvqk_in_backward, recompute_normed_x_in_backward, enable_tma,
    )  # fmt: skip
    silu_u, out = _HSTUPreprocessAndAttentionFunction.apply(
        switch_to_contiguous_if_needed(x), norm_weight, norm_bias, uvqk_weight,
        uvqk_bias.to(x.dtype), seq_offsets.contiguous(), num_targets, order, options,
    )  # fmt: skip
    return silu_u, out
