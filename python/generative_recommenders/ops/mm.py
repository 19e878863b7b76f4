"""``input + mat1 mat2``; name, order and defaults are those of Meta's
``generative_recommenders.ops.mm``."""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS, matrix
from generative_recommenders.common import HammerKernel, chosen_kernel


def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """The product of two matrices added to a matrix, or to a row for every row.

    Args:
        input: (m, n) or (n,).
        mat1: (m, k).
        mat2: (k, n), of one dtype and device with it.
        kernel: what computes it.

    Returns:
        (m, n).

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    matrix(mat1, "mat1")
    matrix(mat2, "mat2", mat1, "mat1")
    CHECKS.like(input, "input", mat1, "mat1")
    if mat2.shape[0] != mat1.shape[1]:
        CHECKS.fail(f"mat2 must have {mat1.shape[1]} rows, got shape {tuple(mat2.shape)}")
    shape = (mat1.shape[0], mat2.shape[1])
    wanted = shape if input.dim() == 2 else shape[1:]  # torch.compile knows no "in" of symbols
    if input.dim() not in (1, 2) or tuple(input.shape) != wanted:
        CHECKS.fail(f"input must have shape {shape} or {shape[1:]}, got {tuple(input.shape)}")
    taken = chosen_kernel(kernel, "addmm", mat1, compiled=("addmm", None))
    if taken is HammerKernel.PYTORCH:
        return torch.addmm(input, mat1, mat2)
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled_rows

        result: Tensor = compiled_rows.addmm(input, mat1, mat2)
        return result
    from generative_recommenders.ops.triton.triton_addmm import triton_addmm

    return triton_addmm(input, mat1, mat2)
