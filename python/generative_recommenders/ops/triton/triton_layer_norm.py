"""Norms of rows in Triton: each program takes some whole rows; sums of weight gradients are added
up in a second step, in order, so that two runs give equal bits."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._norm_kernels import _add_up, _norm_bwd, _norm_fwd
from generative_recommenders.ops.triton._op import kernel_op

MAX_ROW_BYTES = 65536
PARTS = 2112  # programs of the backward, each with its own sums
GATES = ("none", "swish", "silu")


def block_rows(block_d: int, interpreted: bool = False, numbers: int = 1024) -> int:
    """Rows of a block."""
    return max(1, min(16 if interpreted else numbers, numbers // block_d))


def warps(block_d: int, numbers: int = 512) -> int:
    """One has whole rows of up to so many numbers: it adds them up without the others."""
    return max(1, min(16, block_d // numbers))


def ahead(block_d: int) -> int:
    """Turns of a backward's loop that are under way at once, the last of them loading. One where
    rows are wide: what is on its way takes memory of a multiprocessor."""
    return 3 if block_d <= 512 else 1


def programs_of(rows: int, block: int, parts: int = PARTS) -> tuple[int, int]:
    """How many programs share the rows of a backward, and how many rows each has."""
    programs = max(1, min(parts, cdiv(rows, block)))
    per_program = cdiv(cdiv(rows, programs), block) * block
    return cdiv(rows, per_program) if rows else 1, per_program


def add_up(sums: Tensor, weight: Tensor, heads: int = 0) -> tuple[Tensor, Tensor]:
    """(2, programs, columns) -> the gradients of weight and bias, in the dtype of ``weight``; with
    ``heads`` one number for the columns of each head."""
    _, programs, columns = sums.shape
    width = columns // heads if heads else 0
    block_d = triton.next_power_of_2(width) if heads else 32
    size = heads or columns
    dw, db = (torch.empty((size,), dtype=weight.dtype, device=sums.device) for _ in range(2))
    block_p = 16 if _launch.INTERPRETED else max(1, 4096 // block_d)
    _add_up[(heads or cdiv(columns, block_d), 2)](
        sums, dw, db, programs, columns, heads, BLOCK_P=block_p, BLOCK_D=block_d, num_warps=8
    )
    return dw, db


def _width(x: Tensor) -> tuple[int, int]:
    if x.dim() != 2:
        CHECKS.fail(f"x must have shape (rows, dim), got {tuple(x.shape)}")
    dim = x.shape[1]
    if dim * x.element_size() > MAX_ROW_BYTES:
        CHECKS.fail(f"x must have rows of at most {MAX_ROW_BYTES} bytes, got {dim} of {x.dtype}")
    return dim, triton.next_power_of_2(max(dim, 1))


def norm_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    gate: str = "none",
    is_rms: bool = False,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of rows, and the mean and 1 / deviation of each, float32 (rows,)."""
    _launch.on_gpu(x, "x")
    dim, block_d = _width(x)
    rows = x.shape[0]
    y = torch.empty((rows, dim), dtype=x.dtype, device=x.device)
    given = rstd is not None
    if not given:
        mean = torch.empty((0 if is_rms else rows,), dtype=torch.float32, device=x.device)
        rstd = torch.empty((rows,), dtype=torch.float32, device=x.device)
    assert mean is not None
    assert rstd is not None
    if rows and dim:
        block_n = block_rows(block_d, _launch.INTERPRETED)
        _norm_fwd[(cdiv(rows, block_n),)](
            x, x if weight is None else weight, x if bias is None else bias, y, mean, rstd,
            x.stride(0), y.stride(0), rows, eps, _parts(weight, bias, is_rms), GATES.index(gate),
            D=dim, BLOCK_D=block_d, BLOCK_N=block_n, GIVEN=given, FAST=_launch.on_nvidia(x),
            num_warps=warps(block_d, 1024), enable_fp_fusion=False,
        )  # fmt: skip
    return y, mean, rstd


def norm_bwd(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    gate: str = "none",
    is_rms: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias."""
    dim, block_d = _width(x)
    rows = x.shape[0]
    dy = switch_to_contiguous_if_needed(dy)
    dx = torch.empty((rows, dim), dtype=x.dtype, device=x.device)
    if rows == 0 or dim == 0:
        dw, db = (None if t is None else torch.zeros_like(t) for t in (weight, bias))
        return dx, dw, db
    block_n = block_rows(block_d, _launch.INTERPRETED, 512)
    programs, per_program = programs_of(rows, block_n)
    sums = torch.empty((2, programs, dim), dtype=torch.float32, device=x.device)
    _norm_bwd[(programs,)](
        dy, x, x if weight is None else weight, x if bias is None else bias, mean, rstd, dx, sums,
        dy.stride(0), x.stride(0), dx.stride(0), rows, per_program, _parts(weight, bias, is_rms),
        GATES.index(gate), D=dim, BLOCK_D=block_d, BLOCK_N=block_n, AHEAD=ahead(block_d),
        GATED=gate != "none", FAST=_launch.on_nvidia(x), num_warps=warps(block_d),
    )  # fmt: skip
    like = bias if weight is None else weight
    if like is None:
        return dx, None, None
    total, shift = add_up(sums, like)
    return dx, None if weight is None else total, None if bias is None else shift.to(bias.dtype)


def _parts(weight: Tensor | None, bias: Tensor | None, is_rms: bool) -> int:
    return (weight is not None) + 2 * (bias is not None) + 4 * is_rms


@kernel_op("triton_norm_fwd")
def _fwd_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, gate: str, is_rms: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return norm_fwd(x, weight, bias, eps, gate, is_rms)


@_fwd_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, gate: str, is_rms: bool
) -> tuple[Tensor, Tensor, Tensor]:
    statistic = x.new_empty((x.shape[0],), dtype=torch.float32)
    mean = x.new_empty((0,), dtype=torch.float32) if is_rms else torch.empty_like(statistic)
    return x.new_empty(x.shape), mean, statistic


@kernel_op("triton_norm_bwd")
def _bwd_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    gate: str,
    is_rms: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw, db = norm_bwd(dy, x, weight, bias, mean, rstd, gate, is_rms)
    assert dw is not None
    return dx, dw, dw.new_empty((0,)) if db is None else db


@_bwd_op.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    gate: str,
    is_rms: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    db = weight.new_empty((0,)) if bias is None else torch.empty_like(bias)
    return x.new_empty(x.shape), torch.empty_like(weight), db


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        gate: str,
        is_rms: bool,
    ) -> Tensor:
        x = switch_to_contiguous_if_needed(x)
        y, mean, rstd = _fwd_op(x, weight, bias, eps, gate, is_rms)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.kind = (gate, is_rms)
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dx, dw, db = _bwd_op(dy, x, weight, bias, mean, rstd, *ctx.kind)
        return dx, dw, None if bias is None else db, None, None, None


def triton_weighted_layer_norm_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``layer_norm`` of (rows, dim), mean and 1 / deviation of each row; both may be given."""
    return norm_fwd(switch_to_contiguous_if_needed(x), weight, bias, eps, mean=mean, rstd=rstd)


def triton_weighted_layer_norm_bwd(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    learnable: bool,
    eps: float,
    BLOCK_D: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias. ``learnable``: whether the last two have one; ``eps`` and
    ``BLOCK_D`` follow from the others and are not looked at."""
    dx, dw, db = norm_bwd(dy, switch_to_contiguous_if_needed(x), weight, bias, mean, rstd)
    return (dx, dw, db) if learnable else (dx, None, None)


def triton_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``ops.layer_norm.layer_norm`` of (rows, dim)."""
    result: Tensor = _Norm.apply(x, weight, bias, eps, "none", False)
    return result


def triton_swish_layer_norm(
    x: Tensor, normalized_shape: list[int], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """``ops.layer_norm.swish_layer_norm`` of (rows, dim); ``normalized_shape`` must be [dim]."""
    if list(normalized_shape) != [x.shape[-1]]:
        CHECKS.fail(f"normalized_shape must be [{x.shape[-1]}], got {list(normalized_shape)}")
    result: Tensor = _Norm.apply(x, weight, bias, eps, "swish", False)
    return result


def triton_rms_norm(x: Tensor, weight: Tensor, eps: float, silu: bool = False) -> Tensor:
    """``ops.layer_norm.rms_norm`` of (rows, dim)."""
    result: Tensor = _Norm.apply(x, weight, None, eps, "silu" if silu else "none", True)
    return result
