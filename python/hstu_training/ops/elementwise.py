"""What stands between the matrix products of a layer, forward and backward, as plain functions.

On the CPU they are PyTorch's own; on a GPU kernels of ``generative_recommenders``. Statistics are
(rows,) float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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
    def acts(self) -> bool:
        return self.random is not None and self.ratio > 0.0

    def __call__(self, y: Tensor) -> Tensor:
        """``y`` (rows, columns), some values dropped and the others scaled."""
        if self.random is None or self.ratio == 0.0:
            return y
        keep = self.random.keep(self.stream, self.ratio, y.shape[1], self.rows)
        return y * keep / (1 - self.ratio)

    def seed(self, device: torch.device) -> Tensor:
        number = self.random.stream(self.stream) if self.random is not None else 0
        return torch.full((2,), number, dtype=torch.int64, device=device)  # seed and offset


def _wide(t: Tensor | None) -> Any:
    return None if t is None else t.to(torch.promote_types(t.dtype, torch.float32))


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of rows in the dtype of ``x``, the mean and 1 / deviation of each."""
    if x.is_cuda:
        from generative_recommenders.ops.triton.triton_layer_norm import norm_fwd

        return norm_fwd(x, weight, bias, eps)
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
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if x.is_cuda:
        from generative_recommenders.ops.triton.triton_layer_norm import norm_bwd

        return norm_bwd(dy, x, weight, bias, mean, rstd)
    wanted = [True, weight is not None, bias is not None]
    dx, dw, db = _aten.native_layer_norm_backward(
        _wide(dy), _wide(x), (x.shape[1],), mean, rstd, _wide(weight), _wide(bias), wanted
    )
    return dx.to(x.dtype), dw, db


def silu_backward_into(target: Tensor, dy: Tensor, x: Tensor) -> None:
    """Writes the gradient of ``silu(x)`` to ``target``, which may be a part of a wider tensor."""
    _aten.silu_backward.grad_input(dy, x, grad_input=target)


def _weights(weight: Tensor | None, bias: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    columns = like.shape[1]
    if weight is None:
        weight = torch.ones(columns, dtype=torch.float32, device=like.device)
    if bias is None:
        bias = torch.zeros(columns, dtype=torch.float32, device=like.device)
    return weight, bias


def norm_mul_dropout(
    a: Tensor, u: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, drop: Drop
) -> tuple[Tensor, Tensor, Tensor]:
    """``dropout(layer_norm(a) * u)``, and the statistics of ``a``."""
    if a.is_cuda:
        from generative_recommenders.ops.triton import triton_hstu_linear as triton

        given = (a, u, *_weights(weight, bias, a), drop.seed(a.device), eps)
        return triton._fwd_op(*given, drop.ratio if drop.acts else 0.0, *_PLAIN)  # type: ignore[no-any-return]
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
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of a, u, weight and bias."""
    if a.is_cuda:
        from generative_recommenders.ops.triton import triton_hstu_linear as triton

        given = (dy, a, u, *_weights(weight, bias, a), mean, rstd, drop.seed(a.device), eps)
        da, du, dw, db = triton._bwd_op(*given, drop.ratio if drop.acts else 0.0, *_PLAIN)
        return da, du, dw, db
    wide = drop(_wide(dy))
    x, w, b = _wide(a), _wide(weight), _wide(bias)
    normed = (x - mean) * rstd
    if w is not None:
        normed = normed * w + (0 if b is None else b)
    dnormed = wide * u
    da, dw, db = layer_norm_backward(dnormed, x, weight, bias, mean, rstd)
    return da.to(a.dtype), (wide * normed).to(u.dtype), dw, db


# Of the Triton op: u as it is, no concatenation, one norm over all columns.
_PLAIN = (False, False, False, "none", False, 1, -1)
