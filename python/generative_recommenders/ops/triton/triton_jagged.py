"""Jagged rows put together, taken apart and multiplied, in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.pytorch.pt_jagged import pytorch_jagged_dense_broadcast_add
from generative_recommenders.ops.pytorch.pt_jagged_tensors import both_offsets
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._bmm import jagged_bmm, jagged_outer, jagged_sum
from generative_recommenders.ops.triton._jagged_kernels import _move_rows
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._toggles import toggle


def _move(
    longest: int,
    a: Tensor,
    b: Tensor,
    both: Tensor,
    offsets_a: Tensor,
    offsets_b: Tensor,
    prefix: int,
    join: bool,
    replace: bool,
) -> None:
    _launch.on_gpu(both, "values")
    batch, dim = offsets_a.shape[0] - 1, both.shape[1]
    if batch == 0 or longest == 0 or dim == 0 or both.shape[0] == 0:
        return
    block_d = min(triton.next_power_of_2(dim), 1024)
    block = 16 if _launch.INTERPRETED else max(1, 8192 // block_d)
    _move_rows[(batch, cdiv(longest, block), cdiv(dim, block_d))](
        a, b, both, offsets_a, offsets_b, a.stride(0), b.stride(0), both.stride(0), prefix,
        dim, int(replace), BLOCK_D=block_d, BLOCK=block, JOIN=join, num_warps=8,
    )  # fmt: skip


@kernel_op("triton_concat_2D_jagged")
def _join_op(
    longest: int,
    a: Tensor,
    b: Tensor,
    offsets_a: Tensor,
    offsets_b: Tensor,
    prefix: int,
    replace: bool,
) -> Tensor:
    rows = a.shape[0] if replace else a.shape[0] + b.shape[0]
    both = torch.empty((rows, a.shape[1]), dtype=a.dtype, device=a.device)
    _move(longest, a, b, both, offsets_a, offsets_b, prefix, True, replace)
    return both


@_join_op.register_fake
def _(
    longest: int,
    a: Tensor,
    b: Tensor,
    offsets_a: Tensor,
    offsets_b: Tensor,
    prefix: int,
    replace: bool,
) -> Tensor:
    return a.new_empty((a.shape[0] if replace else a.shape[0] + b.shape[0], a.shape[1]))


@kernel_op("triton_split_2D_jagged")
def _part_op(
    longest: int,
    both: Tensor,
    rows_a: int,
    rows_b: int,
    offsets_a: Tensor,
    offsets_b: Tensor,
    prefix: int,
    replace: bool,
) -> tuple[Tensor, Tensor]:
    def empty(rows: int) -> Tensor:
        make = torch.zeros if replace else torch.empty
        return make((rows, both.shape[1]), dtype=both.dtype, device=both.device)

    a, b = empty(rows_a), empty(rows_b)
    _move(longest, a, b, both, offsets_a, offsets_b, prefix, False, replace)
    return a, b


@_part_op.register_fake
def _(
    longest: int,
    both: Tensor,
    rows_a: int,
    rows_b: int,
    offsets_a: Tensor,
    offsets_b: Tensor,
    prefix: int,
    replace: bool,
) -> tuple[Tensor, Tensor]:
    return both.new_empty((rows_a, both.shape[1])), both.new_empty((rows_b, both.shape[1]))


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, rest: tuple[Any, ...]) -> Tensor:
        longest, offsets_a, offsets_b, prefix, replace = rest
        ctx.save_for_backward(offsets_a, offsets_b)
        ctx.rest = (longest, a.shape[0], b.shape[0], prefix, replace)
        result: Tensor = _join_op(longest, a, b, offsets_a, offsets_b, prefix, replace)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        longest, rows_a, rows_b, prefix, replace = ctx.rest
        grad = switch_to_contiguous_if_needed(grad)
        return (*_part_op(longest, grad, rows_a, rows_b, *ctx.saved_tensors, prefix, replace), None)


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor, rest: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        longest, rows_a, rows_b, offsets_a, offsets_b, prefix = rest
        ctx.save_for_backward(offsets_a, offsets_b)
        ctx.rest = (longest, prefix)
        a, b = _part_op(longest, both, rows_a, rows_b, offsets_a, offsets_b, prefix, False)
        return a, b

    @staticmethod
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor | None, ...]:
        longest, prefix = ctx.rest
        grads = [switch_to_contiguous_if_needed(g) for g in (grad_a, grad_b)]
        return _join_op(longest, *grads, *ctx.saved_tensors, prefix, False), None


def triton_concat_2D_jagged(
    max_seq_len: int,
    values_a: Tensor,
    values_b: Tensor,
    offsets_a: Tensor | None = None,
    offsets_b: Tensor | None = None,
    is_replace: bool = False,
    n_prefix_from_right: int = 0,
) -> Tensor:
    """``ops.jagged_tensors.concat_2D_jagged`` by Triton.

    A part without offsets is dense: with one matrix of rows a sequence (rows / batch), where the
    other part's offsets say how many there are. With ``is_replace`` the last rows of a are replaced
    by those of b; ``n_prefix_from_right`` rows of b come before a.
    """
    a, b = switch_to_contiguous_if_needed(values_a), switch_to_contiguous_if_needed(values_b)
    offsets = _offsets(offsets_a, offsets_b, a.shape[0], b.shape[0], a.device)
    rest = (max_seq_len, *offsets, n_prefix_from_right, is_replace)
    result: Tensor = _Join.apply(a, b, rest)
    return result


def _offsets(
    offsets_a: Tensor | None,
    offsets_b: Tensor | None,
    rows_a: int,
    rows_b: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    given = offsets_a if offsets_a is not None else offsets_b
    if given is None:
        CHECKS.fail("offsets_a or offsets_b must be given, got None for both")
    batch = given.shape[0] - 1
    most = max(batch, 1)
    return both_offsets(offsets_a, offsets_b, rows_a // most, rows_b // most, device, batch)


def split_rows(
    max_seq_len: int,
    values: Tensor,
    rows_a: int,
    rows_b: int,
    offsets_a: Tensor,
    offsets_b: Tensor,
    n_prefix_to_right: int = 0,
) -> tuple[Tensor, Tensor]:
    """The inverse of ``triton_concat_2D_jagged``: (rows_a, dim) and (rows_b, dim)."""
    values = switch_to_contiguous_if_needed(values)
    rest = (max_seq_len, rows_a, rows_b, offsets_a.long(), offsets_b.long(), n_prefix_to_right)
    a, b = _Part.apply(values, rest)
    return a, b


def triton_split_2D_jagged(
    values: Tensor,
    max_seq_len: int,
    offsets_a: Tensor | None = None,
    offsets_b: Tensor | None = None,
    dense_size: int = 0,
    n_prefix_to_right: int = 0,
    seq_len_a: int | None = None,
    seq_len_b: int | None = None,
    total_seq_len: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``ops.jagged_tensors.split_2D_jagged`` by Triton. A part without offsets is dense, of
    ``dense_size`` rows; ``seq_len_a`` and ``seq_len_b`` are the rows of the parts (None: from the
    offsets, read on the host), ``total_seq_len`` those of both."""
    rows = values.shape[0] if total_seq_len is None else total_seq_len
    given = offsets_a if offsets_a is not None else offsets_b
    if given is None:
        CHECKS.fail("offsets_a or offsets_b must be given, got None for both")
    batch = given.shape[0] - 1
    a, b = both_offsets(offsets_a, offsets_b, dense_size, dense_size, values.device, batch)
    if seq_len_a is None:
        seq_len_a = rows - seq_len_b if seq_len_b is not None else int(a[-1])
    return split_rows(max_seq_len, values, seq_len_a, rows - seq_len_a, a, b, n_prefix_to_right)


class _Bmm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        jagged: Tensor,
        dense: Tensor,
        bias: Tensor | None,
        longest: int,
        offsets: Tensor,
        kind: str,
    ) -> Tensor:
        ctx.save_for_backward(jagged, dense, offsets)
        ctx.rest = (longest, kind)
        result: Tensor = jagged_bmm(longest, offsets, jagged, dense, bias, kind)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        jagged, dense, offsets = ctx.saved_tensors
        longest, kind = ctx.rest
        d_jagged = jagged_bmm(longest, offsets, grad, dense.transpose(1, 2), None, "none")
        d_dense = jagged_outer(longest, offsets, jagged, grad)
        d_bias = jagged_sum(longest, offsets, grad) if kind == "sequence" else None
        return d_jagged, d_dense, grad if kind == "row" else d_bias, None, None, None


class _BroadcastAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, jagged: Tensor, dense: Tensor, longest: int, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        ctx.longest = longest
        return pytorch_jagged_dense_broadcast_add(longest, offsets, jagged, dense)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        return grad, jagged_sum(ctx.longest, offsets, grad), None, None


def triton_jagged_dense_bmm(
    max_seq_len: int, seq_offsets: Tensor, jagged: Tensor, dense: Tensor
) -> Tensor:
    """Each sequence's rows times its matrix: (rows, k) and (batch, k, n) -> (rows, n); zeros for
    rows of a sequence beyond ``max_seq_len``."""
    result: Tensor = _Bmm.apply(jagged, dense, None, max_seq_len, seq_offsets, "none")
    return result


def triton_jagged_dense_bmm_add(
    max_seq_len: int,
    seq_offsets: Tensor,
    jagged: Tensor,
    dense: Tensor,
    bias: Tensor,
    elementwise: bool = False,
) -> Tensor:
    """The product, and then ``bias``: (batch, n) for each sequence, or with ``elementwise``
    (rows, n) for each row."""
    kind = "row" if elementwise else "sequence"
    result: Tensor = _Bmm.apply(jagged, dense, bias, max_seq_len, seq_offsets, kind)
    return result


def triton_jagged_dense_broadcast_add(
    max_seq_len: int, seq_offsets: Tensor, jagged: Tensor, dense: Tensor
) -> Tensor:
    """Each sequence's row of ``dense`` (batch, k) added to all its rows (rows, k); the sum of its
    gradient is a kernel."""
    _launch.on_gpu(jagged, "jagged")
    result: Tensor = _BroadcastAdd.apply(jagged, dense, max_seq_len, seq_offsets)
    return result


def triton_concat_2D_jagged_jagged(
    max_seq_len_left: int,
    offsets_left: Tensor,
    values_left: Tensor,
    max_seq_len_right: int,
    offsets_right: Tensor,
    values_right: Tensor,
    is_replace: bool = False,
    n_prefix_from_right: int = 0,
) -> Tensor:
    """``triton_concat_2D_jagged`` of two parts that have offsets."""
    longest = max_seq_len_left + (0 if is_replace else max_seq_len_right)
    parts = (values_left, values_right, offsets_left, offsets_right)
    return triton_concat_2D_jagged(longest, *parts, is_replace, n_prefix_from_right)


def triton_concat_2D_dense_jagged(
    jagged_max_seq_len: int, jagged_offsets: Tensor, jagged_values: Tensor, dense_values: Tensor
) -> Tensor:
    """Each sequence's matrix of ``dense_values`` (batch, length, dim), and its jagged rows."""
    longest = dense_values.shape[1] + jagged_max_seq_len
    dense = dense_values.flatten(0, 1)
    return triton_concat_2D_jagged(longest, dense, jagged_values, offsets_b=jagged_offsets)


_ONE = "there is one kernel"
_PRODUCT = "products of jagged rows are Triton's, and no CUDA kernel stands beside them"
set_cuda_jagged_dense_bmm_fwd, get_cuda_jagged_dense_bmm_fwd = toggle(
    "cuda_jagged_dense_bmm_fwd", False, _PRODUCT
)
set_cuda_jagged_dense_bmm_bwd, get_cuda_jagged_dense_bmm_bwd = toggle(
    "cuda_jagged_dense_bmm_bwd", False, _PRODUCT
)
set_split_2d_jagged_kernel, get_split_2d_jagged_kernel = toggle(
    "split_2d_jagged_kernel", None, _ONE
)
set_concat_2d_jagged_kernel, get_concat_2d_jagged_kernel = toggle(
    "concat_2d_jagged_kernel", None, _ONE
)
set_gln_mul_dropout_kernel, get_gln_mul_dropout_kernel = toggle(
    "gln_mul_dropout_kernel", None, _ONE
)
set_split_concat_2d_jagged_multirow_kernel, get_split_concat_2d_jagged_multirow_kernel = toggle(
    "split_concat_2d_jagged_multirow_kernel", None, "the kernel moves several rows at a time anyway"
)
