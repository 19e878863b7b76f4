"""Increments of tables that are dealt out: those of all shards, and a dump that follows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbDump, DynamicEmbLoad, DynamicEmbTableOptions
from dynamicemb.incremental_dump import get_score, incremental_dump
from dynamicemb.increments import Increments, replay_increments

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.dump_test import together
from tests.dynamicemb_dist.pool import Pool

CASE = Case("SUM", "hash_roundrobin")
ROOM = 16  # rows of a rank's table: fewer than the keys that it is asked for


def made(group: Any, rows: int) -> Any:
    options = {
        f"t{t}": DynamicEmbTableOptions(
            dist_type=CASE.dist_type, max_capacity=rows, initializer_args=cases.NORMAL
        )
        for t in range(3)
    }
    params = {"optimizer": "ADAM", "learning_rate": 0.125, "seed": 7, "capture_evicted": True}
    return cases.collection(CASE, group, options=options, fused_params=params)


def train(live: Any, group: Any, steps: range) -> dict[str, set[int]]:
    """The keys of each table that this rank asked for."""
    asked: dict[str, set[int]] = {f"t{t}": set() for t in range(3)}
    for step in steps:
        given = cases.batch(CASE, dist.get_rank(group), step)
        out = cases.look_up(CASE, live, given)
        cases.learn(out, cases.grads_of(CASE, given, out))
        parts = given.values.split(given.lengths.sum(1).tolist())
        for table, keys in zip(("t0", "t0", "t1", "t2"), parts, strict=True):
            asked[table] |= set(keys.tolist())
    return asked


def increments(group: Any, folder: str) -> Any:
    live = made(group, ROOM)
    train(live, group, range(3))
    since = get_score(live)
    assert since is not None
    series = Increments(f"{folder}/increments", live)
    DynamicEmbDump(f"{folder}/dump", live, optim=True)
    before = cases.contents(live)
    asked = train(live, group, range(3, 5))
    series.append()
    dumped = incremental_dump(live, since)
    assert dumped is not None
    after = cases.contents(live)
    train(live, group, range(5, 7))
    series.append()
    return asked, dumped[0], before, after, cases.contents(live)


def follows(group: Any, folder: str) -> Any:
    other = made(group, 1024)
    DynamicEmbLoad(f"{folder}/dump", other, optim=True)
    assert replay_increments(f"{folder}/increments", other) == 2
    return cases.contents(other)


def test_increments_are_those_of_all_shards_and_replay_to_the_live_tables(
    pool: Pool, tmp_path: Path
) -> None:
    told = pool.run(increments, 3, str(tmp_path))
    asked, dumped, before, after, last = zip(*told, strict=True)
    for name in ("t0", "t1", "t2"):
        live, rows = together(list(after), name)
        trained = set.union(*(one[name] for one in asked))
        for one in dumped:
            keys, values = one[""][name]
            assert sorted(keys.tolist()) == sorted(set(live) & trained)
            order = keys.argsort()
            where = torch.tensor([live.index(key) for key in keys[order].tolist()])
            assert torch.equal(values[order], rows[where][:, : values.shape[1]])
        assert set(together(list(before), name)[0]) - set(live), "no row left the tables"
    for ranks in (1, 2):
        found = pool.run(follows, ranks, str(tmp_path))
        for name in ("t0", "t1", "t2"):
            keys, rows = together(list(last), name)
            got, got_rows = together(found, name)
            assert got == keys and torch.equal(got_rows, rows)
