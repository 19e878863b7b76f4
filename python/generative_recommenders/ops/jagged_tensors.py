"""Jagged tensors put together, taken apart, multiplied; names, order and defaults are those of
``generative_recommenders.ops.jagged_tensors`` of Meta's package."""

from __future__ import annotations

from torch import Tensor

from generative_recommenders._checks import CHECKS, matrix, offsets, rows
from generative_recommenders.common import HammerKernel, chosen_kernel
from generative_recommenders.ops.pytorch.pt_jagged import pytorch_jagged_dense_bmm_add
from generative_recommenders.ops.pytorch.pt_jagged_tensors import (
    dense_offsets,
    pytorch_concat_2D_jagged,
    pytorch_split_2D_jagged,
)


def _part(
    name: str,
    total: int | None,
    max_len: int | None,
    given: Tensor | None,
    like: Tensor,
    batch: int | None,
) -> tuple[Tensor, int | None]:
    """Checked offsets of a part, made for a dense one, and its sequences (None: not known)."""
    if given is not None:
        offsets(given, f"offsets_{name}", total, like, f"values_{name}")
        return given.long(), given.shape[0] - 1
    CHECKS.integer(max_len, f"max_len_{name} (of a part without offsets_{name})", 0)
    assert max_len is not None
    if batch is None:
        if total is None:
            CHECKS.fail(f"offsets_{name} or the other part's must be given")
        if max_len == 0 or total % max_len:
            CHECKS.fail(
                f"values_{name} must have a multiple of max_len_{name} = {max_len} rows, got "
                f"{total}"
            )
        batch = total // max_len
    if total is not None and total != batch * max_len:
        CHECKS.fail(
            f"values_{name} must have {batch} x max_len_{name} = {batch * max_len} rows, got "
            f"{total}"
        )
    return dense_offsets(max_len, batch, like.device), batch


def _parts(
    totals: tuple[int | None, int | None],
    max_lens: tuple[int | None, int | None],
    given: tuple[Tensor | None, Tensor | None],
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    names = ("left", "right")
    known = next((t.shape[0] - 1 for t in given if t is not None), None)
    found = []
    for name, n, longest, t in zip(names, totals, max_lens, given, strict=True):
        starts, known = _part(name, n, longest, t, like, known)
        found.append(starts)
    if found[0].shape != found[1].shape:
        CHECKS.fail(
            f"offsets_left and offsets_right must agree in their shape, got "
            f"{tuple(found[0].shape)} and {tuple(found[1].shape)}"
        )
    return found[0], found[1]


def concat_2D_jagged(
    max_seq_len: int,
    values_left: Tensor,
    values_right: Tensor,
    max_len_left: int | None = None,
    max_len_right: int | None = None,
    offsets_left: Tensor | None = None,
    offsets_right: Tensor | None = None,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """The rows of each sequence's left part, and behind them those of its right part.

    Args:
        max_seq_len: the longest sequence of the result.
        values_left, values_right: (rows, dim), of one dtype and device; integers, too.
        max_len_left, max_len_right: rows of every sequence of a part without offsets.
        offsets_left, offsets_right: int32 or int64 (batch + 1,), or None for a dense part.
        kernel: what computes it.

    Returns:
        (left rows + right rows, dim).

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    return _concat(
        max_seq_len,
        values_left,
        values_right,
        (max_len_left, max_len_right),
        (offsets_left, offsets_right),
        0,
        kernel,
        "concat_2D_jagged",
    )


def _concat(
    max_seq_len: int,
    left: Tensor,
    right: Tensor,
    max_lens: tuple[int | None, int | None],
    given: tuple[Tensor | None, Tensor | None],
    prefix: int,
    kernel: HammerKernel,
    name: str,
) -> Tensor:
    CHECKS.integer(max_seq_len, "max_seq_len", 0)
    rows(left, "values_left")
    rows(right, "values_right", left, "values_left")
    if left.shape[1] != right.shape[1]:
        CHECKS.fail(
            f"values_left and values_right must have one dim, got {left.shape[1]} and "
            f"{right.shape[1]}"
        )
    starts = _parts((left.shape[0], right.shape[0]), max_lens, given, left)
    taken = chosen_kernel(kernel, name, left, compiled=("concat", None))
    if taken is HammerKernel.PYTORCH:
        return pytorch_concat_2D_jagged(left, right, *starts, prefix)
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled_rows

        both: Tensor = compiled_rows.concat_rows(left, right, *starts, max_seq_len, prefix, False)
        return both
    from generative_recommenders.ops.triton.triton_jagged import triton_concat_2D_jagged

    return triton_concat_2D_jagged(max_seq_len, left, right, *starts, n_prefix_from_right=prefix)


def split_2D_jagged(
    max_seq_len: int,
    values: Tensor,
    total_len_left: int | None = None,
    total_len_right: int | None = None,
    max_len_left: int | None = None,
    max_len_right: int | None = None,
    offsets_left: Tensor | None = None,
    offsets_right: Tensor | None = None,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> tuple[Tensor, Tensor]:
    """The inverse of ``concat_2D_jagged``.

    Args:
        max_seq_len, max_len_*, offsets_*: as there.
        values: (rows, dim).
        total_len_left, total_len_right: rows of a part (None: read from its offsets, or what the
            other leaves).
        kernel: what computes it.

    Returns:
        (left rows, dim), (right rows, dim).

    Raises:
        as ``concat_2D_jagged``.
    """
    return _split(
        max_seq_len,
        values,
        (total_len_left, total_len_right),
        (max_len_left, max_len_right),
        (offsets_left, offsets_right),
        0,
        kernel,
        "split_2D_jagged",
    )


def _split(
    max_seq_len: int,
    values: Tensor,
    totals: tuple[int | None, int | None],
    max_lens: tuple[int | None, int | None],
    given: tuple[Tensor | None, Tensor | None],
    prefix: int,
    kernel: HammerKernel,
    name: str,
) -> tuple[Tensor, Tensor]:
    CHECKS.integer(max_seq_len, "max_seq_len", 0)
    rows(values, "values")
    if given[0] is None and given[1] is None:
        CHECKS.fail("offsets_left or offsets_right must be given, got None for both")
    starts = _parts((None, None), max_lens, given, values)
    left, right = totals
    if left is None:
        left = values.shape[0] - right if right is not None else int(starts[0][-1])
    right = values.shape[0] - left if right is None else right
    if left < 0 or right < 0 or left + right != values.shape[0]:
        CHECKS.fail(
            f"values must have the {left} + {right} rows of its parts, got {values.shape[0]}"
        )
    taken = chosen_kernel(kernel, name, values, compiled=("split", None))
    if taken is HammerKernel.PYTORCH:
        return pytorch_split_2D_jagged(values, left, right, *starts, prefix)
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled_rows

        a, b = compiled_rows.split_rows(values, left, right, *starts, max_seq_len, prefix, False)
        return a, b
    from generative_recommenders.ops.triton.triton_jagged import split_rows

    return split_rows(max_seq_len, values, left, right, *starts, prefix)


def hstu_split_l2_embeddings(
    max_seq_len: int,
    x: Tensor,
    prefix_offsets: Tensor,
    l2_offsets: Tensor,
    contextual_seq_len: int,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> tuple[Tensor, Tensor]:
    """The rows between the contextual ones and the last ones, and all others.

    Args:
        max_seq_len: the longest sequence of x.
        x: (rows, dim).
        prefix_offsets, l2_offsets: (batch + 1,), of the two results.
        contextual_seq_len: the first so many rows of each sequence go to the second result.
        kernel: what computes it.

    Returns:
        (prefix rows, dim), (l2 rows, dim).
    """
    CHECKS.integer(contextual_seq_len, "contextual_seq_len", 0)
    return _split(
        max_seq_len,
        x,
        (None, None),
        (None, None),
        (prefix_offsets, l2_offsets),
        contextual_seq_len,
        kernel,
        "hstu_split_l2_embeddings",
    )


def hstu_concat_l2_embeddings(
    max_prefix_len: int,
    prefix_x: Tensor,
    prefix_offsets: Tensor,
    max_l2_len: int,
    l2_x: Tensor,
    l2_offsets: Tensor,
    contextual_seq_len: int,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """The inverse of ``hstu_split_l2_embeddings``: (prefix rows + l2 rows, dim)."""
    CHECKS.integer(contextual_seq_len, "contextual_seq_len", 0)
    CHECKS.integer(max_prefix_len, "max_prefix_len", 0)
    CHECKS.integer(max_l2_len, "max_l2_len", 0)
    return _concat(
        max_prefix_len + max_l2_len,
        prefix_x,
        l2_x,
        (None, None),
        (prefix_offsets, l2_offsets),
        contextual_seq_len,
        kernel,
        "hstu_concat_l2_embeddings",
    )


def jagged_dense_bmm_broadcast_add(
    max_seq_len: int,
    seq_offsets: Tensor,
    jagged: Tensor,
    dense: Tensor,
    bias: Tensor,
    kernel: HammerKernel = HammerKernel.PYTORCH,
) -> Tensor:
    """Each sequence's rows times its matrix, plus its row.

    Args:
        max_seq_len: the longest sequence.
        seq_offsets: int32 or int64 (batch + 1,).
        jagged: (rows, k).
        dense: (batch, k, n).
        bias: (batch, n).
        kernel: what computes it.

    Returns:
        (rows, n).

    Raises:
        as ``concat_2D_jagged``.
    """
    CHECKS.integer(max_seq_len, "max_seq_len", 1)
    matrix(jagged, "jagged")
    offsets(seq_offsets, "seq_offsets", jagged.shape[0], jagged, "jagged")
    batch = seq_offsets.shape[0] - 1
    for t, name, shape in (
        (dense, "dense", (batch, jagged.shape[1], dense.shape[-1])),
        (bias, "bias", (batch, dense.shape[-1])),
    ):
        CHECKS.like(t, name, jagged, "jagged")
        if tuple(t.shape) != shape:
            CHECKS.fail(f"{name} must have shape {shape}, got {tuple(t.shape)}")
    name = "jagged_dense_bmm_broadcast_add"
    taken = chosen_kernel(kernel, name, jagged, compiled=("bmm", None))
    if taken is HammerKernel.PYTORCH:
        return pytorch_jagged_dense_bmm_add(max_seq_len, seq_offsets, jagged, dense, bias)
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled_rows

        starts = seq_offsets.long()
        out: Tensor = compiled_rows.jagged_bmm(starts, jagged, dense, bias, max_seq_len)
        return out
    from generative_recommenders.ops.triton.triton_jagged import triton_jagged_dense_bmm_add

    return triton_jagged_dense_bmm_add(max_seq_len, seq_offsets, jagged, dense, bias)


def concat_2D_jagged_multirow(
    max_seq_len: int,
    values_left: Tensor,
    values_right: Tensor,
    offsets_left: Tensor | None,
    offsets_right: Tensor | None,
    max_len_left: int | None,
    max_len_right: int | None,
    kernel: HammerKernel = HammerKernel.TRITON,
) -> Tensor:
    """``concat_2D_jagged``, whose kernel moves several rows at a time already."""
    return concat_2D_jagged(
        max_seq_len,
        values_left,
        values_right,
        max_len_left,
        max_len_right,
        offsets_left,
        offsets_right,
        kernel,
    )


def split_2D_jagged_multirow(
    max_seq_len: int,
    values: Tensor,
    total_len_left: int | None = None,
    total_len_right: int | None = None,
    max_len_left: int | None = None,
    max_len_right: int | None = None,
    offsets_left: Tensor | None = None,
    offsets_right: Tensor | None = None,
    kernel: HammerKernel = HammerKernel.TRITON,
) -> tuple[Tensor, Tensor]:
    """``split_2D_jagged``, whose kernel moves several rows at a time already."""
    return split_2D_jagged(
        max_seq_len,
        values,
        total_len_left,
        total_len_right,
        max_len_left,
        max_len_right,
        offsets_left,
        offsets_right,
        kernel,
    )
