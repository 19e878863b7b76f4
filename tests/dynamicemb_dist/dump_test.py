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
from dynamicemb import DynamicEmbDump, DynamicEmbLoad, ExchangeOptions
from dynamicemb.dealing import owners

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
