"""Tables in a tensor, of ``dynamicemb_extensions``, beside a dict of buckets."""

from __future__ import annotations

import random
from typing import Any

import dynamicemb_extensions as ext
import pytest
import torch
from dynamicemb_extensions import InsertResult, ScorePolicy
from torch import Tensor

BUCKETS, CAPACITY = 2, 8
DTYPES = [torch.int64, torch.uint8, ext.DynamicEmbDataType.UInt64]


def ints(device: str, some: list[int]) -> Tensor:
    return torch.tensor(some, dtype=torch.int64, device=device)


def bucket_of(device: str, key: int) -> int:
    ends, _ = ext.bucketize_keys(ints(device, [key]), CAPACITY, BUCKETS)
    return ends.tolist().index(1) - 1


class Pair:
    """A storage and what it must hold: bucket -> {key: score}."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.storage = torch.zeros(BUCKETS * CAPACITY * 17, dtype=torch.uint8, device=device)
        self.sizes = torch.zeros(BUCKETS, dtype=torch.int32, device=device)
        self.wanted: list[dict[int, int]] = [{} for _ in range(BUCKETS)]

    def table(self) -> tuple[Any, ...]:
        return self.storage, DTYPES, CAPACITY

    def insert(self, keys: list[int], scores: list[int], policy: ScorePolicy, evicts: bool) -> None:
        n, before = len(keys), [dict(one) for one in self.wanted]
        given, results = ints(self.device, scores), ints(self.device, [9] * n)
        indices = ints(self.device, [7] * n)
        out = [ints(self.device, [0] * n) for _ in range(3)]
        count = ints(self.device, [0])
        if evicts:
            ext.table_insert_and_evict(
                *self.table(), self.sizes, ints(self.device, keys), [given], [policy], [True],
                results, indices, count, out[0], out[1], [out[2]],
            )  # fmt: skip
        else:
            ext.table_insert(
                *self.table(), self.sizes, ints(self.device, keys), [given], [policy], [True],
                indices, results,
            )  # fmt: skip
        gone = dict(zip(out[0].tolist(), out[2].tolist(), strict=True)) if count.item() else {}
        gone = dict(list(gone.items())[: int(count)])
        for i, key in enumerate(keys):
            b = bucket_of(self.device, key)
            there = self.wanted[b]
            if key in before[b]:
                expected = InsertResult.ASSIGN
            elif (
                len(before[b]) + sum(k not in before[b] for k in keys[:i] if self.b(k) == b)
                < CAPACITY
            ):
                expected = InsertResult.INSERT
            else:
                expected = InsertResult.EVICT if evicts else InsertResult.BUSY
                free = [k for k in before[b] if k not in keys]
                number = sum(k not in before[b] for k in keys[:i] if self.b(k) == b) - (
                    CAPACITY - len(before[b])
                )
                if evicts and number < len(free):
                    least = sorted(before[b][k] for k in free)[number]
                    leaving = next(k for k in free if k in there and gone.get(k) == least)
                    assert there.pop(leaving) == least
                else:
                    expected = InsertResult.BUSY
            assert results[i] == expected, (key, results.tolist())
            if expected is InsertResult.BUSY:
                assert indices[i] == -1
                continue
            assert indices[i] // CAPACITY == b
            old = there.get(key, 0)
            there[key] = {ScorePolicy.CONST: old, ScorePolicy.ASSIGN: scores[i]}.get(
                policy, old + scores[i]
            )
            assert given[i] == there[key] or policy is ScorePolicy.CONST
        self.check()

    def b(self, key: int) -> int:
        return bucket_of(self.device, key)

    def erase(self, keys: list[int]) -> None:
        where = ints(self.device, [7] * len(keys))
        ext.table_erase(*self.table(), self.sizes, ints(self.device, keys), where)
        for i, key in enumerate(keys):
            assert (self.wanted[self.b(key)].pop(key, None) is None) == (where[i] == -1)
        self.check()

    def check(self) -> None:
        assert self.sizes.tolist() == [len(one) for one in self.wanted]
        total = BUCKETS * CAPACITY
        keys, scores = (ints(self.device, [0] * total) for _ in range(2))
        where, count, found = ints(self.device, [0] * total), ints(self.device, [0]), {}
        for begin in (0, 6, 12):
            ext.table_export_batch(*self.table(), 6, begin, count, keys, [scores], None, where)
            n = int(count)
            found |= dict(zip(keys[:n].tolist(), scores[:n].tolist(), strict=True))
            assert all(begin <= w < begin + 6 for w in where[:n].tolist())
        assert found == {k: s for one in self.wanted for k, s in one.items()}
        ext.table_count_matched(*self.table(), [5], count)
        assert count == sum(score >= 5 for score in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_dict_of_buckets(device: str, seed: int) -> None:
    draw, pair = random.Random(seed), Pair(device)
    pool = [0, -1, -2, -3, 2**63 - 1, -(2**63), *(draw.randrange(10**6) for _ in range(14))]
    for _ in range(25):
        keys = draw.sample(pool, draw.randrange(1, 6))
        if draw.random() < 0.25:
            pair.erase(keys)
            continue
        scores = draw.sample(range(1000), len(keys))
        pair.insert(keys, scores, draw.choice(list(ScorePolicy)[:3]), draw.random() < 0.6)


def test_a_lookup_finds_keys_and_changes_scores_as_it_is_told(device: str) -> None:
    pair = Pair(device)
    pair.insert([3, -4], [5, 6], ScorePolicy.ASSIGN, False)
    before = ext.device_timestamp()
    for policy, given, wanted in (
        (ScorePolicy.CONST, [1, 1, 1], [5, 1, 6]),
        (ScorePolicy.ACCUMULATE, [1, 1, 2], [6, 1, 8]),
        (ScorePolicy.ASSIGN, [3, 3, 4], [3, 3, 4]),
    ):
        scores, founds = ints(device, given), torch.zeros(3, dtype=torch.bool, device=device)
        indices = ints(device, [0, 0, 0])
        args = (ints(device, [3, 9, -4]), [scores], [policy], [True], founds, indices)
        ext.table_lookup(*pair.table(), *args)
        assert founds.tolist() == [True, False, True] and indices[1] == -1
        assert scores.tolist() == wanted
    ext.table_lookup(
        *pair.table(), ints(device, [3]), [scores], [ScorePolicy.GLOBAL_TIMER], [True], founds[:1],
        indices,
    )  # fmt: skip
    assert before < scores[0] < ext.device_timestamp()
    with pytest.raises(ValueError, match=r"scores\[0\] must be given"):
        ext.table_lookup(
            *pair.table(), ints(device, [3]), [None], [ScorePolicy.ASSIGN], [False], founds, indices
        )


def test_fields_are_views_of_the_bytes(device: str) -> None:
    storage = torch.arange(2 * 8 * 9, dtype=torch.uint8, device=device)
    keys, digests = ext.table_partition(storage, [torch.int64, torch.uint8], 8, 2)
    assert keys.shape == digests.shape == (2, 8) and digests[1].tolist() == list(range(136, 144))
    keys[1, 0] = 0
    assert storage[72:80].tolist() == [0] * 8
    one, two = ext.tensor_partition(storage, [0, 8, 16], [torch.uint8, torch.int64])
    assert one.tolist() == list(range(8)) and two.shape == (1,)
    with pytest.raises(ValueError, match="storage must have 216 bytes, got 144"):
        ext.table_partition(storage, [torch.int64, torch.uint8], 8, 3)
    with pytest.raises(ValueError, match="byte_range must have 2 values for 1 dtypes, got 3"):
        ext.tensor_partition(storage, [0, 8, 16], [torch.uint8])
    with pytest.raises(ValueError, match="bucket_capacity must be a multiple of 8, got 4"):
        ext.table_partition(storage, [torch.int64, torch.uint8], 4, 2)
    with pytest.raises(ValueError, match="dtypes must be a key of 8 bytes, a digest of 1"):
        ext.table_erase(storage, [torch.int64, torch.int64], 8, keys[0], keys[0])


def test_keys_are_put_together_by_bucket(device: str) -> None:
    keys = ints(device, list(range(-20, 20)))
    ends, order = ext.bucketize_keys(keys, CAPACITY, BUCKETS)
    for b in range(BUCKETS):
        mine = keys[order[ends[b] : ends[b + 1]]].tolist()
        assert mine == [k for k in keys.tolist() if bucket_of(device, k) == b]
