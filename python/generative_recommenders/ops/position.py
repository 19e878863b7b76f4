"""Embeddings of place and time; name, order and defaults are those of
``generative_recommenders.ops.position`` of Meta's package."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from generative_recommenders._checks import CHECKS, indices, matrix, offsets
from generative_recommenders.common import HammerKernel, chosen_kernel
from generative_recommenders.ops.pytorch.pt_position import (
    pytorch_add_timestamp_positional_embeddings,
)


def add_timestamp_positional_embeddings(
    alpha: float,
    max_seq_len: int,
    max_contextual_seq_len: int,
    position_embeddings_weight: Tensor,
    timestamp_embeddings_weight: Tensor,
    seq_offsets: Tensor,
    seq_lengths: Tensor,
    seq_embeddings: Tensor,
    timestamps: Tensor,
    num_targets: Tensor | None,
    interleave_targets: bool,
    time_bucket_fn: str = "sqrt",
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """``alpha * seq_embeddings`` plus a row for the place and one for the age of each row.

    Places count back from the end of the history, behind ``max_contextual_seq_len`` places that
    count from the start; all targets share one. The age in minutes before the sequence's last row
    goes through ``time_bucket_fn`` and is cut to the rows of its table.

    Args:
        alpha: scale of the rows.
        max_seq_len: the longest sequence.
        max_contextual_seq_len: contextual rows at the start of each sequence.
        position_embeddings_weight: (places, dim).
        timestamp_embeddings_weight: (buckets, dim).
        seq_offsets: int32 or int64 (batch + 1,).
        seq_lengths: int32 or int64 (batch,).
        seq_embeddings: (rows, dim).
        timestamps: (rows,), seconds.
        num_targets: int32 or int64 (batch,), or None.
        interleave_targets: each target has two rows.
        time_bucket_fn: "sqrt" or "log".
        kernel: what computes it.

    Returns:
        (rows, dim) of the dtype of seq_embeddings; gradients for it and both tables.

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    CHECKS.number(alpha, "alpha")
    CHECKS.integer(max_seq_len, "max_seq_len", 1)
    CHECKS.integer(max_contextual_seq_len, "max_contextual_seq_len", 0)
    CHECKS.boolean(interleave_targets, "interleave_targets")
    if time_bucket_fn not in ("sqrt", "log"):
        CHECKS.fail(f"time_bucket_fn must be 'sqrt' or 'log', got {time_bucket_fn!r}")
    matrix(seq_embeddings, "seq_embeddings")
    rows, dim = seq_embeddings.shape
    offsets(seq_offsets, "seq_offsets", rows, seq_embeddings, "seq_embeddings")
    batch = seq_offsets.shape[0] - 1
    indices(seq_lengths, "seq_lengths", seq_embeddings, "seq_embeddings", batch)
    if num_targets is not None:
        indices(num_targets, "num_targets", seq_embeddings, "seq_embeddings", batch)
    CHECKS.tensor(timestamps, "timestamps")
    CHECKS.device(timestamps, "timestamps", seq_embeddings, "seq_embeddings")
    if tuple(timestamps.shape) != (rows,):
        CHECKS.fail(f"timestamps must have shape ({rows},), got {tuple(timestamps.shape)}")
    for table, name in (
        (position_embeddings_weight, "position_embeddings_weight"),
        (timestamp_embeddings_weight, "timestamp_embeddings_weight"),
    ):
        matrix(table, name)
        CHECKS.device(table, name, seq_embeddings, "seq_embeddings")
        if table.shape[0] < 1 or table.shape[1] != dim:
            CHECKS.fail(f"{name} must have rows of {dim} columns, got {tuple(table.shape)}")
    if batch == 0:
        return seq_embeddings * alpha
    name = "add_timestamp_positional_embeddings"
    compiled = ("position_" + time_bucket_fn, None)
    taken = chosen_kernel(kernel, name, seq_embeddings, compiled=compiled)
    add: Callable[..., Tensor]
    if taken is HammerKernel.PYTORCH:
        add = pytorch_add_timestamp_positional_embeddings
    elif taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops.compiled_rows import (
            add_timestamp_positional_embeddings as add,
        )
    else:
        from generative_recommenders.ops.triton.triton_position import (
            triton_add_timestamp_positional_embeddings as add,
        )

    return add(
        seq_embeddings,
        seq_offsets,
        position_embeddings_weight,
        timestamp_embeddings_weight,
        timestamps,
        max_seq_len,
        max_contextual_seq_len,
        seq_lengths,
        num_targets,
        interleave_targets,
        time_bucket_fn,
        alpha,
    )
