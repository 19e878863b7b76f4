"""``x + mat1 mat2`` in Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._addmm_kernels import _addmm_fwd, _addmm_walk
from generative_recommenders.ops.triton._op import kernel_op


def _blocks(x: Tensor) -> dict[str, int]:
    if _launch.INTERPRETED:
        return {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}
    if x.element_size() > 2:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3}
    if _launch.capability(x)[0] == 9:
        return {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 4, "num_stages": 4}


@kernel_op("triton_addmm_fwd")
def triton_addmm_fwd(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """``y + x w``: (m, k), (k, n), and (m, n) or (n,) -> (m, n) of the dtype of x."""
    _launch.on_gpu(x, "x")
    x, w, y = (switch_to_contiguous_if_needed(t) for t in (x, w, y))
    (m, k), n = x.shape, w.shape[1]
    z = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m and n:
        blocks = _blocks(x)
        tiles = cdiv(m, blocks["BLOCK_M"]) * cdiv(n, blocks["BLOCK_N"])
        row = y.dim() == 1
        walks = (row and x.element_size() == 2) or _launch.INTERPRETED
        if walks := walks and _launch.descriptors(x, w, z):
            tiles = min(tiles, _launch.processors(x))
            blocks["ROW"] = row
        (_addmm_walk if walks else _addmm_fwd)[(tiles,)](
            x, w, y, z, m, n, k, x.stride(0), w.stride(0), 0 if row else y.stride(0), z.stride(0),
            UPCAST=_launch.upcast(x), PRECISION=_launch.precision(x), GROUP=8, **blocks,
        )  # fmt: skip
    return z


@triton_addmm_fwd.register_fake
def _(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], w.shape[1]))


def maybe_triton_addmm_fwd(x: Tensor, w: Tensor, y: Tensor | None) -> Tensor:
    """``triton_addmm_fwd``, or ``torch.mm`` without ``y``, or ``torch.addmm`` on AMD's and newer
    GPUs than Hopper."""
    if y is None:
        return torch.mm(x, w)
    if not _launch.INTERPRETED and not (8, 0) <= _launch.capability(x) < (10, 0):
        return torch.addmm(y, x, w)
    result: Tensor = triton_addmm_fwd(x, w, y)
    return result


def triton_addmm_bwd(
    x: Tensor, w: Tensor, dz: Tensor, is_y_1d: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, w and y, by three calls of PyTorch."""
    dy = dz.sum(0) if is_y_1d else dz
    return torch.mm(dz, w.t()), torch.mm(x.t(), dz), dy


class _AddMm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.is_y_1d = y.dim() == 1
        result: Tensor = triton_addmm_fwd(x, w, y)
        return result

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return triton_addmm_bwd(x, w, dz, ctx.is_y_1d)


def triton_addmm(input: Tensor, mat1: Tensor, mat2: Tensor) -> Tensor:
    """``ops.mm.addmm`` by Triton; the arguments are described there."""
    result: Tensor = _AddMm.apply(mat1, mat2, input)
    return result
