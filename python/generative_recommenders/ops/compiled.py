"""The kernels that Triton compiled when the wheel was built, as ops: ``torch.ops.hstu_triton``.

They need neither Triton nor a compiler where they run. The library defines the ops for CUDA; here
they get autograd and fakes. What a kernel is compiled for is in its name, ``names()``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders._core import library
from generative_recommenders._core.ops import no_gradient, op
from generative_recommenders.ops.problem import Problem

PACKAGE = "hstu_triton"
LIBRARY = Path(__file__).parents[1] / "libhstu_triton.so"
MINIMUM_TORCH = (2, 10)

library.load(PACKAGE, LIBRARY, MINIMUM_TORCH, "hstu-triton")


@functools.cache
def build_info() -> dict[str, Any]:
    """The versions of the library and of its compiler, and its objects."""
    return library.build_info(PACKAGE)


# Of the compiled kernels: KERNEL.DTYPE.SHAPE, and what else they are for. torch.compile knows it.
NAMES = frozenset(o["name"] for o in build_info()["objects"])
_SHAPES = frozenset(".".join(name.split(".")[:3]) for name in NAMES)
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def serves(kernel: str, width: int | None, x: Tensor) -> bool:
    """Whether there is a compiled ``kernel`` for rows, or heads, of this width; None: for any."""
    dtype = _DTYPES.get(x.dtype)
    if width is None:
        return dtype is not None and bool({f"{kernel}.{dtype}.any", f"{kernel}.i16.any"} & NAMES)
    return f"{kernel}.{dtype}.{width}" in _SHAPES


_twice = no_gradient("hstu_triton: there is no second derivative")


def _attention_gradients(a: Any, needed: tuple[bool, ...], dout: Tensor) -> tuple[Any, ...]:
    return tuple(attention_bwd(dout, *a))


def _like_v(a: Any) -> Tensor:
    out: Tensor = a.v.new_empty((a.q.shape[0], a.q.shape[1], a.v.shape[2]))
    return out


def _like_qkv(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    return a.q.new_empty(a.q.shape), a.k.new_empty(a.k.shape), a.v.new_empty(a.v.shape)


attention_fwd = op(
    PACKAGE,
    "attention_fwd",
    fake=_like_v,
    backward=_attention_gradients,
    gradients=("q", "k", "v"),
)
attention_bwd = op(
    PACKAGE,
    "attention_bwd",
    fake=_like_qkv,
    backward=_twice,
    gradients=("dout", "q", "k", "v"),
)
delta_attention = op(
    PACKAGE,
    "delta_attention",
    fake=_like_v,
    backward=no_gradient("hstu_triton: delta_attention has no gradient"),
    gradients=("q", "k", "v"),
)


def _statistics(x: Tensor, groups: int | None = None) -> Tensor:
    shape = (x.shape[0],) if groups is None else (x.shape[0], groups)
    return x.new_empty(shape, dtype=torch.float32)


def _norm_fake(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    rstd = _statistics(a.x)
    mean = rstd.new_empty((0,)) if a.is_rms else torch.empty_like(rstd)
    return a.x.new_empty(a.x.shape), mean, rstd


def _norm_bwd_fake(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    size = a.x.shape[1] if a.weight is not None or a.bias is not None else 0
    return a.x.new_empty(a.x.shape), a.x.new_empty((size,)), a.x.new_empty((size,))


class _Norm(torch.autograd.Function):
    """The backward needs the statistics, which the op returns beside its result."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        gate: int,
        is_rms: bool,
    ) -> Tensor:
        y, mean, rstd = norm_fwd(x, weight, bias, eps, gate, is_rms)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.rest = (eps, gate, is_rms)
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dx, dw, db = norm_bwd(dy, mean, rstd, x, weight, bias, *ctx.rest)
        given = (None if weight is None else dw, None if bias is None else db)
        return dx, *given, None, None, None


norm_fwd = op(
    PACKAGE, "norm_fwd", fake=_norm_fake, backward=_twice, gradients=("x", "weight", "bias")
)
norm_bwd = op(
    PACKAGE, "norm_bwd", fake=_norm_bwd_fake, backward=_twice, gradients=("dy", "x", "weight")
)


def _linear_fake(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    y = a.x.new_empty((a.x.shape[0], a.x.shape[1] * (1 + a.concat_u + a.concat_x)))
    mean = _statistics(a.x, a.heads if a.group_norm else 1)
    return y, mean, torch.empty_like(mean)


def _linear_bwd_fake(a: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = (a.x, a.u, a.weight, a.bias)
    dx, du, dw, db = (t.new_empty(t.shape) for t in like)
    return dx, du, dw, db


norm_mul_dropout_fwd = op(
    PACKAGE,
    "norm_mul_dropout_fwd",
    fake=_linear_fake,
    backward=_twice,
    gradients=("x", "u", "weight", "bias"),
)
norm_mul_dropout_bwd = op(
    PACKAGE,
    "norm_mul_dropout_bwd",
    fake=_linear_bwd_fake,
    backward=_twice,
    gradients=("dy", "x", "u", "weight", "bias"),
)


class _NormMulDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, *rest: Any
    ) -> Tensor:
        y, mean, rstd = norm_mul_dropout_fwd(x, u, weight, bias, seed, *rest)
        ctx.save_for_backward(mean, rstd, x, u, weight, bias, seed)
        ctx.rest = rest
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        grads = norm_mul_dropout_bwd(dy, *ctx.saved_tensors, *ctx.rest)
        return (*grads, None, *(None for _ in ctx.rest))


def norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, gate: int, is_rms: bool
) -> Tensor:
    """``ops.layer_norm`` of (rows, dim): ``gate`` 0, or 1 for x sigmoid(y), or 2 for y sigmoid(y);
    weight and bias in the dtype of x."""
    given = (None if t is None else t.to(x.dtype) for t in (weight, bias))
    result: Tensor = _Norm.apply(x, *given, eps, gate, is_rms)  # type: ignore[no-untyped-call]
    return result


def norm_mul_dropout(
    x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, *rest: Any
) -> Tensor:
    """``ops.pytorch.pt_hstu_linear.pytorch_norm_mul_dropout``: ``rest`` is eps, ratio, silu_u,
    concat_u, concat_x, act (0, 1 silu, 2 sigmoid), group_norm, heads."""
    given = (weight.to(x.dtype), bias.to(x.dtype))
    result: Tensor = _NormMulDropout.apply(x, u, *given, seed, *rest)  # type: ignore[no-untyped-call]
    return result


def _scales(attn_scale: Tensor | None, q: Tensor) -> Tensor | None:
    """One for each row."""
    if attn_scale is None:
        return None
    return attn_scale.to(torch.float32).expand(q.shape[0]).contiguous()


def _of_problem(p: Problem) -> tuple[Any, ...]:
    targets, *rules = p.mask
    given = None if targets is None else targets.long()
    tensors = (p.q, p.k, p.v, p.seq_offsets.long(), given, p.order, _scales(p.attn_scale, p.q))
    return (*tensors, p.max_seq_len, p.alpha, *rules)


def forward(p: Problem) -> Tensor:
    """``ops.kinds``: one direction of attention."""
    out: Tensor = attention_fwd(*_of_problem(p))
    return out


def backward(p: Problem, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = attention_bwd(dout, *_of_problem(p))
    return dq, dk, dv


def attention(
    max_seq_len: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    min_full_attn_seq_len: int = 0,
    sort_by_length: bool = False,
    attn_scale: Tensor | None = None,
) -> Tensor:
    """``ops.hstu_attention.hstu_mha``; the arguments are described there."""
    starts = seq_offsets.long()
    order = None
    if sort_by_length:
        order = torch.sort(starts[1:] - starts[:-1], descending=True, stable=True)[1]
    if attn_scale is not None and attn_scale.requires_grad:
        CHECKS.fail("attn_scale must not require a gradient with TRITON_CC; PYTORCH has it")
    attn_scale = _scales(attn_scale, q)
    targets = None if num_targets is None else num_targets.long()
    numbers = (max_seq_len, alpha, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
    result: Tensor = attention_fwd(q, k, v, starts, targets, order, attn_scale, *numbers)
    return result


def last_rows_attention(
    max_seq_len: int,
    alpha: float,
    delta_q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
) -> Tensor:
    """``ops.hstu_attention.delta_hstu_mha``; the arguments are described there."""
    targets = None if num_targets is None else num_targets.long()
    numbers = (max_seq_len, alpha, max_attn_len, contextual_seq_len, 0)
    result: Tensor = delta_attention(
        delta_q, k, v, seq_offsets.long(), targets, None, None, *numbers
    )
    return result
