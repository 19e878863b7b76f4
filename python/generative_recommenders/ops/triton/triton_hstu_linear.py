"""What follows attention in an HSTU layer, in Triton: norm, product with u, dropout, projection.

Dropout draws by Philox from (seed, place), so the backward draws the same again, and PYTORCH does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.pytorch.pt_dropout import drawn_seed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._linear_kernels import (
    _norm_mul_dropout_bwd,
    _norm_mul_dropout_fwd,
    rand3x,
)
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._toggles import toggle
from generative_recommenders.ops.triton.triton_addmm import maybe_triton_addmm_fwd
from generative_recommenders.ops.triton.triton_layer_norm import (
    PARTS,
    add_up,
    block_rows,
    programs_of,
    warps,
)

__all__ = [
    "get_compute_output_ln_fast_dropout",
    "get_fuse_output_ln_rng_blackwell",
    "rand3x",
    "set_compute_output_ln_fast_dropout",
    "set_fuse_output_ln_rng_blackwell",
    "triton_hstu_compute_output",
    "triton_norm_mul_dropout",
]

ACTIVATIONS = ("none", "silu", "sigmoid")


class _Kind(NamedTuple):
    """What is computed: the arguments of the ops that are no tensors."""

    eps: float
    ratio: float
    silu_u: bool
    concat_u: bool
    concat_x: bool
    act: str
    group_norm: bool
    heads: int
    linear_dim: int

    def constants(self, dim: int) -> dict[str, int]:
        d = self.linear_dim if self.group_norm else dim
        block = max(8, triton.next_power_of_2(d))
        return {"D": d, "BLOCK_D": block}

    def blocks(self, x: Tensor, numbers: int) -> dict[str, int]:
        """The constants, and warps, of a kernel whose blocks have so many numbers."""
        of = self.constants(x.shape[1])
        block_d = of["BLOCK_D"]
        rows = block_rows(block_d, _launch.INTERPRETED, numbers)
        few = 2 if of["D"] % 16 else numbers // 512  # one warp would spill there
        of |= {"BLOCK_N": rows, "num_warps": max(few, warps(block_d))}
        return of | {"FAST": _launch.on_nvidia(x)}

    def numbers(self) -> tuple[float, int, int]:
        """The last arguments of both kernels."""
        act = "none" if self.group_norm else self.act
        parts = (self.silu_u, self.concat_u, self.concat_x, self.group_norm)
        flags = sum(bool(part) << i for i, part in enumerate(parts))
        return self.ratio, flags, ACTIVATIONS.index(act)


@kernel_op("triton_norm_mul_dropout_fwd")
def _fwd_op(
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor,
    eps: float,
    ratio: float,
    silu_u: bool,
    concat_u: bool,
    concat_x: bool,
    act: str,
    group_norm: bool,
    heads: int,
    linear_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _launch.on_gpu(x, "x")
    kind = _Kind(eps, ratio, silu_u, concat_u, concat_x, act, group_norm, heads, linear_dim)
    rows, dim = x.shape
    groups = heads if group_norm else 1
    y = torch.empty((rows, dim * (1 + concat_u + concat_x)), dtype=x.dtype, device=x.device)
    mean = torch.empty((rows, groups), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    constants = kind.blocks(x, 1024)
    if rows:
        _norm_mul_dropout_fwd[(cdiv(rows, constants["BLOCK_N"]), groups)](
            x, u, weight, bias, y, mean, rstd, seed, x.stride(0), u.stride(0), y.stride(0), rows,
            groups, eps, *kind.numbers(), **constants,
        )  # fmt: skip
    return y, mean, rstd


@_fwd_op.register_fake
def _(
    x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    kind = _Kind(*rest)
    y = x.new_empty((x.shape[0], x.shape[1] * (1 + kind.concat_u + kind.concat_x)))
    groups = kind.heads if kind.group_norm else 1
    statistic = x.new_empty((x.shape[0], groups), dtype=torch.float32)
    return y, statistic, torch.empty_like(statistic)


@kernel_op("triton_norm_mul_dropout_bwd")
def _bwd_op(
    dy: Tensor,
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor,
    eps: float,
    ratio: float,
    silu_u: bool,
    concat_u: bool,
    concat_x: bool,
    act: str,
    group_norm: bool,
    heads: int,
    linear_dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind = _Kind(eps, ratio, silu_u, concat_u, concat_x, act, group_norm, heads, linear_dim)
    rows, dim = x.shape
    groups = heads if group_norm else 1
    dy = switch_to_contiguous_if_needed(dy)
    dx = torch.empty((rows, dim), dtype=x.dtype, device=x.device)
    du = torch.empty((rows, dim), dtype=u.dtype, device=u.device)
    if rows == 0:
        return dx, du, torch.zeros_like(weight), torch.zeros_like(bias)
    constants = kind.blocks(x, 512)
    programs, per_program = programs_of(rows, constants["BLOCK_N"], max(1, PARTS // groups))
    sums = torch.empty((2, programs, dim), dtype=torch.float32, device=x.device)
    _norm_mul_dropout_bwd[(programs, groups)](
        dy, x, u, weight, bias, mean, rstd, seed, dx, du, sums, dy.stride(0), x.stride(0),
        u.stride(0), dx.stride(0), du.stride(0), rows, groups, per_program, *kind.numbers(),
        **constants,
    )  # fmt: skip
    dw, db = add_up(sums, weight, groups if group_norm else 0)
    return dx, du, dw, db.to(bias.dtype)


@_bwd_op.register_fake
def _(
    dy: Tensor, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, du = x.new_empty(x.shape), u.new_empty(u.shape)
    return dx, du, torch.empty_like(weight), torch.empty_like(bias)


class _NormMulDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, kind: _Kind
    ) -> Tensor:
        y, mean, rstd = _fwd_op(x, u, weight, bias, seed, *kind)
        ctx.save_for_backward(x, u, weight, bias, mean, rstd, seed)
        ctx.kind = kind
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*_bwd_op(dy, *ctx.saved_tensors, *ctx.kind), None, None)


class _ComputeOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        attn: Tensor,
        u: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        output_weight: Tensor,
        seed: Tensor,
        kind: _Kind,
        recompute: bool,
    ) -> Tensor:
        y, mean, rstd = _fwd_op(attn, u, weight, bias, seed, *kind)
        kept = () if recompute else (y,)
        ctx.save_for_backward(attn, u, weight, bias, mean, rstd, seed, output_weight, *kept)
        ctx.kind = kind
        return maybe_triton_addmm_fwd(y, output_weight, x)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, output_weight = ctx.saved_tensors[:8]
        attn, u, weight, bias, _, _, seed = inputs
        if len(ctx.saved_tensors) > 8:
            y = ctx.saved_tensors[8]
        else:
            y = _fwd_op(attn, u, weight, bias, seed, *ctx.kind)[0]
        d_weight = torch.mm(y.t(), dout)
        dy = torch.mm(dout, output_weight.t())
        dattn, du, dw, db = _bwd_op(dy, *inputs, *ctx.kind)
        return dattn, du, dout, dw, db, d_weight, None, None, None


def _kind(
    x: Tensor,
    eps: float,
    dropout_ratio: float,
    training: bool,
    silu_u: bool,
    concat_u: bool,
    concat_x: bool,
    act: str,
    group_norm: bool,
    num_heads: int,
    linear_dim: int,
) -> _Kind:
    if group_norm and num_heads * linear_dim != x.shape[1]:
        CHECKS.fail(
            f"num_heads * linear_dim must be {x.shape[1]} with group_norm, got {num_heads} * "
            f"{linear_dim}"
        )
    ratio = dropout_ratio if training else 0.0
    return _Kind(
        eps, ratio, silu_u, concat_u, concat_x, act, group_norm, num_heads, linear_dim
    )  # fmt: skip


def triton_norm_mul_dropout(
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
    """``ops.pytorch.pt_hstu_linear.pytorch_norm_mul_dropout`` by Triton."""
    kind = _kind(
        x, eps, dropout_ratio, training, silu_u, concat_u, concat_x, mul_u_activation_type,
        group_norm, num_heads, linear_dim,
    )  # fmt: skip
    x, u = switch_to_contiguous_if_needed(x), switch_to_contiguous_if_needed(u)
    drawn = drawn_seed(seed, offset, x, kind.ratio > 0)
    result: Tensor = _NormMulDropout.apply(x, u, weight, bias, drawn, kind)
    return result


def triton_hstu_compute_output(
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
    recompute_y_in_backward: bool = False,
    offset: int = 0,
) -> Tensor:
    """``ops.hstu_compute.hstu_compute_output`` by Triton; ``silu_u`` acts on every u, ``seed`` and
    ``offset`` fix dropout, and the others are described there."""
    kind = _kind(
        attn, eps, dropout_ratio, training, silu_u, concat_u, concat_x, mul_u_activation_type,
        group_norm, num_heads, linear_dim,
    )  # fmt: skip
    attn, u, x = (switch_to_contiguous_if_needed(t) for t in (attn, u, x))
    drawn = drawn_seed(seed, offset, x, kind.ratio > 0)
    result: Tensor = _ComputeOutput.apply(
        attn, u, x, norm_weight, norm_bias, output_weight.to(x.dtype), drawn, kind,
        recompute_y_in_backward,
    )  # fmt: skip
    return result


set_compute_output_ln_fast_dropout, get_compute_output_ln_fast_dropout = toggle(
    "compute_output_ln_fast_dropout", False, "each number is a draw of its own, as PYTORCH has it"
)
set_fuse_output_ln_rng_blackwell, get_fuse_output_ln_rng_blackwell = toggle(
    "fuse_output_ln_rng_blackwell", False, "numbers are always drawn where they are used"
)
