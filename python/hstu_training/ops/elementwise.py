"""What stands between the matrix products of a layer, forward and backward, as plain functions.

On a GPU they are the kernels that ``generative_recommenders`` was compiled with, which need no
Triton, for the rows that those are for; else PyTorch's own. Statistics have a number for each row,
float32 (float64 for float64).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hstu_training.ops.counter import Randomness

_aten = torch.ops.aten


class Drop(NamedTuple):
    """Which values of a layer are dropped."""

    ratio: float
    random: Randomness | None
    stream: int
    rows: Tensor | None  # those of the batch's tokens that the layer computes; None: all

    @property
    def drawn(self) -> float:
        """The share of values that are dropped now."""
        return 0.0 if self.random is None else self.ratio

    def __call__(self, y: Tensor) -> Tensor:
        """``y`` (rows, columns), some values dropped and the others scaled."""
        if self.random is None or self.ratio == 0.0:
            return y
        keep = self.random.keep(self.stream, self.ratio, y.shape[1], self.rows)
        return y * keep / (1 - self.ratio)

    def seed(self, device: torch.device) -> Tensor | None:
        """Of the kernels, seed and offset; None: of no use here."""
        if device.type != "cuda":
            return None
        number = self.random.stream(self.stream) if self.random is not None else 0
        return torch.full((2,), number, dtype=torch.int64, device=device)


def _wide(t: Tensor | None) -> Any:
    return None if t is None else t.to(torch.promote_types(t.dtype, torch.float32))


@functools.cache
def _compiled(name: str, width: int | None, dtype: torch.dtype) -> Any:
    # Imported here: on a CPU nothing of it is needed.
    from generative_recommenders.ops import compiled, compiled_rows

    if not compiled.serves(name, width, torch.empty(0, dtype=dtype)):
        return None
    return compiled_rows if name.startswith("bias_silu") else compiled


def _kernels(name: str, width: int | None, x: Tensor) -> Any:
    """The compiled ops of ``generative_recommenders``, where there is the kernel for such rows."""
    return _compiled(name, width, x.dtype) if x.is_cuda else None


def _same(t: Tensor | None, x: Tensor) -> Tensor | None:
    return None if t is None else t.to(x.dtype)


Given = Sequence[Tensor | None]


def cast(tensors: Given, dtype: torch.dtype) -> list[Any]:
    """Tensors in another dtype, by one launch."""
    others = [t for t in tensors if t is not None and t.dtype != dtype]
    if not others:
        return list(tensors)
    made = [torch.empty_like(t, dtype=dtype) for t in others]
    torch._foreach_copy_(made, others)
    of = iter(made)
    return [t if t is None or t.dtype == dtype else next(of) for t in tensors]


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        return tuple(cast(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *cast(grads, ctx.dtype)


def parameters_in(dtype: torch.dtype, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Parameters in the dtype of a computation, and their gradients back, by a launch each."""
    if all(p.dtype == dtype for p in parameters):
        return parameters
    made: tuple[Tensor, ...] = _Cast.apply(dtype, *parameters)  # type: ignore[no-untyped-call]
    return made


def narrowed(x: Tensor, inner: int, linear: Given, norms: Given) -> list[Any]:
    """A layer's parameters in the dtype of ``x``, by one launch; those of its norms, of the width
    of ``x`` and of ``inner``, only where there are the kernels that take them so."""
    if _kernels("norm_fwd", x.shape[1], x) and _kernels("norm_mul_dropout_fwd", inner, x):
        return cast((*linear, *norms), x.dtype)
    return [*cast(linear, x.dtype), *norms]


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of rows in the dtype of ``x``, the mean and 1 / deviation of each."""
    if kernels := _kernels("norm_fwd", x.shape[1], x):
        out: tuple[Tensor, Tensor, Tensor] = kernels.norm_fwd(
            x, _same(weight, x), _same(bias, x), eps, 0, False
        )
        return out
    y, mean, rstd = _aten.native_layer_norm(
        _wide(x), (x.shape[1],), _wide(weight), _wide(bias), eps
    )
    return y.to(x.dtype), mean, rstd


def layer_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if kernels := _kernels("norm_bwd", x.shape[1], x):
        out: tuple[Tensor, Tensor, Tensor] = kernels.norm_bwd(
            dy, mean, rstd, x, _same(weight, x), _same(bias, x), eps, 0, False
        )
        return out
    wanted = [True, weight is not None, bias is not None]
    dx, dw, db = _aten.native_layer_norm_backward(
        _wide(dy), _wide(x), (x.shape[1],), mean, rstd, _wide(weight), _wide(bias), wanted
    )
    return dx.to(x.dtype), dw, db


def bias_silu(h: Tensor, bias: Tensor | None) -> Tensor:
    """``silu(h + bias)`` of (rows, columns)."""
    if kernels := _kernels("bias_silu_fwd", None, h):
        given = h.new_zeros(h.shape[1]) if bias is None else bias
        out: Tensor = kernels.bias_silu(h, given, h.shape[1])
        return out
    return F.silu(h if bias is None else h + bias)


def bias_silu_backward(
    grads: Sequence[Tensor], h: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of h and bias.

    Args:
        grads: of two or four equal parts of the columns.
        h, bias: as they were given.
    """
    if kernels := _kernels("bias_silu_bwd", None, h):
        given = h.new_zeros(h.shape[1]) if bias is None else bias
        nothing = [] if len(grads) == 4 else [h.new_empty((h.shape[0], 0))] * (4 - len(grads))
        dh, db = kernels.bias_silu_bwd(*grads, *nothing, h, given, h.shape[1])
        return dh, None if bias is None else db
    dh = torch.empty_like(h)
    biased = h if bias is None else h + bias
    parts = len(grads)
    for target, dy, x in zip(dh.chunk(parts, 1), grads, biased.chunk(parts, 1), strict=True):
        _aten.silu_backward.grad_input(dy, x, grad_input=target)
    return dh, None if bias is None else dh.sum(0)


def _weights(weight: Tensor | None, bias: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    return (
        like.new_ones(like.shape[1]) if weight is None else weight.to(like.dtype),
        like.new_zeros(like.shape[1]) if bias is None else bias.to(like.dtype),
    )


def norm_mul_dropout(
    a: Tensor, u: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, drop: Drop,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``dropout(layer_norm(a) * u)``, and the statistics of ``a``; ``seed``: ``drop.seed``."""
    if kernels := _kernels("norm_mul_dropout_fwd", a.shape[1], a):
        given = (a, u, *_weights(weight, bias, a), seed, eps, drop.drawn, *_PLAIN)
        out: tuple[Tensor, Tensor, Tensor] = kernels.norm_mul_dropout_fwd(*given)
        return out
    normed, mean, rstd = layer_norm(_wide(a), weight, bias, eps)
    return drop(normed * u).to(a.dtype), mean, rstd


def norm_mul_dropout_backward(
    dy: Tensor,
    a: Tensor,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    drop: Drop,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of a, u, weight and bias."""
    if kernels := _kernels("norm_mul_dropout_bwd", a.shape[1], a):
        given = (a, u, *_weights(weight, bias, a), seed, eps, drop.drawn, *_PLAIN)
        out: tuple[Tensor, Tensor, Tensor, Tensor] = kernels.norm_mul_dropout_bwd(
            dy, mean, rstd, *given
        )
        return out
    wide = drop(_wide(dy))
    x, w, b = _wide(a), _wide(weight), _wide(bias)
    normed = (x - mean) * rstd
    if w is not None:
        normed = normed * w + (0 if b is None else b)
    dnormed = wide * u
    da, dw, db = layer_norm_backward(dnormed, x, weight, bias, mean, rstd, eps)
    return da.to(a.dtype), (wide * normed).to(u.dtype), dw, db


# Of the op: u as it is, no concatenation, one norm over all columns.
_PLAIN = (False, False, False, 0, False, 1)
