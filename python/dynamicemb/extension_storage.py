"""Tables of keys and scores in one tensor of bytes, as ``dynamicemb_extensions`` has them.

A bucket has ``bucket_capacity`` slots, a multiple of 8. A slot has a field of each of the
``dtypes``: the first is the key, a one-byte one its digest, others are scores. Fields lie one after
the other in a bucket. A digest of 0 is an empty slot, so that a storage of zeros is an empty table
and every key can be held; the index of a slot is ``bucket * bucket_capacity + slot``, -1 where
there is none. Keys of a call differ.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb.dealing import mixed, unsigned_mod
from dynamicemb.extension_table import torch_type

GREATEST = 2**63 - 1


class ScorePolicy(enum.IntEnum):
    """What a call does to a score: nothing, takes the given one, adds it, takes the time."""

    CONST = 0
    ASSIGN = 1
    ACCUMULATE = 2
    GLOBAL_TIMER = 3


class InsertResult(enum.IntEnum):
    """A new key in a free slot, one that was there, one in another's slot, one without room."""

    INSERT = 0
    ASSIGN = 1
    EVICT = 2
    BUSY = 3


def device_timestamp() -> int:
    """Nanoseconds of a clock that only goes forward."""
    return time.monotonic_ns()


def tensor_partition(
    input: Tensor, byte_range: Sequence[int] | Tensor, dtypes: Sequence[Any]
) -> list[Tensor]:
    """Views of the bytes ``byte_range[i]`` ... ``byte_range[i + 1]``, each as its dtype."""
    ends = [int(end) for end in byte_range]
    if len(ends) != len(dtypes) + 1:
        raise ValueError(
            f"dynamicemb: byte_range must have {len(dtypes) + 1} values for {len(dtypes)} dtypes, "
            f"got {len(ends)}"
        )
    flat = input.view(-1).view(torch.uint8)
    return [
        flat[begin:end].view(torch_type(dtype))
        for begin, end, dtype in zip(ends, ends[1:], dtypes, strict=False)
    ]


def table_partition(
    storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, num_buckets: int
) -> list[Tensor]:
    """A (num_buckets, bucket_capacity) view of each field."""
    if bucket_capacity < 1 or bucket_capacity % 8:
        raise ValueError(
            f"dynamicemb: bucket_capacity must be a multiple of 8, got {bucket_capacity}"
        )
    types = [torch_type(dtype) for dtype in dtypes]
    pitch = bucket_capacity * sum(dtype.itemsize for dtype in types)
    wanted = pitch * num_buckets
    if storage.nbytes < wanted:
        raise ValueError(f"dynamicemb: storage must have {wanted} bytes, got {storage.nbytes}")
    buckets = storage.view(-1).view(torch.uint8)[:wanted].view(num_buckets, pitch)
    fields, at = [], 0
    for dtype in types:
        size = bucket_capacity * dtype.itemsize
        fields.append(buckets[:, at : at + size].view(dtype))
        at += size
    return fields


class _Table(NamedTuple):
    keys: Tensor  # each (buckets, slots), views
    digests: Tensor
    scores: list[Tensor]

    @classmethod
    def of(cls, storage: Tensor, dtypes: Sequence[Any], capacity: int) -> _Table:
        types = [torch_type(dtype) for dtype in dtypes]
        if types[0].itemsize != 8 or [t.itemsize for t in types].count(1) != 1:
            raise ValueError(
                "dynamicemb: dtypes must be a key of 8 bytes, a digest of 1, and scores, got "
                f"{types}"
            )
        buckets = storage.nbytes // (capacity * sum(t.itemsize for t in types))
        fields = table_partition(storage, types, capacity, buckets)
        keys, *others = (f if f.itemsize == 1 else f.view(_signed(f.dtype)) for f in fields)
        digest = next(f for f in others if f.itemsize == 1)
        return cls(keys, digest, [f for f in others if f is not digest])

    def locate(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The bucket and the digest of each key, and its index or -1."""
        buckets, capacity = self.keys.shape
        hashed = mixed(keys)
        bucket = unsigned_mod(hashed, buckets)
        digest = ((hashed >> 40) & 255).clamp(min=1).to(torch.uint8)
        here = (self.keys[bucket] == keys[:, None]) & (self.digests[bucket] != 0)
        found, slot = here.max(1)
        return bucket, digest, torch.where(found, bucket * capacity + slot, -1)

    def at(self, field: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        capacity = field.shape[1]
        return indices // capacity, indices % capacity

    def scored(
        self, indices: Tensor, given: Sequence[Tensor | None], policies: Sequence[int],
        returns: Sequence[bool], which: Tensor, fresh: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Scores at ``indices`` of the entries ``which``; those of ``fresh`` ones begin at 0."""
        for number, field in enumerate(self.scores):
            where = self.at(field, indices)
            old = field[where]
            if fresh is not None:
                old = torch.where(fresh, torch.zeros_like(old), old)
            policy, mine = ScorePolicy(policies[number]), given[number]
            new = old
            if policy is ScorePolicy.GLOBAL_TIMER:
                new = torch.full_like(old, device_timestamp())
            elif policy is not ScorePolicy.CONST:
                if mine is None:
                    raise ValueError(f"dynamicemb: scores[{number}] must be given for {policy!r}")
                said = mine[which].to(field.dtype)
                new = said if policy is ScorePolicy.ASSIGN else old + said
            field[where] = new
            if returns[number] and mine is not None:
                mine[which] = new.to(mine.dtype)


def _signed(dtype: torch.dtype) -> torch.dtype:
    return {8: torch.int64, 4: torch.int32}[dtype.itemsize]


def bucketize_keys(keys: Tensor, bucket_capacity: int, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Where the keys of each bucket begin (num_buckets + 1), and the order that puts keys of a
    bucket together."""
    bucket = unsigned_mod(mixed(keys.view(torch.int64)), num_buckets)
    order = torch.sort(bucket, stable=True).indices
    counts = torch.bincount(bucket, minlength=num_buckets)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), order


def table_lookup(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, keys: Tensor,
    scores: Sequence[Tensor | None], policy_types: Sequence[int], is_returns: Sequence[bool],
    founds: Tensor, indices: Tensor,
) -> None:  # fmt: skip
    """``indices`` and ``founds`` of the keys; scores of those that are there change by policy."""
    table = _Table.of(table_storage, dtypes, bucket_capacity)
    _, _, index = table.locate(keys.view(torch.int64))
    indices[: len(keys)], founds[: len(keys)] = index, index >= 0
    which = torch.nonzero(index >= 0)[:, 0]
    table.scored(index[which], scores, policy_types, is_returns, which)


class _Evicted(NamedTuple):
    keys: Tensor
    indices: Tensor
    scores: list[Tensor]


def _insert(
    storage: Tensor, dtypes: Sequence[Any], capacity: int, bucket_sizes: Tensor, keys: Tensor,
    scores: Sequence[Tensor | None], policies: Sequence[int], returns: Sequence[bool],
    indices: Tensor, results: Tensor | None, evicts: bool,
) -> _Evicted:  # fmt: skip
    table = _Table.of(storage, dtypes, capacity)
    keys = keys.view(torch.int64)
    bucket, digest, index = table.locate(keys)
    there = index >= 0
    result = torch.full_like(keys, InsertResult.BUSY)
    result[there] = InsertResult.ASSIGN
    new = torch.nonzero(~there)[:, 0]
    new = new[torch.sort(bucket[new], stable=True).indices]
    of = bucket[new]
    # The how manieth new key of its bucket a key is.
    number = torch.arange(len(new), device=keys.device) - torch.searchsorted(of, of)
    free = table.digests[of] == 0
    room = free.sum(1)
    rank = torch.where(free, free.cumsum(1), 0)
    slot = (rank == (number + 1)[:, None]).int().argmax(1)
    fits = number < room
    takes = torch.zeros_like(fits)
    if evicts and len(new):  # the slots of the least first scores that this call does not use
        used = torch.zeros_like(table.digests, dtype=torch.bool)
        used[table.at(used, index[there])] = True
        order_by = table.scores[0][of].long().masked_fill(free | used[of], GREATEST)
        order = torch.sort(order_by, dim=1, stable=True).indices
        held = capacity - room - used[of].sum(1)
        turn = number - room
        takes = (turn >= 0) & (turn < held)
        victim = order.gather(1, turn.clamp(0, capacity - 1)[:, None])[:, 0]
        slot = torch.where(takes, victim, slot)
    result[new[fits]], result[new[takes]] = InsertResult.INSERT, InsertResult.EVICT
    gone = of[takes] * capacity + slot[takes]
    where = table.at(table.keys, gone)
    left = _Evicted(table.keys[where], gone, [field[where] for field in table.scores])
    index[new] = torch.where(fits | takes, of * capacity + slot, -1)
    placed = new[fits | takes]
    where = table.at(table.keys, index[placed])
    table.keys[where], table.digests[where] = keys[placed], digest[placed]
    bucket_sizes.index_add_(0, of[fits], torch.ones_like(of[fits], dtype=bucket_sizes.dtype))
    which = torch.nonzero(index >= 0)[:, 0]
    table.scored(index[which], scores, policies, returns, which, ~there[which])
    indices[: len(keys)] = index
    if results is not None:
        results[: len(keys)] = result.to(results.dtype)
    return left


def table_insert(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, bucket_sizes: Tensor,
    keys: Tensor, scores: Sequence[Tensor | None], policy_types: Sequence[int],
    is_returns: Sequence[bool], indices: Tensor, insert_results: Tensor | None = None,
) -> None:  # fmt: skip
    """Keys that are not there take free slots of their buckets; ``insert_results``:
    ``InsertResult`` of each."""
    _insert(
        table_storage, dtypes, bucket_capacity, bucket_sizes, keys, scores, policy_types,
        is_returns, indices, insert_results, False,
    )  # fmt: skip


def table_insert_and_evict(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, bucket_sizes: Tensor,
    keys: Tensor, scores: Sequence[Tensor | None], policy_types: Sequence[int],
    is_returns: Sequence[bool], insert_results: Tensor | None, indices: Tensor,
    num_evicted: Tensor, evicted_keys: Tensor, evicted_indices: Tensor,
    evicted_scores: Sequence[Tensor],
) -> None:  # fmt: skip
    """As ``table_insert``; in a full bucket the slot of the least first score is taken, and what
    was in it is listed in the first ``num_evicted`` entries."""
    left = _insert(
        table_storage, dtypes, bucket_capacity, bucket_sizes, keys, scores, policy_types,
        is_returns, indices, insert_results, True,
    )  # fmt: skip
    n = len(left.keys)
    num_evicted.fill_(n)
    evicted_keys.view(torch.int64)[:n], evicted_indices[:n] = left.keys, left.indices
    for into, some in zip(evicted_scores, left.scores, strict=True):
        into[:n] = some.to(into.dtype)


def table_erase(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, bucket_sizes: Tensor,
    keys: Tensor, indices: Tensor | None = None,
) -> None:  # fmt: skip
    """Empties the slots of the keys; ``indices``: which they were."""
    table = _Table.of(table_storage, dtypes, bucket_capacity)
    bucket, _, index = table.locate(keys.view(torch.int64))
    if indices is not None:
        indices[: len(keys)] = index
    there = index >= 0
    table.digests[table.at(table.digests, index[there])] = 0
    less = torch.full_like(bucket[there], -1, dtype=bucket_sizes.dtype)
    bucket_sizes.index_add_(0, bucket[there], less)


def _matching(
    table: _Table, begin: int, end: int, thresholds: Sequence[int | None] | None
) -> Tensor:
    """Indices of the held slots of a range whose scores are all at least their thresholds."""
    held = table.digests.flatten()[begin:end] != 0
    for field, least in zip(table.scores, thresholds or (), strict=False):
        if least is not None:
            held &= field.flatten()[begin:end] >= least
    return torch.nonzero(held)[:, 0] + begin


def table_export_batch(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int, batch: int, offset: int,
    counter: Tensor, keys: Tensor, scores: Sequence[Tensor | None],
    thresholds: Sequence[int | None] | None = None, indices: Tensor | None = None,
) -> None:  # fmt: skip
    """Keys and scores of the slots ``offset`` ... ``offset + batch - 1`` that are held, in the
    first ``counter[0]`` entries."""
    table = _Table.of(table_storage, dtypes, bucket_capacity)
    found = _matching(table, offset, offset + batch, thresholds)
    n = len(found)
    counter.fill_(n)
    keys.view(torch.int64)[:n] = table.keys.flatten()[found]
    for into, field in zip(scores, table.scores, strict=False):
        if into is not None:
            into[:n] = field.flatten()[found].to(into.dtype)
    if indices is not None:
        indices[:n] = found


def table_count_matched(
    table_storage: Tensor, dtypes: Sequence[Any], bucket_capacity: int,
    thresholds: Sequence[int | None], num_matched: Tensor,
) -> None:  # fmt: skip
    """How many slots have scores of at least the thresholds."""
    table = _Table.of(table_storage, dtypes, bucket_capacity)
    num_matched.fill_(len(_matching(table, 0, table.keys.numel(), thresholds)))
