"""What ``torch.autocast`` does to the tensors of torch's own ops, for ops that are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast_dtype(like: object) -> torch.dtype | None:
    """The dtype that autocast gives to tensors on the device of ``like``; None where it is off."""
    if not torch._C._is_any_autocast_enabled() or not isinstance(like, Tensor):
        return None
    device = like.device.type
    if device not in ("cuda", "cpu") or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def lowered(t: Any, dtype: torch.dtype) -> Any:
    """``t`` in that dtype if it is a floating-point tensor, but for float64."""
    if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64:
        return t.to(dtype)
    return t
