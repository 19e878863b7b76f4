"""What the ranks of one group dump, those of another load."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamicemb import (
    DynamicEmbDump,
    DynamicEmbLoad,
    DynamicEmbTableOptions,
    ExchangeOptions,
)
from dynamicemb.dealing import owners
from dynamicemb.incremental_dump import get_score, incremental_dump
from dynamicemb.increments import Increments, replay_increments

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.pool import Pool

BASE = Case("SUM", optimizer="ADAM", steps=3)


def trained(group: Any, case: Case) -> Any:
    made = cases.collection(case, group)
    for step in range(case.steps):
        given = cases.batch(case, dist.get_rank(group), step)
        out = cases.look_up(case, made, given)
        cases.learn(out, cases.grads_of(case, given, out))
    return made


def dumps(group: Any, case: Case, path: str) -> Any:
    made = trained(group, case)
    DynamicEmbDump(path, made, optim=True)
    return cases.contents(made)


def loads(group: Any, case: Case, path: str) -> Any:
    made = cases.collection(case, group)
    DynamicEmbLoad(path, made, optim=True)
    return cases.contents(made)


def together(parts: list[Any], name: str) -> tuple[list[int], torch.Tensor]:
    width = max(part[name][1].shape[1] for part in parts)
    keys = torch.tensor([key for part in parts for key in part[name][0]])
    rows = torch.cat([part[name][1].view(-1, width) for part in parts])
    order = keys.argsort()
    return keys[order].tolist(), rows[order]


@pytest.mark.parametrize(
    ("before", "after", "dealt", "dealt_after"),
    [
        (1, 2, "roundrobin", "hash_roundrobin"),
        (2, 1, "hash_roundrobin", "hash_roundrobin"),
        (2, 2, "continuous", "continuous"),
        (3, 2, "continuous", "roundrobin"),
        (2, 4, "hash_roundrobin", "continuous"),
    ],
)
def test_other_ranks_load_the_same_rows(
    pool: Pool, tmp_path: Path, before: int, after: int, dealt: str, dealt_after: str
) -> None:
    path = str(tmp_path / "dump")
    saved = pool.run(dumps, before, BASE._replace(dist_type=dealt), path)
    found = pool.run(loads, after, BASE._replace(dist_type=dealt_after), path)
    for name in saved[0]:
        keys, rows = together(saved, name)
        got, got_rows = together(found, name)
        assert got == keys and torch.equal(got_rows, rows)
        for rank, part in enumerate(found):
            mine = torch.tensor(part[name][0], dtype=torch.int64)
            assert (owners(mine, dealt_after, after, 1000) == rank).all()


def test_tables_that_are_grouped_otherwise_load_the_same_rows(pool: Pool, tmp_path: Path) -> None:
    """One process without a group has one module, two ranks have one for each dim, chunks more."""
    saved = pool.run(dumps, 2, BASE, str(tmp_path / "two"))
    alone = cases.collection(BASE, None)
    DynamicEmbLoad(str(tmp_path / "two"), alone, optim=True)
    DynamicEmbDump(str(tmp_path / "one"), alone, optim=True)
    DynamicEmbDump(str(tmp_path / "two"), alone, optim=True, allow_overwrite=True)
    chunked = BASE._replace(exchange=ExchangeOptions(chunks=2))
    for path in ("one", "two"):
        found = pool.run(loads, 2, chunked, str(tmp_path / path))
        for name in saved[0]:
            keys, rows = together(saved, name)
            got, got_rows = together(found, name)
            assert got == keys == cases.contents(alone)[name][0]
            assert torch.equal(got_rows, rows)


def test_a_missing_part_is_named(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    pool.run(dumps, 2, BASE, str(path))
    gone = next(path.rglob("t0_emb_keys.rank_1.world_size_2"))
    gone.unlink()
    for error in pool.errors(loads, 3, BASE, str(path)):
        assert "t0_emb_keys.rank_1.world_size_2: the file is missing" in error


def dumps_beside_another(group: Any, path: str) -> str:
    from dynamicemb import dump_ranks

    made = trained(group, BASE)
    module = made.groups[0]
    lock = dump_ranks._locked(Path(path)) if dist.get_rank(group) == 0 else None
    try:
        module.dump(path)
    except RuntimeError as error:
        return str(error)
    finally:
        if lock is not None:
            lock.close()
    return ""


def test_a_dump_that_another_job_writes_is_named(pool: Pool, tmp_path: Path) -> None:
    for error in pool.run(dumps_beside_another, 2, str(tmp_path / "dump")):
        assert "rank 0 failed" in error and ".dump.lock is held" in error


def dumps_for_ever(group: Any, path: str) -> None:
    made = trained(group, BASE)
    DynamicEmbDump(path, made, optim=True)
    Path(f"{path}.there").touch()
    while True:
        DynamicEmbDump(path, made, optim=True, allow_overwrite=True)


def test_a_rank_that_is_killed_in_a_dump_leaves_the_one_before(pool: Pool, tmp_path: Path) -> None:
    rounds = 50 if os.environ.get("DYNAMICEMB_LONG_TESTS") == "1" else 5
    saved = pool.run(dumps, 2, BASE, str(tmp_path / "whole"))
    draw = random.Random(rounds)
    for number in range(rounds):
        path = tmp_path / str(number)
        pair = Pool(2, ["torch", "dynamicemb"], timeout=5)
        try:
            for pipe in pair.pipes:
                pipe.send((dumps_for_ever, 2, (str(path),)))
            end = time.monotonic() + 60
            while not Path(f"{path}.there").exists():
                assert time.monotonic() < end, "no dump is written"
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            pair.processes[number % 2].kill()
            other = pair.pipes[1 - number % 2]
            assert other.poll(60), "the other rank hangs"
            well, said = other.recv()
            assert not well and f"rank {number % 2} failed" in said[0], said
        finally:
            for process in pair.processes:
                process.kill()
        other_ranks = pool.run(loads, 1, BASE, str(path))
        for name in saved[0]:
            keys, rows = together(saved, name)
            got, got_rows = together(other_ranks, name)
            assert got == keys and torch.equal(got_rows, rows)


INCREMENTS = Case("SUM", "hash_roundrobin")
ROOM = 16  # rows of a rank's table: fewer than the keys that it is asked for


def small(group: Any, rows: int) -> Any:
    options = {
        f"t{t}": DynamicEmbTableOptions(
            dist_type=INCREMENTS.dist_type, max_capacity=rows, initializer_args=cases.NORMAL
        )
        for t in range(3)
    }
    params = {"optimizer": "ADAM", "learning_rate": 0.125, "seed": 7, "capture_evicted": True}
    return cases.collection(INCREMENTS, group, options=options, fused_params=params)


def train(live: Any, group: Any, steps: range) -> dict[str, set[int]]:
    """The keys of each table that this rank asked for."""
    asked: dict[str, set[int]] = {f"t{t}": set() for t in range(3)}
    for step in steps:
        given = cases.batch(INCREMENTS, dist.get_rank(group), step)
        out = cases.look_up(INCREMENTS, live, given)
        cases.learn(out, cases.grads_of(INCREMENTS, given, out))
        parts = given.values.split(given.lengths.sum(1).tolist())
        for table, keys in zip(("t0", "t0", "t1", "t2"), parts, strict=True):
            asked[table] |= set(keys.tolist())
    return asked


def increments(group: Any, folder: str) -> Any:
    live = small(group, ROOM)
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
    other = small(group, 1024)
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
