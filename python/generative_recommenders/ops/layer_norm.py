"""Norms over the last dimension, and modules of them; names, order and defaults are those of
``generative_recommenders.ops.layer_norm`` of Meta's package.

Every function takes x (..., dim), weight and bias (dim,), computes in float32 (float64 for float64
x), and returns the shape and dtype of x. A wrong argument is a ValueError that names it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS, vector
from generative_recommenders.common import HammerKernel, HammerModule, chosen_kernel
from generative_recommenders.ops.pytorch.pt_layer_norm import (
    pytorch_layer_norm,
    pytorch_rms_norm,
    pytorch_swish_layer_norm,
)


def _check(x: Tensor, weights: dict[str, Tensor], eps: float) -> None:
    CHECKS.tensor(x, "x")
    if x.dim() < 1 or not x.is_floating_point():
        CHECKS.fail(f"x must be floating-point rows, got {x.dtype} of shape {tuple(x.shape)}")
    for name, t in weights.items():
        vector(t, name, x.shape[-1], x, "x")
    CHECKS.number(eps, "eps")
    if eps < 0:
        CHECKS.fail(f"eps must be >= 0, got {eps}")


def _compiled(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, gate: int, is_rms: bool
) -> Tensor:
    from generative_recommenders.ops.compiled import norm

    return norm(x.reshape(-1, x.shape[-1]), weight, bias, eps, gate, is_rms).reshape(x.shape)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``."""
    _check(x, {"weight": weight, "bias": bias}, eps)
    taken = chosen_kernel(kernel, "layer_norm", x, compiled=("norm_fwd", x.shape[-1]))
    if taken is HammerKernel.PYTORCH:
        return pytorch_layer_norm(x, weight, bias, eps)
    if taken is HammerKernel.TRITON_CC:
        return _compiled(x, weight, bias, eps, 0, False)
    from generative_recommenders.ops.triton.triton_layer_norm import triton_layer_norm

    return triton_layer_norm(x.reshape(-1, x.shape[-1]), weight, bias, eps).reshape(x.shape)


def swish_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """``x * sigmoid(layer_norm(x))``."""
    _check(x, {"weight": weight, "bias": bias}, eps)
    taken = chosen_kernel(kernel, "swish_layer_norm", x, compiled=("norm_fwd", x.shape[-1]))
    if taken is HammerKernel.PYTORCH:
        return pytorch_swish_layer_norm(x, weight, bias, eps)
    if taken is HammerKernel.TRITON_CC:
        return _compiled(x, weight, bias, eps, 1, False)
    from generative_recommenders.ops.triton.triton_layer_norm import triton_swish_layer_norm

    rows = x.reshape(-1, x.shape[-1])
    return triton_swish_layer_norm(rows, [x.shape[-1]], weight, bias, eps).reshape(x.shape)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    silu: bool = False,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight``, and its SiLU if asked for."""
    _check(x, {"weight": weight}, eps)
    taken = chosen_kernel(kernel, "rms_norm", x, compiled=("norm_fwd", x.shape[-1]))
    if taken is HammerKernel.PYTORCH:
        return pytorch_rms_norm(x, weight, eps, silu)
    if taken is HammerKernel.TRITON_CC:
        return _compiled(x, weight, None, eps, 2 if silu else 0, True)
    from generative_recommenders.ops.triton.triton_layer_norm import triton_rms_norm

    return triton_rms_norm(x.reshape(-1, x.shape[-1]), weight, eps, silu).reshape(x.shape)


class _Norm(HammerModule):
    def __init__(self, dim: int, eps: float = 1e-5, is_inference: bool = False) -> None:
        super().__init__(is_inference=is_inference)
        CHECKS.integer(dim, "dim", 1)
        self._eps = eps
        self.weight = nn.Parameter(torch.ones(dim))


class LayerNorm(_Norm):
    """``layer_norm`` with its weight (dim,), 1 at first, and bias (dim,), 0 at first."""

    def __init__(self, dim: int, eps: float = 1e-5, is_inference: bool = False) -> None:
        super().__init__(dim, eps, is_inference)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self._eps, self.hammer_kernel())


class SwishLayerNorm(LayerNorm):
    """``swish_layer_norm`` with weight and bias as in ``LayerNorm``."""

    def forward(self, x: Tensor) -> Tensor:
        return swish_layer_norm(x, self.weight, self.bias, self._eps, self.hammer_kernel())


class RMSNorm(_Norm):
    """``rms_norm`` with its weight (dim,), 1 at first."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self._eps, False, self.hammer_kernel())


class RMSNormSilu(_Norm):
    """``rms_norm`` followed by SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self._eps, True, self.hammer_kernel())
