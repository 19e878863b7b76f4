"""The checks that every module takes: of accel_core, in this package's name."""

from __future__ import annotations

from typing import Any

from dynamicemb._core.tensor_checks import TensorChecks

checks = TensorChecks("dynamicemb")
MOST = 2**63 - 1


def whole(value: Any, name: str, least: int) -> None:
    """An int of ``least`` or more that the kernels can hold."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        checks.fail(f"{name} must be an int >= {least}, got {value!r}")
    if value > MOST:
        checks.fail(f"{name} must be an int <= {MOST}, got {value}")
