"""More of ``ops.compiled``: jagged rows, products, embeddings of place and time, the projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generative_recommenders._core.ops import no_gradient, op
from generative_recommenders.ops.compiled import PACKAGE
from generative_recommenders.ops.pieces import in_pieces, of_pieces

_twice = no_gradient("hstu_triton: there is no second derivative")


def _concat_fake(a: Any) -> Tensor:
    rows = a.a.shape[0] if a.replace else a.a.shape[0] + a.b.shape[0]
    out: Tensor = a.a.new_empty((rows, a.a.shape[1]))
    return out


def _split_fake(a: Any) -> tuple[Tensor, Tensor]:
    dim = a.both.shape[1]
    return a.both.new_empty((a.rows_a, dim)), a.both.new_empty((a.rows_b, dim))


def _concat_gradients(a: Any, needed: tuple[bool, ...], grad: Tensor) -> tuple[Any, ...]:
    rest = (a.offsets_a, a.offsets_b, a.longest, a.prefix, a.replace)
    return tuple(split_rows(grad, a.a.shape[0], a.b.shape[0], *rest))


def _split_gradients(
    a: Any, needed: tuple[bool, ...], grad_a: Tensor, grad_b: Tensor
) -> tuple[Any, ...]:
    rest = (a.offsets_a, a.offsets_b, a.longest, a.prefix, a.replace)
    return (concat_rows(grad_a, grad_b, *rest),)


concat_rows = op(
    PACKAGE,
    "concat_rows",
    fake=_concat_fake,
    backward=_concat_gradients,
    gradients=("a", "b"),
)
split_rows = op(
    PACKAGE, "split_rows", fake=_split_fake, backward=_split_gradients, gradients=("both",)
)


def _product_fake(a: Any) -> Tensor:
    out: Tensor = a.jagged.new_empty((a.jagged.shape[0], a.dense.shape[2]))
    return out


def _product_bwd_fake(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    dj, dw, db = (t.new_empty(t.shape) for t in (a.jagged, a.dense, a.bias))
    return dj, dw, db


def _product_gradients(a: Any, needed: tuple[bool, ...], dout: Tensor) -> tuple[Any, ...]:
    return tuple(jagged_bmm_bwd(dout, *a))


jagged_bmm = op(
    PACKAGE,
    "jagged_bmm",
    fake=_product_fake,
    backward=_product_gradients,
    gradients=("jagged", "dense", "bias"),
)
jagged_bmm_bwd = op(
    PACKAGE,
    "jagged_bmm_bwd",
    fake=_product_bwd_fake,
    backward=_twice,
    gradients=("dout", "jagged", "dense", "bias"),
)


def _addmm_fake(a: Any) -> Tensor:
    out: Tensor = a.mat1.new_empty((a.mat1.shape[0], a.mat2.shape[1]))
    return out


def _addmm_gradients(a: Any, needed: tuple[bool, ...], dz: Tensor) -> tuple[Any, ...]:
    dy = dz.sum(0) if a.input.dim() == 1 else dz
    return dy, torch.mm(dz, a.mat2.t()), torch.mm(a.mat1.t(), dz)


addmm = op(
    PACKAGE,
    "addmm",
    fake=_addmm_fake,
    backward=_addmm_gradients,
    gradients=("input", "mat1", "mat2"),
)


def _places_fake(a: Any) -> tuple[Tensor, Tensor, Tensor]:
    places = a.x.new_empty((a.x.shape[0],), dtype=torch.int32)
    return a.x.new_empty(a.x.shape), places, torch.empty_like(places)


def _sum_fake(a: Any) -> Tensor:
    shape = (a.starts.shape[0] - 1, a.grad.shape[1])
    out: Tensor = a.grad.new_empty(shape, dtype=torch.float32)
    return out


add_embeddings = op(
    PACKAGE,
    "add_embeddings",
    fake=_places_fake,
    backward=_twice,
    gradients=("x", "positions", "ages"),
)
sum_of_rows = op(PACKAGE, "sum_of_rows", fake=_sum_fake, backward=_twice, gradients=("grad",))


def _table_gradient(grad: Tensor, index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """For each row of a table the sum of those of ``grad`` that took it."""
    order, starts, ends = in_pieces(index, rows)
    return of_pieces(sum_of_rows(grad, order, starts), ends).to(dtype)


class _Places(torch.autograd.Function):
    """The backward needs which rows of the tables were taken, which the op returns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, positions: Tensor, ages: Tensor, *rest: Any) -> Tensor:
        offsets, lengths, targets, times, *numbers = rest
        tables = (positions.float(), ages.float())
        out, *taken = add_embeddings(x, offsets, lengths, targets, *tables, times, *numbers)
        ctx.save_for_backward(*taken)
        ctx.tables = [(t.shape[0], t.dtype) for t in (positions, ages)]
        ctx.alpha = numbers[-1]
        result: Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.tables, strict=True)
        tables = (_table_gradient(grad, index, *table) for index, table in pairs)
        return (grad if ctx.alpha == 1.0 else grad * ctx.alpha, *tables, *(None,) * 9)


def add_timestamp_positional_embeddings(
    x: Tensor,
    seq_offsets: Tensor,
    positions: Tensor,
    ages: Tensor,
    timestamps: Tensor,
    max_seq_len: int,
    contextual: int,
    seq_lengths: Tensor,
    num_targets: Tensor | None,
    interleave_targets: bool,
    time_bucket_fn: str,
    alpha: float = 1.0,
) -> Tensor:
    """``ops.position``'s function; the arguments are described there."""
    targets = None if num_targets is None else num_targets.long()
    indices = (seq_offsets.long(), seq_lengths.long(), targets, timestamps.long().contiguous())
    step, sqrt = 2 if interleave_targets else 1, time_bucket_fn == "sqrt"
    numbers = (max_seq_len, contextual, step, sqrt, float(alpha))
    result: Tensor = _Places.apply(x, positions, ages, *indices, *numbers)  # type: ignore[no-untyped-call]
    return result


def _silu_fake(a: Any) -> Tensor:
    out: Tensor = a.x.new_empty(a.x.shape)
    return out


def _silu_bwd_fake(a: Any) -> tuple[Tensor, Tensor]:
    return a.x.new_empty(a.x.shape), a.bias.new_empty(a.bias.shape)


bias_silu = op(PACKAGE, "bias_silu", fake=_silu_fake, backward=_twice, gradients=("x", "bias"))
bias_silu_bwd = op(
    PACKAGE,
    "bias_silu_bwd",
    fake=_silu_bwd_fake,
    backward=_twice,
    gradients=("du", "dv", "dq", "dk", "x", "bias"),
)


class _SplitSilu(torch.autograd.Function):
    """One buffer forward, one backward: autograd of its four views would put it together."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, values: int, keys: int, silu: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, bias)
        ctx.silu = silu
        return torch.split(bias_silu(x, bias, silu), [values, values, keys, keys], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, db = bias_silu_bwd(*grads, *ctx.saved_tensors, ctx.silu)
        return dx, db, None, None, None


def split_silu(
    x: Tensor, bias: Tensor, values: int, keys: int, silu: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``x + bias``, SiLU of its first ``silu`` columns, taken apart.

    Args:
        x: (rows, 2 values + 2 keys), a product.
        bias: (2 values + 2 keys,) of the dtype of x.
        values, keys: the columns of u and v, of q and k.
        silu: how many columns from the left; all of them or those of u.

    Returns:
        u, v (rows, values), q, k (rows, keys): views of one buffer.
    """
    u, v, q, k = _SplitSilu.apply(x, bias, values, keys, silu)  # type: ignore[no-untyped-call]
    return u, v, q, k
