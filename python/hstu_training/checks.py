"""Errors of this package name the argument, its value and what is allowed."""

from __future__ import annotations

from hstu_training._core.tensor_checks import TensorChecks

CHECKS = TensorChecks("hstu_training")
