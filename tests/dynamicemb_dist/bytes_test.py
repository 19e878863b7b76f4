"""Where keys go, what each option moves between ranks, and beside what: counted and traced."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamicemb import ExchangeOptions
from dynamicemb.dealing import (
    deal,
    deal_long,
    dist_codes,
    owners,
    transposed,
    transposed_sizes,
)
from dynamicemb.link import LinkBytes
from dynamicemb.ops import ops
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.pool import Pool

DISTS = ("continuous", "roundrobin", "hash_roundrobin")
MANY = 10_000_000
LATE = 0.05  # seconds by which rank 1 sends each chunk's keys


@pytest.mark.parametrize("dist_type", DISTS)
def test_ten_million_keys_go_where_the_formula_says(dist_type: str) -> None:
    world, rows = 7, 2**40
    draw = torch.Generator().manual_seed(1)
    keys = torch.randint(-(2**63), 2**63 - 1, (MANY,), generator=draw)
    keys[: MANY // 2] &= 2 * rows - 1  # half of them in or near the blocks
    codes, blocks = dist_codes([dist_type], [rows], world)
    sizes = None if blocks is None else torch.tensor(blocks)
    dealt = deal(keys, torch.tensor([0, MANY]), torch.tensor(codes).int(), sizes, world)
    wanted = owners(keys, dist_type, world, rows)
    assert torch.equal(dealt.lengths[:, 0], torch.bincount(wanted, minlength=world))
    assert torch.equal(dealt.keys[dealt.place], keys)
    ends = dealt.lengths[:, 0].cumsum(0)
    assert torch.equal(torch.searchsorted(ends, dealt.place, right=True), wanted)


def test_a_sort_deals_as_the_kernel_does() -> None:
    draw = torch.Generator().manual_seed(2)
    for world in (1, 3, 300):
        keys = torch.randint(-3000, 3000, (900,), generator=draw)
        offsets = torch.tensor([0, 100, 100, 350, 400, 800, 870])  # 30 keys lie behind
        for kinds, only in ([0, 1, 2], None), ([1, 1, 1], 1), ([2, 2, 2], 2), ([0, 0, 0], 0):
            codes = torch.tensor(kinds, dtype=torch.int32)
            arguments = (keys, offsets, codes, torch.tensor([500, 400, 300]), world)
            one, other = deal(*arguments), deal_long(*arguments, None, only)
            assert torch.equal(one.lengths, other.lengths)
            assert torch.equal(one.keys[:870], other.keys[:870])
            assert torch.equal(one.place[:870], other.place[:870])


@pytest.mark.parametrize("n", [1, 700, 100_003])
def test_keys_of_long_segments_are_dealt_as_by_a_sort(device: str, n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    keys = torch.randint(-(2**63), 2**63 - 1, (n,), generator=draw)
    keys[::2] &= 2047
    cuts = torch.randint(0, n + 1, (6,), generator=draw).sort().values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), cuts])
    kinds = torch.tensor([0, 1, 2, 2, 0, 1], dtype=torch.int32)
    blocks = torch.tensor([500, 1, 1, 1, 90, 1])
    keys, offsets, kinds, blocks = (part.to(device) for part in (keys, offsets, kinds, blocks))
    for world in (1, 3, 170):
        wanted = deal_long(keys, offsets, kinds, blocks, world)
        lengths, dealt, place = ops.deal_keys(keys, offsets, kinds, blocks, world)
        assert torch.equal(lengths.view(world, 6), wanted.lengths)
        assert torch.equal(dealt[place], keys)
        assert torch.equal(place[: cuts[-1]], wanted.place[: cuts[-1]])


def test_sizes_known_on_the_cpu_give_the_same_order() -> None:
    sizes = [[3, 0, 2], [0, 0, 1], [4, 1, 0]]
    known = transposed_sizes(sizes, torch.device("cpu"))
    found = transposed(torch.tensor(sizes), 11)
    assert all(torch.equal(a, b) for a, b in zip(known, found, strict=True))


@pytest.mark.parametrize("step", [1, 8])
def test_hashed_keys_are_spread_evenly(step: int) -> None:
    """Also those that are all multiples of the number of ranks."""
    world, n = 8, 1_000_000
    counts = torch.bincount(owners(torch.arange(n) * step, "hash_roundrobin", world))
    sigma = (n / world * (1 - 1 / world)) ** 0.5
    assert ((counts - n / world).abs() <= 5 * sigma).all()


def moved(group: Any, case: Case) -> dict[str, int]:
    """Bytes of one step after another, by this rank."""
    made = cases.collection(case, group)
    rank = dist.get_rank(group)
    given = cases.batch(case, rank, 0)
    with LinkBytes() as counted:
        out = cases.look_up(case, made, given)
        cases.learn(out, cases.grads_of(case, given, out))
    return {"bytes": counted.total, "calls": sum(counted.calls.values())}


def zipf(group: Any, options: ExchangeOptions) -> int:
    """Bytes of a step of 26 features with 4,096 skewed keys each, dim 32."""
    from dynamicemb import DynamicEmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

    rank, n, features = dist.get_rank(group), 4096, 26
    tables = [EmbeddingConfig(f"t{t}", 32, 100_000, [f"f{t}"]) for t in range(features)]
    made = DynamicEmbeddingCollection(tables, "cpu", process_group=group, exchange=options)
    draw = torch.Generator().manual_seed(rank)
    chances = torch.arange(1, 65537).double() ** -1.05
    keys = torch.multinomial(chances, n * features, True, generator=draw)
    names = [f"f{t}" for t in range(features)]
    batch = KeyedJaggedTensor(names, keys, torch.ones(n * features, dtype=torch.int64))
    with LinkBytes() as counted:
        out = made(batch)
        torch.cat([part.values() for part in out.values()]).sum().backward()
    return counted.total


def test_bytes_are_counted_by_the_rank_in_the_group_of_each_collective() -> None:
    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        pair = dist.new_group([1, 3])
        rows = torch.ones(8, 2)
        with LinkBytes() as counted:
            dist.all_to_all_single(torch.empty(8, 2), rows, [3, 5], [3, 5], group=pair)
            dist.all_reduce(rows[:4], group=pair)
            dist.all_gather([torch.empty(4, 2) for _ in range(2)], rows[:4], group=pair)
            dist.reduce_scatter(torch.empty(2), [rows[0], rows[1]], group=pair)
            dist.broadcast(rows[:1], 1)
    finally:
        dist.destroy_process_group()
    wanted = {"alltoall_base_": 24, "allreduce_": 32, "allgather_": 32, "reduce_scatter_": 8}
    assert counted.bytes == wanted | {"broadcast_": 24}


def test_distinct_keys_move_at_most_half_of_all_keys_bytes(pool: Pool) -> None:
    dedup = pool.run(zipf, 2, ExchangeOptions())
    every = pool.run(zipf, 2, ExchangeOptions(dedup=False))
    assert sum(dedup) <= 0.5 * sum(every), (dedup, every)


def test_sixteen_bit_rows_and_gradients_move_half_the_bytes_of_rows(pool: Pool) -> None:
    whole = pool.run(zipf, 2, ExchangeOptions())
    half = pool.run(
        zipf, 2, ExchangeOptions(forward_dtype=torch.bfloat16, backward_dtype=torch.bfloat16)
    )
    for a, b in zip(whole, half, strict=True):
        assert 0.5 <= b / a < 0.55  # keys are as they were


def test_chunks_move_the_same_bytes_in_more_calls(pool: Pool) -> None:
    one, four = (
        pool.run(moved, 2, Case("sequence", dims=(8, 8, 8), exchange=ExchangeOptions(chunks=c)))
        for c in (1, 3)
    )
    for a, b in zip(one, four, strict=True):
        assert a["bytes"] == b["bytes"] and b["calls"] > a["calls"]


def traced(group: Any, chunks: int) -> list[tuple[str, float, float]]:
    """Name, begin and end (ms) of rank 0's transfers and lookups in a forward."""
    options = ExchangeOptions(chunks=chunks, pool_at="requester")
    case = Case("sequence", dims=(8, 8, 8), exchange=options)
    made = cases.collection(case, group)
    given = cases.batch(case, dist.get_rank(group), 0)
    cases.look_up(case, made, given)
    link = made._exchanges[0].link
    send = link.all_to_all

    def slow(*arguments: Any) -> Any:
        time.sleep(LATE)
        return send(*arguments)

    if dist.get_rank(group) == 1:
        link.all_to_all = slow
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        cases.look_up(case, made, given)
    return [
        (event.name, event.time_range.start / 1e3, event.time_range.end / 1e3)
        for event in prof.events()
        if event.name in ("gloo:all_to_all", "dynamicemb::table_set_write")
    ]


def beside_the_next(events: list[tuple[str, float, float]]) -> list[bool]:
    """Of each chunk's lookup but the last one's: the keys of the next chunk are on their way, from
    its begin to its end. The first transfer is that of all sizes, then come the chunks' keys."""
    transfers = sorted((a, b) for name, a, b in events if name.startswith("gloo"))
    lookups = sorted((a, b) for name, a, b in events if not name.startswith("gloo"))
    return [
        begin <= a and b <= end
        for (a, b), (begin, end) in zip(lookups[:-1], transfers[2:], strict=False)
    ]


def test_a_chunk_is_looked_up_while_the_next_one_s_keys_are_under_way(pool: Pool) -> None:
    assert beside_the_next(pool.run(traced, 2, 1)[0]) == []
    assert beside_the_next(pool.run(traced, 2, 3)[0]) == [True, True]
