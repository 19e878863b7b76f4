"""``dynamicemb_extensions`` on rows that lie in tensors, or at addresses: lookups, sums of
gradients, optimizers, first values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import gather
from dynamicemb.extension_table import DynamicEmbDataType, torch_type
from dynamicemb.extension_updates import (
    dynamic_emb_adagrad_fused,
    dynamic_emb_adam_fused,
    dynamic_emb_rowwise_adagrad_fused,
    dynamic_emb_sgd_fused,
)
from dynamicemb.key_value_table import STATE_WORDS
from dynamicemb.ops import POOLING_NONE, ops
from dynamicemb.optimizer import EmbOptimType, OptimizerArgs, RowOptimizer, padded
from dynamicemb.plain_rows import rows_of_tensor

NO_COMBINER = -1


def _pooling(combiner: int) -> int:
    if combiner not in (NO_COMBINER, 0, 1):
        raise ValueError(
            f"dynamicemb: combiner must be 0 (sum), 1 (mean) or -1 (none), got {combiner!r}"
        )
    return POOLING_NONE if combiner == NO_COMBINER else combiner


def _whole(rows: Tensor) -> Tensor:
    """Rows of a multiple of four values."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % 4)).contiguous()


def lookup_forward(
    src: Tensor, dst: Tensor, offset: Tensor, inverse_idx: Tensor, combiner: int, total_D: int,
    accum_D: int, ev_size: int, num_vec: int, batch_size: int, device_num_sms: int = 0,
) -> None:  # fmt: skip
    """``dst`` (batch, total_D), from column ``accum_D`` on: the pooled rows of a table's features.

    src (unique, ev_size); offset (num_vec + 1): where the bags begin, feature by feature;
    inverse_idx: which row an occurrence is of. Without a combiner: a row for each occurrence.
    """
    pooling = _pooling(combiner)
    features = num_vec // max(batch_size, 1)
    offsets = None if pooling == POOLING_NONE else offset.to(torch.int64).contiguous()
    rows = _whole(src)  # as long as the kernel reads them
    lookup, known = rows_of_tensor(
        rows, ev_size, inverse_idx.int().contiguous(), offsets, features, pooling, dst.dtype
    )
    out = gather(lookup, known, None, False, None)
    if pooling == POOLING_NONE:
        dst[: len(out)] = out
    else:
        dst.view(batch_size, total_D)[:, accum_D : accum_D + out.shape[1]] = out


def _sums(
    grads: Tensor, inverse: Tensor, offsets: Tensor | None, features: int, pooling: int, dim: int,
    unique: int,
) -> Tensor:  # fmt: skip
    """(unique, dim) float32, in the same order in every run."""
    device = grads.device
    some = torch.zeros(max(unique, 1), dim + -dim % 4, device=device)
    lookup, known = rows_of_tensor(
        some, dim, inverse.int().contiguous(), offsets, features, pooling, torch.float32
    )
    where = (*lookup.source(known), *lookup.bags(known, None))
    assert lookup.inverse is not None
    ids, order = ops.sort_rows(lookup.inverse)
    plain = RowOptimizer(EmbOptimType.SGD, OptimizerArgs(), device)
    summed: Tensor = ops.reduce_grads(
        grads.float().contiguous(), *where, None, ids, order, *plain.schema(), dim
    )
    return summed[:unique]


def lookup_backward(
    grad: Tensor, unique_buffer: Tensor, unique_indices: Tensor, inverse_indices: Tensor,
    biased_offsets: Tensor, dim: int, tables_num: int, batch_size: int, num_feature: int,
    num_key: int, combiner: int,
) -> None:  # fmt: skip
    """``unique_buffer`` (unique, dim): the gradient of each distinct row of ``lookup_forward``.

    grad (batch, features * dim); biased_offsets (features * batch + 1).
    """
    pooling = _pooling(combiner)
    offsets = None if pooling == POOLING_NONE else biased_offsets.to(torch.int64).contiguous()
    given = (inverse_indices, offsets, num_feature, pooling, dim, len(unique_indices))
    unique_buffer[: len(unique_indices)] = _sums(grad, *given).to(unique_buffer.dtype)


def reduce_grads(
    indices: Tensor, grads: Tensor, segment_range: Tensor, h_segment_range: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The distinct indices of each segment, in the order of first occurrence, and the sums of
    their gradients; grads (n, dim)."""
    unique, inverse, ends, _ = ops.segmented_unique(
        indices.to(torch.int64).contiguous(), segment_range.to(torch.int64), None, False
    )
    count = int(ends[-1])
    sums = _sums(grads, inverse, None, 1, POOLING_NONE, grads.shape[1], count)
    return unique[:count], sums.to(grads.dtype)


def dedup_input_indices(
    indices: Tensor, offset: Tensor, h_table_offsets_in_feature: Tensor,
    d_table_offsets_in_feature: Tensor, table_num: int, local_batch_size: int, reverse_idx: Tensor,
    h_unique_nums: Tensor, d_unique_nums: Tensor, h_unique_offsets: Tensor,
    d_unique_offsets: Tensor, unique_idx: Tensor | Sequence[Tensor], new_offsets: Tensor,
    new_lengths: Tensor, device_num_sms: int = 0, unique_op: object = None,
    frequency_counters: Tensor | None = None, input_frequencies: Tensor | None = None,
) -> None:  # fmt: skip
    """The distinct keys of each table's features; everything is written in place.

    Args:
        indices, offset: keys, and where the bags begin, feature by feature.
        h_table_offsets_in_feature, d_table_offsets_in_feature: (tables + 1): first features.
        reverse_idx: (n): which distinct key, of all tables, an occurrence is of.
        unique_idx: (n), or a tensor for each table: the distinct keys.
        h_unique_nums ... d_unique_offsets: how many a table has (tables) and where they begin
            (tables + 1), on the host and on the device.
        new_lengths, new_offsets: (bags), (bags + 1): a table's keys as spread over its bags, each
            of which gets as many as the others or one more.
        frequency_counters: (n): how often each occurs, by ``input_frequencies`` if given.
    """
    bags = d_table_offsets_in_feature.to(indices.device, torch.int64) * local_batch_size
    frequencies = None if input_frequencies is None else input_frequencies.to(torch.int64)
    unique, inverse, ends, counts = ops.segmented_unique(
        indices.to(torch.int64).contiguous(), offset.to(torch.int64)[bags].contiguous(),
        frequencies, frequency_counters is not None,
    )  # fmt: skip
    nums = torch.diff(ends)
    reverse_idx[: len(inverse)] = inverse.to(reverse_idx.dtype)
    for where, some in (
        (h_unique_nums, nums), (d_unique_nums, nums), (h_unique_offsets, ends),
        (d_unique_offsets, ends),
    ):  # fmt: skip
        where.copy_(some)
    n = int(ends[-1])
    if isinstance(unique_idx, Tensor):
        unique_idx[:n] = unique[:n].to(unique_idx.dtype)
    else:
        begins = ends.tolist()
        for table, one in enumerate(unique_idx):
            some = unique[begins[table] : begins[table + 1]]
            one[: len(some)] = some.to(one.dtype)
    if frequency_counters is not None:
        frequency_counters[:n] = counts[:n].to(frequency_counters.dtype)
    table = ops.expand_ids(bags.contiguous(), new_lengths.numel()).long()
    number = torch.arange(new_lengths.numel(), device=bags.device) - bags[table]
    share = torch.diff(bags)[table]
    new_lengths.copy_(nums[table] // share + (number < nums[table] % share))
    new_offsets[0] = 0
    new_offsets[1:] = new_lengths.cumsum(0)


# ---- Rows at addresses


def _state(like: Tensor) -> Tensor:
    return torch.zeros(STATE_WORDS, dtype=torch.int64, device=like.device)


def load_from_pointers(pointers: Tensor, dst: Tensor) -> None:
    """``dst[i]``: the row at the address ``pointers[i]``; zeros for 0."""
    size = padded(dst.shape[1] * dst.element_size(), 4)
    words = ops.load_rows(_state(pointers), pointers, size)
    dst[: len(pointers)] = words.view(dst.dtype)[:, : dst.shape[1]]


def _at_pointers(
    grads: Tensor, pointers: Tensor, val_dtype: DynamicEmbDataType | torch.dtype, width: int,
    update: Callable[[Tensor], None],
) -> None:  # fmt: skip
    dtype, state = torch_type(val_dtype), _state(pointers)
    words = ops.load_rows(state, pointers, padded(width * dtype.itemsize, 4))
    update(words.view(dtype)[:, :width])
    ops.store_rows(words, state, pointers, (pointers != 0).to(torch.uint8))


def dynamic_emb_sgd_with_pointer(
    grads: Tensor, val_pointers: Tensor, val_dtype: Any, lr: float
) -> None:
    def update(v: Tensor) -> None:
        dynamic_emb_sgd_fused(grads, v, lr)

    _at_pointers(grads, val_pointers, val_dtype, grads.shape[1], update)


def dynamic_emb_adam_with_pointer(
    grads: Tensor, val_pointers: Tensor, val_dtype: Any, state_dim: int, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, iter_num: int,
) -> None:  # fmt: skip
    def update(v: Tensor) -> None:
        dynamic_emb_adam_fused(grads, v, lr, beta1, beta2, eps, weight_decay, iter_num)

    _at_pointers(grads, val_pointers, val_dtype, grads.shape[1] + state_dim, update)


def dynamic_emb_adagrad_with_pointer(
    grads: Tensor, val_pointers: Tensor, val_dtype: Any, state_dim: int, lr: float, eps: float
) -> None:
    def update(v: Tensor) -> None:
        dynamic_emb_adagrad_fused(grads, v, lr, eps)

    _at_pointers(grads, val_pointers, val_dtype, grads.shape[1] + state_dim, update)


def dynamic_emb_rowwise_adagrad_with_pointer(
    grads: Tensor, val_pointers: Tensor, val_dtype: Any, state_dim: int, lr: float, eps: float
) -> None:
    def update(v: Tensor) -> None:
        dynamic_emb_rowwise_adagrad_fused(grads, v, lr, eps)

    _at_pointers(grads, val_pointers, val_dtype, grads.shape[1] + state_dim, update)


# ---- A table in two tensors: the first rows on the device, those behind them in the other


def _parts(
    dev_table: Tensor | None, uvm_table: Tensor | None, indices: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(table, which of the indices lie in it, where); a negative index is no row."""
    here = 0 if dev_table is None else len(dev_table)
    found = []
    for table, low, high in (
        (dev_table, 0, here),
        (uvm_table, here, here + (0 if uvm_table is None else len(uvm_table))),
    ):
        if table is not None:
            which = torch.nonzero((indices >= low) & (indices < high))[:, 0]
            found.append((table, which, (indices[which] - low).to(table.device)))
    return found


def load_from_combined_table(
    dev_table: Tensor | None, uvm_table: Tensor | None, indices: Tensor, output: Tensor
) -> None:
    """``output[i] = [dev_table; uvm_table][indices[i]]``; those of no row stay."""
    for table, which, rows in _parts(dev_table, uvm_table, indices):
        output[which] = table[rows, : output.shape[1]].to(output.device, output.dtype)


def store_to_combined_table(
    dev_table: Tensor | None, uvm_table: Tensor | None, indices: Tensor, input: Tensor
) -> None:
    """``[dev_table; uvm_table][indices[i]] = input[i]``; indices differ."""
    for table, which, rows in _parts(dev_table, uvm_table, indices):
        table[rows, : input.shape[1]] = input[which].to(table.device, table.dtype)


def _in_combined(
    grads: Tensor, indices: Tensor, dev_table: Tensor | None, uvm_table: Tensor | None,
    update: Callable[[Tensor, Tensor], None],
) -> None:  # fmt: skip
    for table, which, rows in _parts(dev_table, uvm_table, indices):
        values = table[rows]
        update(grads[which].to(table.device), values)
        table[rows] = values


def sgd_update_for_combined_table(
    grads: Tensor, indices: Tensor, dev_table: Tensor | None, uvm_table: Tensor | None, lr: float
) -> None:
    def update(g: Tensor, v: Tensor) -> None:
        dynamic_emb_sgd_fused(g, v, lr)

    _in_combined(grads, indices, dev_table, uvm_table, update)


def adam_update_for_combined_table(
    grads: Tensor, indices: Tensor, dev_table: Tensor | None, uvm_table: Tensor | None,
    state_dim: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    iter_num: int,
) -> None:  # fmt: skip
    def update(g: Tensor, v: Tensor) -> None:
        dynamic_emb_adam_fused(g, v, lr, beta1, beta2, eps, weight_decay, iter_num)

    _in_combined(grads, indices, dev_table, uvm_table, update)


def adagrad_update_for_combined_table(
    grads: Tensor, indices: Tensor, dev_table: Tensor | None, uvm_table: Tensor | None,
    state_dim: int, lr: float, eps: float,
) -> None:  # fmt: skip
    def update(g: Tensor, v: Tensor) -> None:
        dynamic_emb_adagrad_fused(g, v, lr, eps)

    _in_combined(grads, indices, dev_table, uvm_table, update)


def rowwise_adagrad_for_combined_table(
    grads: Tensor, indices: Tensor, dev_table: Tensor | None, uvm_table: Tensor | None,
    state_dim: int, lr: float, eps: float,
) -> None:  # fmt: skip
    def update(g: Tensor, v: Tensor) -> None:
        dynamic_emb_rowwise_adagrad_fused(g, v, lr, eps)

    _in_combined(grads, indices, dev_table, uvm_table, update)
