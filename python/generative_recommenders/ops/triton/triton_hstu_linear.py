"""What follows attention in an HSTU layer, in Triton: norm, product with u, dropout, projection.

Dropout draws by Philox from (seed, place in the row), so the backward draws the same again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._tile import load_rows, store_rows
from generative_recommenders.ops.triton.triton_addmm import maybe_triton_addmm_fwd

_PARTS = 1024


@triton.jit
def _act(u, KIND: tl.constexpr):
    if KIND == "silu":
        return u * tl.sigmoid(u)
    if KIND == "sigmoid":
        return tl.sigmoid(u)
    return u


@triton.jit
def _act_slope(u, KIND: tl.constexpr):
    s = tl.sigmoid(u)
    if KIND == "silu":
        return s * (1.0 + u * (1.0 - s))
    if KIND == "sigmoid":
        return s * (1.0 - s)
    return tl.zeros_like(u) + 1.0


@triton.jit
def _keep(seed, rows, first, width, ratio, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """0 or 1 / (1 - ratio) for ``BLOCK_D`` places of each row of ``width``, from ``first`` on."""
    at = rows[:, None].to(tl.int64) * width + first + tl.arange(0, BLOCK_D)[None, :]
    return tl.where(tl.rand(seed, at) > ratio, 1.0 / (1.0 - ratio), 0.0)


@triton.jit
def _parameter(P, head, column, D: tl.constexpr, GROUP: tl.constexpr):
    """A weight for each column, or one for all columns of a head."""
    if GROUP:
        return tl.zeros(column.shape, tl.float32) + tl.load(P + head).to(tl.float32)
    return tl.load(P + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def _norm_mul_dropout_fwd(
    X, U, W, B, Y, MEAN, RSTD, SEED, stride_x, stride_u, stride_y, rows, heads, eps, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
    ACT: tl.constexpr, SILU_U: tl.constexpr, CONCAT_U: tl.constexpr, CONCAT_X: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows, heads): the columns of one head, D of them."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    x = load_rows(X + head * D, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
    u = load_rows(U + head * D, row, stride_u, rows, D, BLOCK_D).to(tl.float32)
    mean = tl.sum(x, 1) / D
    centred = tl.where((column < D)[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    tl.store(MEAN + row * heads + head, mean, mask=row < rows)
    tl.store(RSTD + row * heads + head, rstd, mask=row < rows)
    w = _parameter(W, head, column, D, GROUP)
    b = _parameter(B, head, column, D, GROUP)
    if SILU_U:
        u = u * tl.sigmoid(u)
    y = _act(u, ACT) * (centred * rstd[:, None] * w[None, :] + b[None, :])
    width = heads * D * (1 + CONCAT_U + CONCAT_X)
    part = 0
    for kind in tl.static_range(3):
        if (kind == 0 and CONCAT_U) or (kind == 1 and CONCAT_X) or kind == 2:
            value = u if kind == 0 else (x if kind == 1 else y)
            first = part * heads * D + head * D
            if DROPOUT:
                seed = tl.load(SEED)
                value = value * _keep(seed, row, first, width, ratio, D, BLOCK_D)
            store_rows(Y + first, row, stride_y, rows, value, D, BLOCK_D)
            part += 1


@triton.jit
def _norm_mul_dropout_bwd(
    DY, X, U, W, B, MEAN, RSTD, SEED, DX, DU, DW, DB,
    stride_dy, stride_x, stride_u, stride_dx, stride_du, rows, heads, per_program, ratio,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
    ACT: tl.constexpr, SILU_U: tl.constexpr, CONCAT_U: tl.constexpr, CONCAT_X: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid (programs, heads); DW and DB are (programs, heads, D) sums of columns."""
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    w = _parameter(W, head, column, D, GROUP)
    b = _parameter(B, head, column, D, GROUP)
    dw = tl.zeros((BLOCK_D,), tl.float32)
    db = tl.zeros((BLOCK_D,), tl.float32)
    width = heads * D * (1 + CONCAT_U + CONCAT_X)
    begin = tl.program_id(0) * per_program
    for start in range(begin, tl.minimum(begin + per_program, rows), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = load_rows(X + head * D, row, stride_x, rows, D, BLOCK_D).to(tl.float32)
        raw = load_rows(U + head * D, row, stride_u, rows, D, BLOCK_D).to(tl.float32)
        mean = tl.load(MEAN + row * heads + head, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row * heads + head, mask=row < rows, other=0.0)
        xhat = tl.where(inside[None, :], (x - mean[:, None]) * rstd[:, None], 0.0)
        u = raw
        if SILU_U:
            u = raw * tl.sigmoid(raw)
        du = tl.zeros_like(x)
        dx = tl.zeros_like(x)
        dy = tl.zeros_like(x)
        part = 0
        for kind in tl.static_range(3):
            if (kind == 0 and CONCAT_U) or (kind == 1 and CONCAT_X) or kind == 2:
                first = part * heads * D + head * D
                g = load_rows(DY + first, row, stride_dy, rows, D, BLOCK_D).to(tl.float32)
                if DROPOUT:
                    seed = tl.load(SEED)
                    g = g * _keep(seed, row, first, width, ratio, D, BLOCK_D)
                if kind == 0:
                    du = g
                elif kind == 1:
                    dx = g
                else:
                    dy = g
                part += 1
        norm = xhat * w[None, :] + b[None, :]
        du += dy * norm * _act_slope(u, ACT)
        if SILU_U:
            du *= _act_slope(raw, "silu")
        dy = tl.where(inside[None, :], dy * _act(u, ACT), 0.0)
        dw += tl.sum(dy * xhat, 0)
        db += tl.sum(dy, 0)
        dy *= w[None, :]
        dy = tl.where(inside[None, :], dy, 0.0)
        mean_dy = tl.sum(dy, 1) / D
        dx += rstd[:, None] * (dy - mean_dy[:, None] - xhat * (tl.sum(dy * xhat, 1) / D)[:, None])
        store_rows(DX + head * D, row, stride_dx, rows, dx, D, BLOCK_D)
        store_rows(DU + head * D, row, stride_du, rows, du, D, BLOCK_D)
    at = (tl.program_id(0).to(tl.int64) * heads + head) * D + column
    tl.store(DW + at, dw, mask=inside)
    tl.store(DB + at, db, mask=inside)


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

    def constants(self, dim: int) -> dict[str, Any]:
        d = self.linear_dim if self.group_norm else dim
        block = triton.next_power_of_2(d)
        return {
            "D": d,
            "BLOCK_D": block,
            "BLOCK_N": max(1, min(8, 2048 // block)),
            "GROUP": self.group_norm,
            "ACT": "none" if self.group_norm else self.act,
            "SILU_U": self.silu_u,
            "CONCAT_U": self.concat_u,
            "CONCAT_X": self.concat_x,
            "DROPOUT": self.ratio > 0,
        }


@torch.library.custom_op("generative_recommenders::triton_norm_mul_dropout_fwd", mutates_args=())
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
    constants = kind.constants(dim)
    if rows:
        _norm_mul_dropout_fwd[(cdiv(rows, constants["BLOCK_N"]), groups)](
            x, u, weight, bias, y, mean, rstd, seed, x.stride(0), u.stride(0), y.stride(0), rows,
            groups, eps, ratio, **constants, num_warps=4,
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


@torch.library.custom_op("generative_recommenders::triton_norm_mul_dropout_bwd", mutates_args=())
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
    constants = kind.constants(dim)
    block = constants["BLOCK_N"]
    programs = max(1, min(_PARTS, cdiv(rows, block)))
    per_program = cdiv(cdiv(rows, programs), block) * block
    sums = torch.zeros((2, programs, groups, constants["D"]), dtype=torch.float32, device=x.device)
    if rows:
        _norm_mul_dropout_bwd[(programs, groups)](
            dy, x, u, weight, bias, mean, rstd, seed, dx, du, sums[0], sums[1],
            dy.stride(0), x.stride(0), u.stride(0), dx.stride(0), du.stride(0), rows, groups,
            per_program, ratio, **constants, num_warps=4,
        )  # fmt: skip
    dw, db = sums.sum((1, 3)) if group_norm else sums.sum((1, 2))
    return dx, du, dw.to(weight.dtype, copy=True), db.to(bias.dtype, copy=True)


@_bwd_op.register_fake
def _(
    dy: Tensor, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, du = x.new_empty(x.shape), u.new_empty(u.shape)
    return dx, du, torch.empty_like(weight), torch.empty_like(bias)


def _seed(seed: int | None, x: Tensor, used: bool) -> Tensor:
    """A seed on the device of ``x``; drawn there where none is given."""
    if seed is not None or not used:
        return torch.full((1,), seed or 0, dtype=torch.int64, device=x.device)
    return torch.randint(0, 2**31 - 1, (1,), dtype=torch.int64, device=x.device)


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
) -> Tensor:
    """``ops.pytorch.pt_hstu_linear.pytorch_norm_mul_dropout`` by Triton; ``seed`` fixes dropout."""
    kind = _kind(
        x, eps, dropout_ratio, training, silu_u, concat_u, concat_x, mul_u_activation_type,
        group_norm, num_heads, linear_dim,
    )  # fmt: skip
    x, u = switch_to_contiguous_if_needed(x), switch_to_contiguous_if_needed(u)
    drawn = _seed(seed, x, kind.ratio > 0)
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
) -> Tensor:
    """``ops.hstu_compute.hstu_compute_output`` by Triton; ``silu_u`` acts on every u, ``seed``
    fixes dropout, and the others are described there."""
    kind = _kind(
        attn, eps, dropout_ratio, training, silu_u, concat_u, concat_x, mul_u_activation_type,
        group_norm, num_heads, linear_dim,
    )  # fmt: skip
    attn, u, x = (switch_to_contiguous_if_needed(t) for t in (attn, u, x))
    drawn = _seed(seed, x, kind.ratio > 0)
    result: Tensor = _ComputeOutput.apply(
        attn, u, x, norm_weight, norm_bias, output_weight.to(x.dtype), drawn, kind,
        recompute_y_in_backward,
    )  # fmt: skip
    return result
