"""Argument checks that the modules share."""

from __future__ import annotations

import torch
from torch import Tensor

from mustafar._core.tensor_checks import TensorChecks, shape_text

checks = TensorChecks("mustafar")
HEAD_DIMS = (64, 96, 128)
MOST_SPARSITY = 0.95


def sparsity(value: float, name: str) -> None:
    checks.number(value, name)
    if not 0 <= value <= MOST_SPARSITY:
        checks.fail(f"{name} must be from 0 to {MOST_SPARSITY}, got {value}")


def head_dim(value: int, name: str = "head_dim") -> None:
    checks.integer(value, name, 1)
    if value not in HEAD_DIMS:
        checks.fail(f"{name} must be one of {', '.join(map(str, HEAD_DIMS))}, got {value}")


def dtype(value: torch.dtype, device: torch.device, name: str) -> None:
    """What a cache can hold on a device."""
    allowed = (torch.float16, torch.bfloat16) + (torch.float32,) * (device.type == "cpu")
    if value not in allowed:
        names = ", ".join(str(d) for d in allowed)
        checks.fail(f"{name} must be one of {names} on {device.type}, got {value}")


def floating(x: Tensor, name: str, dims: int | None = None) -> None:
    """A tensor of float16, bfloat16 or float32."""
    checks.tensor(x, name)
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        checks.fail(f"{name} must be float16, bfloat16 or float32, got {x.dtype}")
    if dims is not None and x.dim() != dims:
        checks.fail(f"{name} must have {dims} dimensions, got shape {shape_text(x)}")
