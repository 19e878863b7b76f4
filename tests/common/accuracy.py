"""When a result of low precision is right."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_accurate(name: str, got: Tensor, exact: Tensor, plain: Tensor, *, factor: float) -> None:
    """``got`` errs at most ``factor`` times as much as ``plain``, both measured against ``exact``.

    ``exact`` is the reference in float32 or float64, ``plain`` the same program computed in the
    dtype of ``got``. Where that happens to be (nearly) exact, one rounding of the largest value
    counts.
    """
    assert got.shape == exact.shape, name
    assert got.dtype == plain.dtype, name
    assert torch.isfinite(got).all(), f"{name} is not finite"
    if got.numel() == 0:
        return
    rounding = torch.finfo(plain.dtype).eps / 2 * exact.abs().max().item()
    error = (got.to(exact.dtype) - exact).abs().max().item()
    allowed = max((plain.to(exact.dtype) - exact).abs().max().item(), rounding)
    assert error <= factor * allowed, f"{name}: error {error}, allowed {factor} x {allowed}"
