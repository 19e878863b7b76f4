"""A multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hstu_training.checks import CHECKS
from hstu_training.ops.elementwise import parameters_in

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class MLP(nn.Module):
    """Linear layers with an activation between them, and none behind the last.

    Args:
        in_size: columns of the input.
        sizes: widths of the layers.
        activation: "relu", "gelu" or "silu".
        bias: of every layer.
        dtype: of the parameters; computed in the input's.
    """

    def __init__(
        self,
        in_size: int,
        sizes: Sequence[int],
        activation: str = "relu",
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            CHECKS.fail(f"activation must be one of {tuple(_ACTIVATIONS)}, got {activation!r}")
        widths = [in_size, *sizes]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias, dtype=dtype) for a, b in itertools.pairwise(widths)
        )
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(rows, sizes[-1]) of (rows, in_size)."""
        given = iter(parameters_in(x.dtype, list(self.layers.parameters())))
        for i, layer in enumerate(self.layers):
            weight = next(given)
            bias = None if layer.bias is None else next(given)
            x = nn.functional.linear(self.activation(x) if i else x, weight, bias)
        return x
