"""Put together and taken apart by Triton, with this module's order of arguments.

``triton_jagged`` has the kernels, and functions of the same names with another order.
"""

from __future__ import annotations

from torch import Tensor

from generative_recommenders.ops.triton import triton_jagged


def triton_concat_2D_jagged(
    values_left: Tensor,
    values_right: Tensor,
    max_len_left: int,
    max_len_right: int,
    offsets_left: Tensor | None,
    offsets_right: Tensor | None,
    n_prefix_from_right: int = 0,
) -> Tensor:
    """``ops.jagged_tensors.concat_2D_jagged`` by Triton; ``max_len_*`` bound its parts."""
    return triton_jagged.triton_concat_2D_jagged(
        max_len_left + max_len_right,
        values_left,
        values_right,
        offsets_left,
        offsets_right,
        n_prefix_from_right=n_prefix_from_right,
    )


def triton_split_2D_jagged(
    max_seq_len: int,
    values: Tensor,
    total_len_left: int | None,
    total_len_right: int | None,
    max_len_left: int | None,
    max_len_right: int | None,
    offsets_left: Tensor | None,
    offsets_right: Tensor | None,
    n_prefix_to_right: int = 0,
) -> tuple[Tensor, Tensor]:
    """``ops.jagged_tensors.split_2D_jagged`` by Triton."""
    return triton_jagged.triton_split_2D_jagged(
        values,
        max_seq_len,
        offsets_left,
        offsets_right,
        (max_len_left if offsets_left is None else max_len_right) or 0,
        n_prefix_to_right,
        total_len_left,
        total_len_right,
    )
