"""The ops that move rows between tiers, against loops over lists."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from dynamicemb.key_value_table import EVICTED, INSERTED, Written, evicted_of
from dynamicemb.ops import ops
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.common.poison import poison
from tests.dynamicemb.cases import on, tables

SIZES = ([0], [5], [0, 0, 0], [3, 0, 4], [700, 0, 0, 2500, 1], [6000, 9000])


def segments(sizes: list[int]) -> list[int]:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lists_are_tightened_in_their_order(device: str, sizes: list[int]) -> None:
    draw, offsets = random.Random(1), segments(sizes)
    n, counts = offsets[-1] + 3, [draw.randint(0, size) for size in sizes]
    keys, scores = ([draw.randint(-(2**63), 2**63 - 1) for _ in range(n)] for _ in range(2))
    values = torch.rand(n, 12)
    chosen = [offsets[t] + i for t, count in enumerate(counts) for i in range(count)]
    poison(device)
    given = *on(device, keys), values.to(device), *on(device, scores, counts)
    listed = evicted_of(Written(values, values, *given), *on(device, offsets))
    assert listed.offsets.tolist() == segments(counts)
    k = len(chosen)
    assert listed.keys[:k].tolist() == [keys[i] for i in chosen]
    assert listed.scores[:k].tolist() == [scores[i] for i in chosen]
    assert torch.equal(listed.values[:k].cpu(), values[chosen])


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_keys_without_a_row_are_listed_and_get_theirs(
    device: str, sizes: list[int], share: float, scored: bool
) -> None:
    draw, offsets = random.Random(2), segments(sizes)
    n = offsets[-1] + 4  # the last ones are no table's
    keys, scores = ([draw.randint(-(2**63), 2**63 - 1) for _ in range(n)] for _ in range(2))
    rows = [0 if draw.random() < share or i >= offsets[-1] else 16 * (i + 1) for i in range(n)]
    wanted = [i for i in range(offsets[-1]) if rows[i] == 0]
    poison(device)
    k, ends, r, s = on(device, keys, offsets, rows, scores)
    places, some, those, tight, count = ops.refused_keys(k, ends, r, s if scored else None)
    assert count.tolist() == [len(wanted)]
    assert tight.tolist() == [sum(i < end for i in wanted) for end in offsets]
    assert places[: len(wanted)].tolist() == wanted
    assert some[: len(wanted)].tolist() == [keys[i] for i in wanted]
    assert those[: len(wanted)].tolist() == ([scores[i] for i in wanted] if scored else [])

    status = torch.full((n,), 4, dtype=torch.uint8, device=device)
    found = torch.arange(n, device=device) + 7
    ops.place_rows(r, status, places, count, found, torch.full_like(status, INSERTED))
    for at, i in enumerate(wanted):
        rows[i] = at + 7
    assert r.tolist() == rows
    there = set(wanted)
    assert status.tolist() == [INSERTED if i in there else 4 for i in range(n)]


@pytest.mark.parametrize("n", [0, 1, 33, 5000])
@pytest.mark.parametrize("words", [4, 100, 516])
def test_new_rows_are_taken_from_below(device: str, n: int, words: int) -> None:
    draw = random.Random(n)
    state = torch.zeros(8, dtype=torch.int64, device=device)
    lower, upper = torch.rand(n, words, device=device), torch.rand(n, words, device=device)
    before, other = upper.cpu().clone(), lower.cpu()
    status = [draw.randint(0, 5) for _ in range(n)]
    from_ = draw.sample(range(n), n)
    has = [draw.random() < 0.5 for _ in range(n)]
    addresses = [
        lower.data_ptr() + 4 * words * i if h else 0 for i, h in zip(from_, has, strict=True)
    ]
    below, rows = on(device, addresses, [upper.data_ptr() + 4 * words * i for i in range(n)])
    given = torch.tensor(status, dtype=torch.uint8, device=device)
    now = ops.take_rows(state, below, rows, given, 4 * words)
    takes = [h and s in (INSERTED, EVICTED) for h, s in zip(has, status, strict=True)]
    assert now.tolist() == [1 if t else s for t, s in zip(takes, status, strict=True)]
    for i, t in enumerate(takes):
        before[i] = other[from_[i]] if t else before[i]
    assert torch.equal(upper.cpu(), before) and given.tolist() == status


def test_wrong_arguments_are_named() -> None:
    state, three, four = torch.zeros(8, dtype=torch.int64), *on("cpu", [0, 0, 0], [0, 0, 0, 0])
    status = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="below must be a contiguous int64 tensor of shape"):
        ops.take_rows(state, four, three, status, 16)
    with pytest.raises(RuntimeError, match="positive multiple of 16 bytes, got 8"):
        ops.take_rows(state, three, three, status, 8)
    with pytest.raises(RuntimeError, match="count must be a contiguous int64 tensor of shape"):
        ops.place_rows(three, status, three, four, three, status)
    with pytest.raises(RuntimeError, match="ends must be a contiguous int64 tensor of shape"):
        ops.tighten_lists(three, torch.zeros(3, 4), three, four, three)


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The ops that were called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_prefetch_into_a_cache_is_few_calls(device: str) -> None:
    module = tables(
        [8, 8], device, "NONE", optimizer="ADAM", caching=True, max_capacity=8192,
        local_hbm_for_values=1024 * 208, prefetch_pipeline=True,
    )  # fmt: skip
    ends: Tensor = torch.arange(0, 2001, device=device)
    for step in range(3):
        ids = torch.arange(2000, device=device) * 7 + 900 * step
        with Calls() as calls:
            module.prefetch(ids, ends)
        module(ids, ends).sum().backward()
    ours = [name for name in calls.names if name.startswith("dynamicemb.")]
    wanted = ["segmented_unique", "cache_seek", "cache_move", "init_rows"]
    assert [name.split(".")[1] for name in ours if "sort" not in name] == wanted
    assert len(calls.names) <= 18, calls.names


@pytest.mark.parametrize("prefetches", [False, True])
@pytest.mark.parametrize(("optimizer", "row_bytes"), [("SGD", 512), ("ADAM", 512 * 3 + 32)])
def test_a_cache_that_many_batches_do_not_fit_changes_no_bit(
    device: str, optimizer: str, row_bytes: int, prefetches: bool
) -> None:
    options = {"optimizer": optimizer, "max_capacity": 8192}
    cache = {"caching": True, "local_hbm_for_values": 1024 * row_bytes}
    whole = tables([128, 128], device, "NONE", **options)
    cached = tables([128, 128], device, "NONE", **options, **cache, prefetch_pipeline=prefetches)
    draw = torch.Generator().manual_seed(1)
    for n in [300, 900, 1500, 2500, 900, 300, 2500, 900]:
        ids = torch.randint(0, 4000, (2 * n,), generator=draw).to(device)
        ends = torch.arange(0, 2 * n + 1, device=device)
        if prefetches:
            cached.prefetch(ids, ends)
        wanted, got = whole(ids, ends), cached(ids, ends)
        assert torch.equal(got, wanted)
        grad = torch.randn(wanted.shape, generator=draw).to(device)
        wanted.backward(grad)
        got.backward(grad)
