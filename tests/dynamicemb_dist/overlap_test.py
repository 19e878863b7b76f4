"""What a trace shows of chunks: one is looked up while the keys of the next are on their way."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist
from dynamicemb import ExchangeOptions
from torch.profiler import ProfilerActivity, profile

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.pool import Pool

LATE = 0.05  # seconds by which rank 1 sends each chunk's keys


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
