"""The gated product of SwiGLU in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pytorch_swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor) -> Tensor:
    """``silu(x w_gateᵀ) * (x w_upᵀ)``: (rows, k) and twice (n, k) -> (rows, n)."""
    return F.silu(F.linear(x, w_gate)) * F.linear(x, w_up)
