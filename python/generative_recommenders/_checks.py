"""The checker of this package: its errors begin with the package's name."""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders._core.tensor_checks import TensorChecks, shape_text

CHECKS = TensorChecks("generative_recommenders")


def rows(t: Tensor, name: str, like: Tensor | None = None, of: str = "") -> None:
    """``t`` must have two dimensions, and be like ``like`` if that is given."""
    CHECKS.tensor(t, name)
    if t.dim() != 2:
        CHECKS.fail(f"{name} must have two dimensions, got shape {shape_text(t)}")
    if like is not None:
        CHECKS.like(t, name, like, of)


def matrix(t: Tensor, name: str, like: Tensor | None = None, of: str = "") -> None:
    """``rows`` of floating-point numbers."""
    rows(t, name)
    if not t.is_floating_point():
        CHECKS.fail(f"{name} must be a floating-point tensor, got {t.dtype}")
    if like is not None:
        CHECKS.like(t, name, like, of)


def vector(t: Tensor, name: str, size: int, like: Tensor, of: str) -> None:
    """``t`` must hold ``size`` numbers on the device of ``like``."""
    CHECKS.tensor(t, name)
    if t.dim() != 1 or t.shape[0] != size:
        CHECKS.fail(f"{name} must have shape ({size},), got {shape_text(t)}")
    CHECKS.device(t, name, like, of)


def indices(t: Tensor, name: str, like: Tensor, of: str, size: int | None = None) -> None:
    """``t`` must be int32 or int64 of one dimension (of ``size``) on the device of ``like``."""
    CHECKS.tensor(t, name)
    if t.dtype not in (torch.int32, torch.int64):
        CHECKS.fail(f"{name} must be int32 or int64, got {t.dtype}")
    if t.dim() != 1 or (size is not None and t.shape[0] != size):
        wanted = "one dimension" if size is None else f"shape ({size},)"
        CHECKS.fail(f"{name} must have {wanted}, got shape {shape_text(t)}")
    CHECKS.device(t, name, like, of)


def offsets(t: Tensor, name: str, total: int | None, like: Tensor, of: str) -> None:
    """``t`` must be the starts of sequences and the end of the last one: it begins at 0, does not
    fall and ends at ``total``. On a GPU its values are not looked at, which would wait for it."""
    indices(t, name, like, of)
    if t.shape[0] < 1:
        CHECKS.fail(f"{name} must have shape (batch + 1,), got {shape_text(t)}")
    if t.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if type(t) is not Tensor or t.is_meta:
        return
    starts = t.tolist()
    CHECKS.prefix_sums(starts, name, starts[-1] if total is None else total, f"rows of {of}")
    if total is not None and starts[-1] != total:
        CHECKS.fail(f"{name} must end at the {total} rows of {of}, got {name}[-1] = {starts[-1]}")
