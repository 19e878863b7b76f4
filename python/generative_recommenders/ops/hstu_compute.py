"""What stands around attention in an HSTU layer; names, order and defaults are those of
``generative_recommenders.ops.hstu_compute`` of Meta's package.

Shapes: x (rows, E); H heads, D = attn_dim, V = hidden_dim; u (rows, H V), v (rows, H, V),
q and k (rows, H, D), ``uvqk_weight`` (E, 2 H (V + D)) whose columns are u, v, q, k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generative_recommenders._checks import CHECKS, matrix, vector
from generative_recommenders.common import HammerKernel, chosen_kernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from generative_recommenders.ops.layer_norm import layer_norm
from generative_recommenders.ops.mm import addmm
from generative_recommenders.ops.pytorch.pt_dropout import drawn_seed
from generative_recommenders.ops.pytorch.pt_hstu_linear import pytorch_hstu_compute_output

ACTIVATIONS = ("none", "silu", "sigmoid")


def check_uvqk(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    num_heads: int,
    attn_dim: int,
    hidden_dim: int,
    uvqk_weight: Tensor,
    uvqk_bias: Tensor,
) -> None:
    matrix(x, "x")
    for size, name in (
        (num_heads, "num_heads"),
        (attn_dim, "attn_dim"),
        (hidden_dim, "hidden_dim"),
    ):
        CHECKS.integer(size, name, 1)
    vector(norm_weight, "norm_weight", x.shape[1], x, "x")
    vector(norm_bias, "norm_bias", x.shape[1], x, "x")
    columns = 2 * num_heads * (hidden_dim + attn_dim)
    matrix(uvqk_weight, "uvqk_weight", x, "x")
    if tuple(uvqk_weight.shape) != (x.shape[1], columns):
        CHECKS.fail(
            f"uvqk_weight must have shape ({x.shape[1]}, {columns}), got {tuple(uvqk_weight.shape)}"
        )
    vector(uvqk_bias, "uvqk_bias", columns, x, "x")


def split_uvqk(
    uvqk: Tensor, num_heads: int, attn_dim: int, hidden_dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of a row as views: u (rows, H V), v (rows, H, V), q and k (rows, H, D)."""
    values, keys = num_heads * hidden_dim, num_heads * attn_dim
    u, v, q, k = torch.split(uvqk, [values, values, keys, keys], dim=1)
    rows = uvqk.shape[0]
    q, k = (t.view(rows, num_heads, attn_dim) for t in (q, k))
    return u, v.view(rows, num_heads, hidden_dim), q, k


def hstu_compute_uqvk(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    num_heads: int,
    attn_dim: int,
    hidden_dim: int,
    uvqk_weight: Tensor,
    uvqk_bias: Tensor,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``layer_norm(x) uvqk_weight + uvqk_bias``, taken apart.

    Returns:
        silu(u) (rows, H V), q and k (rows, H, D), v (rows, H, V); in the order u, q, k, v.

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    sizes = (num_heads, attn_dim, hidden_dim)
    check_uvqk(x, norm_weight, norm_bias, *sizes, uvqk_weight, uvqk_bias)
    normed = layer_norm(x, norm_weight, norm_bias, norm_eps, kernel)
    taken = chosen_kernel(kernel, "hstu_compute_uqvk", x, compiled=("bias_silu_fwd", None))
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops.compiled_rows import split_silu

        values, keys = num_heads * hidden_dim, num_heads * attn_dim
        uvqk = torch.mm(normed, uvqk_weight)  # cuBLAS
        u, v, q, k = split_silu(uvqk, uvqk_bias.to(x.dtype), values, keys, values)
        q, k = (t.view(-1, num_heads, attn_dim) for t in (q, k))
        return u, q, k, v.view(-1, num_heads, hidden_dim)
    uvqk = addmm(uvqk_bias.to(x.dtype), normed, uvqk_weight, taken)
    u, v, q, k = split_uvqk(uvqk, *sizes)
    return F.silu(u), q, k, v


def hstu_compute_output(
    attn: Tensor,
    u: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    output_weight: Tensor,
    num_heads: int,
    linear_dim: int,
    dropout_ratio: float,
    training: bool,
    concat_u: bool,
    concat_x: bool,
    mul_u_activation_type: str,
    group_norm: bool,
    recompute_y_in_backward: bool,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """``x + dropout([u, attn, act(u) * norm(attn)]) output_weight``.

    Args:
        attn, u: (rows, num_heads linear_dim).
        x: (rows, E).
        norm_weight, norm_bias: (num_heads linear_dim,), or (num_heads,) with ``group_norm``.
        norm_eps: of the norm.
        output_weight: (1, 2 or 3 num_heads linear_dim, E).
        num_heads, linear_dim: the columns of attn.
        dropout_ratio: of the concatenation, in training.
        training: whether dropout acts.
        concat_u, concat_x: whether u and attn stand before the product; with ``group_norm`` both or
            none.
        mul_u_activation_type: "none", "silu" or "sigmoid"; not looked at with ``group_norm``.
        group_norm: a norm for each head.
        recompute_y_in_backward: keep less for the backward (TRITON).
        kernel: what computes it.

    Returns:
        (rows, E).

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    _check_output(attn, u, x, norm_weight, norm_bias, output_weight, num_heads, linear_dim,
                  concat_u, concat_x, mul_u_activation_type, group_norm)  # fmt: skip
    CHECKS.number(dropout_ratio, "dropout_ratio")
    if not 0.0 <= dropout_ratio < 1.0:
        CHECKS.fail(f"dropout_ratio must lie in [0, 1), got {dropout_ratio}")
    width = linear_dim if group_norm else num_heads * linear_dim
    compiled = ("norm_mul_dropout_fwd", width)
    taken = chosen_kernel(kernel, "hstu_compute_output", x, compiled=compiled)
    if taken is HammerKernel.PYTORCH:
        return pytorch_hstu_compute_output(
            attn,
            u,
            x,
            norm_weight,
            norm_bias,
            output_weight,
            norm_eps,
            dropout_ratio,
            training,
            False,
            concat_u,
            concat_x,
            mul_u_activation_type,
            group_norm,
            num_heads,
            linear_dim,
        )
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops.compiled import norm_mul_dropout

        ratio = dropout_ratio if training else 0.0
        parts = (False, concat_u, concat_x, ACTIVATIONS.index(mul_u_activation_type))
        seed = drawn_seed(None, 0, attn, ratio > 0.0)
        y = norm_mul_dropout(
            attn, u, norm_weight, norm_bias, seed, norm_eps, ratio, *parts, group_norm, num_heads
        )
        return torch.addmm(x, y, output_weight.to(x.dtype))
    from generative_recommenders.ops.triton.triton_hstu_linear import triton_hstu_compute_output

    return triton_hstu_compute_output(
        attn,
        u,
        x,
        norm_weight,
        norm_bias,
        output_weight,
        norm_eps,
        dropout_ratio,
        training,
        False,
        concat_u,
        concat_x,
        mul_u_activation_type,
        group_norm,
        num_heads,
        linear_dim,
        recompute_y_in_backward=recompute_y_in_backward,
    )


def _check_output(
    attn: Tensor,
    u: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    output_weight: Tensor,
    num_heads: int,
    linear_dim: int,
    concat_u: bool,
    concat_x: bool,
    mul_u_activation_type: str,
    group_norm: bool,
) -> None:
    CHECKS.integer(num_heads, "num_heads", 1)
    CHECKS.integer(linear_dim, "linear_dim", 1)
    matrix(x, "x")
    columns = num_heads * linear_dim
    for t, name in ((attn, "attn"), (u, "u")):
        matrix(t, name, x, "x")
        if tuple(t.shape) != (x.shape[0], columns):
            wanted = f"({x.shape[0]}, {columns})"
            CHECKS.fail(f"{name} must have shape {wanted}, got {tuple(t.shape)}")
    size = num_heads if group_norm else columns
    vector(norm_weight, "norm_weight", size, x, "x")
    vector(norm_bias, "norm_bias", size, x, "x")
    if mul_u_activation_type not in ACTIVATIONS:
        CHECKS.fail(
            f"mul_u_activation_type must be one of {ACTIVATIONS}, got {mul_u_activation_type!r}"
        )
    if group_norm and concat_u != concat_x:
        CHECKS.fail(
            f"concat_u and concat_x must be equal with group_norm, got {concat_u} and {concat_x}"
        )
    rows = columns * (1 + bool(concat_u) + bool(concat_x))
    CHECKS.tensor(output_weight, "output_weight")
    CHECKS.device(output_weight, "output_weight", x, "x")
    if tuple(output_weight.shape) != (rows, x.shape[1]):
        CHECKS.fail(
            f"output_weight must have shape ({rows}, {x.shape[1]}), got "
            f"{tuple(output_weight.shape)}"
        )


def hstu_preprocess_and_attention(
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
    causal: bool,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    recompute_uvqk_in_backward: bool,
    recompute_normed_x_in_backward: bool,
    sort_by_length: bool,
    prefill: bool = False,
    kernel: HammerKernel = HammerKernel.PYTORCH,
    enable_tma: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """``hstu_compute_uqvk`` and ``hstu_mha`` of its parts.

    Args:
        x to uvqk_bias: as in ``hstu_compute_uqvk``.
        max_seq_len, seq_offsets, causal, num_targets, max_attn_len, contextual_seq_len,
            sort_by_length: as in ``hstu_mha``; ``attn_alpha`` is its ``alpha``.
        recompute_uvqk_in_backward, recompute_normed_x_in_backward: keep less for the backward
            (TRITON).
        prefill: return k and v, too.
        kernel: what computes it.
        enable_tma: as in ``hstu_mha``; None: where it is faster.

    Returns:
        silu(u) (rows, H V), the attention (rows, H V), and k (rows, H, D) and v (rows, H, V), which
        TRITON without ``prefill`` keeps to itself: None.

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    CHECKS.number(attn_alpha, "attn_alpha")
    compiled = ("attention_fwd", attn_dim)
    taken = chosen_kernel(kernel, "hstu_preprocess_and_attention", x, compiled=compiled)
    if taken is HammerKernel.TRITON and not prefill:
        from generative_recommenders.ops.triton.triton_hstu_preprocess_and_attention import (
            triton_hstu_preprocess_and_attention,
        )

        if causal is not True:
            CHECKS.fail(f"causal must be True, got {causal!r}")
        u, attention = triton_hstu_preprocess_and_attention(
            x,
            norm_weight,
            norm_bias,
            norm_eps,
            num_heads,
            attn_dim,
            hidden_dim,
            uvqk_weight,
            uvqk_bias,
            max_seq_len,
            seq_offsets,
            attn_alpha,
            num_targets,
            max_attn_len,
            contextual_seq_len,
            recompute_uvqk_in_backward,
            recompute_normed_x_in_backward,
            sort_by_length,
            enable_tma,
        )
        return u, attention.flatten(1), None, None
    u, q, k, v = hstu_compute_uqvk(
        x,
        norm_weight,
        norm_bias,
        norm_eps,
        num_heads,
        attn_dim,
        hidden_dim,
        uvqk_weight,
        uvqk_bias,
        kernel,
    )
    attention = hstu_mha(
        max_seq_len,
        attn_alpha,
        q,
        k,
        v,
        seq_offsets,
        causal,
        num_targets=num_targets,
        max_attn_len=max_attn_len,
        contextual_seq_len=contextual_seq_len,
        sort_by_length=sort_by_length,
        kernel=kernel,
        enable_tma=bool(enable_tma),
    )
    return u, attention.flatten(1), k, v
