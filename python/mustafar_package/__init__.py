"""The module name of batched sparse products over bitmap-compressed keys and values: see
``mustafar.compression`` for the layout ``tiles`` that they read.

>>> import mustafar_package
"""

from __future__ import annotations

from mustafar import ops
from torch import Tensor

__all__ = ["mustafar_key_formulation", "mustafar_value_formulation"]


def mustafar_key_formulation(
    bmp: Tensor,
    NZ: Tensor,
    idx: Tensor,
    NZ_Offset: Tensor,
    B: Tensor,
    M_Global: int,
    K_Global: int,
    Batch_Size: int,
    num_key_value_groups: int,
) -> Tensor:
    """Queries times compressed keys, unscaled.

    Args:
        bmp: bitmaps (heads, tiles) int64.
        NZ: the values of all heads one behind the other, float16.
        idx: offsets (heads, tiles + 1) int32.
        NZ_Offset: starts of the heads (heads) int32.
        B: (Batch_Size, 8, K_Global) float16; a single query is row 0, the others zero.
        M_Global: tokens, a multiple of 64.
        K_Global: head dim, a multiple of 64.
        Batch_Size: query heads of the batch, heads * num_key_value_groups.
        num_key_value_groups: query heads of a kv head.

    Returns:
        (Batch_Size, 8, M_Global) float16.

    Raises:
        ValueError: B is not of Batch_Size.
        RuntimeError: shapes or dtypes that do not belong together.
    """
    _check_batch(B, Batch_Size)
    heads = (bmp, NZ, idx, NZ_Offset)
    scores: Tensor = ops.tile_keys(*heads, B, M_Global, K_Global, num_key_value_groups)
    return scores


def mustafar_value_formulation(
    bmp: Tensor,
    NZ: Tensor,
    idx: Tensor,
    NZ_Offset: Tensor,
    B: Tensor,
    Reduction_Workspace: Tensor | None,
    M_Global: int,
    K_Global: int,
    Batch_Size: int,
    num_key_value_groups: int,
) -> Tensor:
    """Probabilities times compressed values.

    Args: as ``mustafar_key_formulation``, but
        B: (Batch_Size, 8, K_Global) float16 probabilities.
        Reduction_Workspace: not used: partial sums are float32, in memory of the call's own.
        M_Global: head dim, a multiple of 64.
        K_Global: tokens, a multiple of 64.

    Returns:
        (Batch_Size, 8, M_Global) float16.
    """
    _check_batch(B, Batch_Size)
    heads = (bmp, NZ, idx, NZ_Offset)
    out: Tensor = ops.tile_values(*heads, B, K_Global, M_Global, num_key_value_groups)
    return out


def _check_batch(b: Tensor, batch: int) -> None:
    if b.dim() != 3 or b.shape[0] != batch:
        raise ValueError(
            f"mustafar_package: B must be (Batch_Size = {batch}, 8, ...), got {tuple(b.shape)}"
        )
