"""What the ranks of one group dump, those of another load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbDump, DynamicEmbLoad
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
