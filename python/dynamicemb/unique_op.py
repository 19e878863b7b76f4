"""Distinct keys of a batch."""

from __future__ import annotations

from torch import Tensor

from dynamicemb.ops import ops


def segmented_unique(
    keys: Tensor, offsets: Tensor, frequencies: Tensor | None = None, counted: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The distinct keys of each table, in the order of their first occurrence.

    Args:
        keys: (n) int64, table by table.
        offsets: (tables + 1) int64: where each table's keys begin.
        frequencies: (n) int64: how often each counts; None: once.
        counted: whether to count.

    Returns:
        unique (n) of which ``unique_offsets[-1]`` are meant; inverse (n) int32;
        unique_offsets (tables + 1); counts (n), or (0) if not ``counted``.

    Example::

        >>> import torch
        >>> segmented_unique(torch.tensor([5, 7, 5]), torch.tensor([0, 3]))[2].tolist()
        [0, 2]
    """
    unique, inverse, unique_offsets, counts = ops.segmented_unique(
        keys, offsets, frequencies, counted
    )
    return unique, inverse, unique_offsets, counts
