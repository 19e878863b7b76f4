"""Between TorchRec's words and ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamicemb.optimizer import EmbOptimType
from dynamicemb.types import enum_of

CUSTOMIZED = "customized_kernel"


def checked_params(fused_params: Any) -> dict[str, Any]:
    """A copy; an optimizer that is none of ours is named. FBGEMM's of the same name are taken."""
    params = dict(fused_params or {})
    if "optimizer" in params:
        enum_of(EmbOptimType, params["optimizer"], "optimizer")
    return params


def sharding_types(theirs: list[str], ours: Iterable[str]) -> list[str]:
    """TorchRec leaves row-wise out on the CPU, where it runs, too."""
    return [*theirs, *(one for one in ours if one not in theirs)]


def kernels(theirs: list[str]) -> list[str]:
    return [*theirs, CUSTOMIZED] if CUSTOMIZED not in theirs else theirs
