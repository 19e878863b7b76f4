"""What stands around attention in an HSTU layer, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generative_recommenders.ops.pytorch.pt_dropout import drawn_seed, kept
from generative_recommenders.ops.pytorch.pt_layer_norm import (
    pytorch_group_norm,
    pytorch_layer_norm,
)

_ACTIVATIONS = {"none": lambda u: u, "silu": F.silu, "sigmoid": torch.sigmoid}


def pytorch_norm_mul_dropout(
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_ratio: float,
    training: bool,
    silu_u: bool = False,
    concat_u: bool = False,
    concat_x: bool = False,
    mul_u_activation_type: str = "none",
    group_norm: bool = False,
    num_heads: int = 1,
    linear_dim: int = -1,
    seed: int | None = None,
    offset: int = 0,
) -> Tensor:
    """``dropout([u, x, act(u) * norm(x)])``, of which the first two only where asked for.

    ``act`` acts on the u of the product, ``silu_u`` on every u; with ``group_norm`` a norm for each
    head of ``linear_dim`` columns and no ``act``. (rows, dim) -> (rows, 1, 2 or 3 dim). Dropout is
    the same for the same ``seed`` and ``offset`` as TRITON's; None: drawn by PyTorch's generator.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    wide, shown = u.to(exact), u.to(exact)
    if silu_u:
        wide = shown = F.silu(wide)
    if group_norm:
        y = wide * pytorch_group_norm(x.to(exact), weight, bias, eps, num_heads, linear_dim)
    else:
        y = pytorch_layer_norm(x.to(exact), weight, bias, eps)
        y = _ACTIVATIONS[mul_u_activation_type](wide) * y
    parts = ([shown] if concat_u else []) + ([x.to(exact)] if concat_x else []) + [y]
    y = torch.cat(parts, dim=1)
    if training and dropout_ratio > 0.0:
        drawn = drawn_seed(seed, offset, y, True)
        part = linear_dim if group_norm else x.shape[1]
        y = y * kept(drawn, (y.shape[0], y.shape[1]), dropout_ratio, part)
    return y.to(x.dtype)


def pytorch_hstu_compute_output(
    attn: Tensor,
    u: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    output_weight: Tensor,
    eps: float,
    dropout_ratio: float,
    training: bool,
    silu_u: bool = False,
    concat_u: bool = False,
    concat_x: bool = False,
    mul_u_activation_type: str = "none",
    group_norm: bool = False,
    num_heads: int = 1,
    linear_dim: int = -1,
    seed: int | None = None,
    offset: int = 0,
) -> Tensor:
    """``x + norm_mul_dropout(attn, u) output_weight``."""
    y = pytorch_norm_mul_dropout(
        attn,
        u,
        norm_weight,
        norm_bias,
        eps,
        dropout_ratio,
        training,
        silu_u,
        concat_u,
        concat_x,
        mul_u_activation_type,
        group_norm,
        num_heads,
        linear_dim,
        seed,
        offset,
    )
    return torch.addmm(x, y, output_weight.to(x.dtype))
