"""Distinct keys, and where indices belong, against the reference."""

from __future__ import annotations

import random

import pytest
import torch
from dynamicemb import ref
from dynamicemb.ops import ops
from dynamicemb.unique_op import segmented_unique

from tests.common.poison import poison

EDGES = [0, -1, 1, 2**63 - 1, -(2**63), 2**32, -(2**32)]


def check(keys: list[int], offsets: list[int], device: str, frequencies: list[int] | None) -> None:
    given = [torch.tensor(x, dtype=torch.int64, device=device) for x in (keys, offsets)]
    often = None
    if frequencies is not None:
        often = torch.tensor(frequencies, dtype=torch.int64, device=device)
    poison(device)
    unique, inverse, ends, counts = (x.tolist() for x in segmented_unique(*given, often))
    wanted = ref.segmented_unique(keys, offsets, frequencies)
    n = len(wanted[0])
    assert (unique[:n], inverse, ends, counts[:n]) == wanted


@pytest.mark.parametrize("seed", range(12))
def test_keys_are_distinct_in_the_order_of_first_occurrence(device: str, seed: int) -> None:
    draw = random.Random(seed)
    n, tables = draw.choice([0, 1, 5, 300, 3000, 9000]), draw.randint(1, 5)
    pool = EDGES + [draw.getrandbits(64) - 2**63 for _ in range(draw.choice([1, 30, 3000]))]
    keys = [draw.choice(pool) for _ in range(n)]
    offsets = [0, *sorted(draw.randint(0, n) for _ in range(tables - 1)), n]
    check(keys, offsets, device, None)
    check(keys, offsets, device, [draw.randint(1, 2**40) for _ in range(n)])


def test_all_equal_keys_are_one(device: str) -> None:
    check([42] * 5000, [0, 2000, 2000, 5000], device, None)


def test_wrong_arguments_are_named() -> None:
    keys, offsets = torch.tensor([1, 2]), torch.tensor([0, 2])
    with pytest.raises(RuntimeError, match="keys must be a contiguous int64"):
        segmented_unique(keys.float(), offsets)
    with pytest.raises(RuntimeError, match="offsets must be a contiguous int64"):
        segmented_unique(keys, offsets.int())
    with pytest.raises(RuntimeError, match=r"frequencies must be .*\(2,\)"):
        segmented_unique(keys, offsets, torch.tensor([1]))


def test_ids_are_expanded_past_empty_segments(device: str) -> None:
    offsets = torch.tensor([0, 0, 3, 3, 5], device=device)
    assert ops.expand_ids(offsets, 5).tolist() == [1, 1, 1, 3, 3]


@pytest.mark.parametrize("n", [0, 1, 2048, 5000])
def test_flagged_entries_come_in_their_order(device: str, n: int) -> None:
    flags = torch.arange(n, device=device) % 3 == 1
    inputs = torch.arange(n, device=device) * 10
    for given, wanted in ((inputs, inputs[flags]), (None, torch.nonzero(flags)[:, 0])):
        selected, count = ops.flagged_compact(flags, given)
        assert int(count) == len(wanted)
        assert torch.equal(selected[: len(wanted)], wanted)


@pytest.mark.parametrize("n", [0, 1, 33, 4000])
def test_occurrences_are_sorted_stably(device: str, n: int) -> None:
    draw = random.Random(n)
    inverse = torch.tensor([draw.randint(0, max(n // 4, 0)) for _ in range(n)], dtype=torch.int32)
    ids, order = ops.sort_rows(inverse.to(device))
    wanted_ids, wanted_order = torch.sort(inverse, stable=True)
    assert torch.equal(ids.cpu(), wanted_ids) and torch.equal(order.cpu().long(), wanted_order)


@pytest.mark.parametrize("world", [1, 2, 8, 37])
@pytest.mark.parametrize(("batch", "longest"), [(4, 5), (700, 5), (300, 6000)])
def test_keys_are_dealt_out_as_the_reference_deals_them(
    device: str, batch: int, longest: int, world: int
) -> None:
    draw = random.Random(world)
    dists = ["continuous", "roundrobin", "hash_roundrobin"]
    blocks = [100, 0, 0]
    lengths = [draw.randint(0, 5) for _ in range(3 * batch)]
    lengths[batch + 1] = longest
    offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    keys = [draw.choice([*EDGES, draw.randint(0, 900)]) for _ in range(offsets[-1])]
    arrays = [torch.tensor(x, device=device) for x in (keys, offsets)]
    dist = torch.tensor([0, 1, 2], dtype=torch.int32, device=device)
    weights = torch.arange(len(keys), dtype=torch.float32, device=device)
    poison(device)
    got = ops.block_bucketize(*arrays, dist, torch.tensor(blocks, device=device), weights, world)
    wanted = ref.bucketize(keys, offsets, dists, blocks, world)
    assert (got[0].tolist(), got[1].tolist(), got[3].tolist()) == wanted
    assert torch.equal(got[2][got[3]], weights)
