"""Tables one by one, under the names and arguments of recsys-examples' ``dynamicemb_extensions``.

A row holds values of one type: ``dim`` weights and ``optstate_dim()`` values of the optimizer's
state. Tensors are written in place, as those functions do; ``n`` is how many entries count.
Optimizers count steps by the ``iter_num`` that they are given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamicemb.extension_indices import (
    UniqueOp,
    block_bucketize_sparse_features,
    expand_table_ids_cuda,
    flagged_compact,
    gather_embedding,
    get_table_range,
    segmented_unique,
    segmented_unique_cuda,
    select,
    select_index,
)
from dynamicemb.extension_inits import (
    CurandStateContext,
    const_init,
    debug_init,
    normal_init,
    truncated_normal_init,
    uniform_init,
)
from dynamicemb.extension_rows import (
    adagrad_update_for_combined_table,
    adam_update_for_combined_table,
    dedup_input_indices,
    dynamic_emb_adagrad_with_pointer,
    dynamic_emb_adam_with_pointer,
    dynamic_emb_rowwise_adagrad_with_pointer,
    dynamic_emb_sgd_with_pointer,
    load_from_combined_table,
    load_from_pointers,
    lookup_backward,
    lookup_forward,
    reduce_grads,
    rowwise_adagrad_for_combined_table,
    sgd_update_for_combined_table,
    store_to_combined_table,
)
from dynamicemb.extension_storage import (
    InsertResult,
    ScorePolicy,
    bucketize_keys,
    device_timestamp,
    table_count_matched,
    table_erase,
    table_export_batch,
    table_insert,
    table_insert_and_evict,
    table_lookup,
    table_partition,
    tensor_partition,
)
from dynamicemb.extension_table import (
    DynamicEmbDataType,
    DynamicEmbTable,
    EvictStrategy,
    InitializerArgs,
    OptimizerType,
)
from dynamicemb.extension_updates import (
    dynamic_emb_adagrad_fused,
    dynamic_emb_adam_fused,
    dynamic_emb_rowwise_adagrad_fused,
    dynamic_emb_sgd_fused,
)
from dynamicemb.key_value_table import (
    ERASE,
    FIND_OR_INSERT,
    INSERT_AND_EVICT,
    INSERT_OR_ASSIGN,
    INSERTED,
    UPDATED,
)
from dynamicemb.ops import ops


def dyn_emb_rows(table: DynamicEmbTable) -> int:
    return int(table.rows.sizes()[0, 0])


def dyn_emb_cols(table: DynamicEmbTable) -> int:
    return table.dim


def dyn_emb_capacity(table: DynamicEmbTable) -> int:
    return table.capacity()


def insert_or_assign(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, score: Any = None,
    unique_key: bool = True, ignore_evict_strategy: bool = False,
) -> None:  # fmt: skip
    table.write(INSERT_OR_ASSIGN, n, keys, values, score)


def insert_and_evict(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, score: Any,
    evicted_keys: Tensor, evicted_values: Tensor, evicted_score: Tensor, d_evicted_counter: Tensor,
    unique_key: bool = True, ignore_evict_strategy: bool = False,
) -> None:  # fmt: skip
    """What left is listed in the first ``d_evicted_counter[0]`` entries."""
    written = table.write(INSERT_AND_EVICT, n, keys, values, score)
    count = int(written.evicted_count[0])
    evicted_keys[:count] = written.evicted_keys[:count]
    width = evicted_values.shape[1]
    evicted_values[:count] = table.unpack(written.evicted_values[:count], width)
    evicted_score[:count] = written.evicted_scores[:count].to(evicted_score.dtype)
    d_evicted_counter.fill_(count)


def insert_and_evict_with_scores(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, evicted_keys: Tensor,
    evicted_values: Tensor, evicted_score: Tensor, d_evicted_counter: Tensor,
    unique_key: bool = True, ignore_evict_strategy: bool = False, scores: Tensor | None = None,
) -> None:  # fmt: skip
    evicted = (evicted_keys, evicted_values, evicted_score, d_evicted_counter)
    insert_and_evict(table, n, keys, values, scores, *evicted)


def accum_or_assign(
    table: DynamicEmbTable, n: int, keys: Tensor, value_or_deltas: Tensor,
    accum_or_assigns: Tensor, score: Any = None, ignore_evict_strategy: bool = False,
) -> None:  # fmt: skip
    """Adds to rows that are there where the flag is set, inserts those that are not where it is
    not; other keys are left alone."""
    rows, there = _found(table, n, keys)
    some, flags = value_or_deltas[:n], accum_or_assigns[:n].to(torch.bool)
    both = torch.nonzero(flags & there)[:, 0]
    new = torch.nonzero(~flags & ~there)[:, 0]
    width = some.shape[1]
    old = table.rows.load(rows[both])
    table.unpack(old, width).add_(some[both].to(table.dtype))
    table.rows.store(old, rows[both])
    _write_some(table, new, n, keys, some, score)


def _write_some(
    table: DynamicEmbTable, at: Tensor, n: int, keys: Tensor, values: Tensor, score: Any
) -> None:
    """Writes the entries ``at`` of the first n."""
    scores = None if score is None else torch.as_tensor(score, device=keys.device).expand(n)[at]
    table.write(INSERT_OR_ASSIGN, len(at), keys[:n][at], values[:n][at], scores)


def _found(table: DynamicEmbTable, n: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    rows, _ = table.rows.find(keys[:n].to(torch.int64).contiguous(), table.offsets(n))
    return rows, rows != 0


def find_pointers(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, founds: Tensor, score: Any = None
) -> None:
    """``values``: int64 addresses of rows, 0 of absent keys."""
    values[:n], founds[:n] = _found(table, n, keys)


def find_pointers_with_scores(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, founds: Tensor,
    scores: Tensor | None = None,
) -> None:  # fmt: skip
    some = keys[:n].to(torch.int64).contiguous()
    values[:n], found = table.rows.find(some, table.offsets(n), True)
    founds[:n] = values[:n] != 0
    if scores is not None:
        scores[:n] = found.to(scores.dtype)


def find_or_insert_pointers(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, founds: Tensor, score: Any = None,
    unique_key: bool = True, ignore_evict_strategy: bool = False,
) -> None:  # fmt: skip
    """Rows of new keys hold nothing that means something yet."""
    written = table.write(FIND_OR_INSERT, n, keys, None, score)
    values[:n], founds[:n] = written.rows, written.status == UPDATED


def find_or_insert(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, score: Any = None,
    unique_key: bool = True, ignore_evict_strategy: bool = False,
) -> None:  # fmt: skip
    """``values`` are those of new rows, and become those that are stored."""
    written = table.write(FIND_OR_INSERT, n, keys, None, score)
    new = (written.status >= INSERTED) & (written.rows != 0)
    table.rows.store(table.pack(values[:n]), written.rows, new.to(torch.uint8))
    stored = table.unpack(table.rows.load(written.rows), values.shape[1]).to(values.dtype)
    values[:n] = torch.where((written.rows != 0)[:, None], stored, values[:n])


def find(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, founds: Tensor, score: Any = None
) -> None:
    """``values`` of absent keys stay."""
    rows, there = _found(table, n, keys)
    stored = table.unpack(table.rows.load(rows), values.shape[1]).to(values.dtype)
    values[:n] = torch.where(there[:, None], stored, values[:n])
    founds[:n] = there


def find_and_initialize(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor,
    initializer_args: InitializerArgs | None = None,
) -> None:  # fmt: skip
    """Absent keys read as first rows; nothing is inserted."""
    if initializer_args is not None:
        table.initializer_args = initializer_args
    values[:n] = table.first(keys[:n]).to(values.dtype)
    find(table, n, keys, values, torch.empty(n, dtype=torch.bool, device=keys.device))


def assign(
    table: DynamicEmbTable, n: int, keys: Tensor, values: Tensor, score: Any = None,
    unique_key: bool = True,
) -> None:  # fmt: skip
    _, there = _found(table, n, keys)
    _write_some(table, torch.nonzero(there)[:, 0], n, keys, values, score)


def erase(table: DynamicEmbTable, n: int, keys: Tensor) -> None:
    table.write(ERASE, n, keys, None, None)


def reserve(table: DynamicEmbTable, new_capacity: int) -> None:
    ops.table_set_reserve(table.rows.state, table.rows.handle, 0, new_capacity)


def clear(table: DynamicEmbTable) -> None:
    table.rows.clear()


def _export(
    table: DynamicEmbTable, n: int, offset: int, least: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    end = min(offset + n, table.capacity())
    keys, values, scores, count = ops.table_set_export(
        table.rows.state, table.rows.handle, 0, min(offset, end), end, least, True
    )
    return keys, values, scores, int(count)


def export_batch(
    table: DynamicEmbTable, n: int, offset: int, d_counter: Tensor, keys: Tensor, values: Tensor,
    score: Tensor | None = None,
) -> None:  # fmt: skip
    """The rows of the slots ``offset`` ... ``offset + n - 1``, in the first ``d_counter[0]``
    entries."""
    found, rows, scores, count = _export(table, n, offset, 0)
    keys[:count] = found[:count]
    values[:count] = table.unpack(rows[:count], values.shape[1]).to(values.dtype)
    if score is not None:
        score[:count] = scores[:count].to(score.dtype)
    d_counter.fill_(count)


def count_matched(table: DynamicEmbTable, threshold: int, num_matched: Tensor) -> None:
    """How many rows have a score of at least ``threshold``."""
    num_matched.fill_(_export(table, table.capacity(), 0, threshold)[3])


def export_batch_matched(
    table: DynamicEmbTable, threshold: int, n: int, offset: int, num_matched: Tensor, keys: Tensor,
    values: Tensor,
) -> None:  # fmt: skip
    found, rows, _, count = _export(table, n, offset, threshold)
    keys[:count] = found[:count]
    values[:count] = table.unpack(rows[:count], values.shape[1]).to(values.dtype)
    num_matched.fill_(count)


def _updated(table: DynamicEmbTable, n: int, indices: Tensor, update: Any) -> None:
    rows, there = _found(table, n, indices)
    words = table.rows.load(rows)
    update(table.unpack(words, table.width))
    table.rows.store(words, rows, there.to(torch.uint8))


def dynamic_emb_sgd_with_table(
    table: DynamicEmbTable, n: int, indices: Tensor, grads: Tensor, lr: float,
    weight_type: object = None,
) -> None:  # fmt: skip
    _updated(table, n, indices, lambda v: dynamic_emb_sgd_fused(grads[:n], v, lr))


def dynamic_emb_adam_with_table(
    ht: DynamicEmbTable, n: int, indices: Tensor, grads: Tensor, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, iter_num: int, weight_type: object = None,
) -> None:  # fmt: skip
    numbers = (lr, beta1, beta2, eps, weight_decay, iter_num)
    _updated(ht, n, indices, lambda v: dynamic_emb_adam_fused(grads[:n], v, *numbers))


def dynamic_emb_adagrad_with_table(
    ht: DynamicEmbTable, n: int, indices: Tensor, grads: Tensor, lr: float, eps: float,
    weight_type: object = None,
) -> None:  # fmt: skip
    _updated(ht, n, indices, lambda v: dynamic_emb_adagrad_fused(grads[:n], v, lr, eps))


def dynamic_emb_rowwise_adagrad_with_table(
    ht: DynamicEmbTable, n: int, indices: Tensor, grads: Tensor, lr: float, eps: float,
    weight_type: object = None,
) -> None:  # fmt: skip
    _updated(ht, n, indices, lambda v: dynamic_emb_rowwise_adagrad_fused(grads[:n], v, lr, eps))


__all__ = [
    "CurandStateContext",
    "DynamicEmbDataType",
    "DynamicEmbTable",
    "EvictStrategy",
    "InitializerArgs",
    "InsertResult",
    "OptimizerType",
    "ScorePolicy",
    "UniqueOp",
    "accum_or_assign",
    "adagrad_update_for_combined_table",
    "adam_update_for_combined_table",
    "assign",
    "block_bucketize_sparse_features",
    "bucketize_keys",
    "clear",
    "const_init",
    "count_matched",
    "debug_init",
    "dedup_input_indices",
    "device_timestamp",
    "dyn_emb_capacity",
    "dyn_emb_cols",
    "dyn_emb_rows",
    "dynamic_emb_adagrad_fused",
    "dynamic_emb_adagrad_with_pointer",
    "dynamic_emb_adagrad_with_table",
    "dynamic_emb_adam_fused",
    "dynamic_emb_adam_with_pointer",
    "dynamic_emb_adam_with_table",
    "dynamic_emb_rowwise_adagrad_fused",
    "dynamic_emb_rowwise_adagrad_with_pointer",
    "dynamic_emb_rowwise_adagrad_with_table",
    "dynamic_emb_sgd_fused",
    "dynamic_emb_sgd_with_pointer",
    "dynamic_emb_sgd_with_table",
    "erase",
    "expand_table_ids_cuda",
    "export_batch",
    "export_batch_matched",
    "find",
    "find_and_initialize",
    "find_or_insert",
    "find_or_insert_pointers",
    "find_pointers",
    "find_pointers_with_scores",
    "flagged_compact",
    "gather_embedding",
    "get_table_range",
    "insert_and_evict",
    "insert_and_evict_with_scores",
    "insert_or_assign",
    "load_from_combined_table",
    "load_from_pointers",
    "lookup_backward",
    "lookup_forward",
    "normal_init",
    "reduce_grads",
    "reserve",
    "rowwise_adagrad_for_combined_table",
    "segmented_unique",
    "segmented_unique_cuda",
    "select",
    "select_index",
    "sgd_update_for_combined_table",
    "store_to_combined_table",
    "table_count_matched",
    "table_erase",
    "table_export_batch",
    "table_insert",
    "table_insert_and_evict",
    "table_lookup",
    "table_partition",
    "tensor_partition",
    "truncated_normal_init",
    "uniform_init",
]
