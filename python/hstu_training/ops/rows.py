"""Rows of a matrix that are all different, written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def put_rows(target: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``target[rows] = values``. Each row is written once, so there is nothing to be gained by what
    PyTorch's deterministic mode does on a GPU: it sorts them first, in a dozen launches."""
    asked = torch.are_deterministic_algorithms_enabled()
    if not asked or not target.is_cuda:
        return target.index_copy_(0, rows, values)
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    switch: Any = torch._C._set_deterministic_algorithms
    switch(False)
    try:
        return target.index_copy_(0, rows, values)
    finally:
        switch(asked, warn_only=warns)


def add_rows(target: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``target[rows] += values``."""
    return put_rows(target, rows, target.index_select(0, rows).add_(values))
