"""What any number of ranks dumps, any number loads: all pairs, ranks being threads of a process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import (
    BatchedDynamicEmbeddingTablesV2,
    DynamicEmbPoolingMode,
    DynamicEmbTableOptions,
)
from dynamicemb.dealing import owners
from dynamicemb.dump_load import state_of, weights_of
from dynamicemb.dump_ranks import Part

from tests.dynamicemb_dist.fake_group import FakeLink, Meeting

WORLDS, DISTS = (1, 2, 3, 8), ("continuous", "roundrobin", "hash_roundrobin")
ROWS = 1000  # numbered; keys lie within, beyond and below
KEYS = torch.arange(-40, 1100, 7)

Rows = dict[int, tuple[list[float], int]]


def part_of(link: FakeLink, dist: str) -> BatchedDynamicEmbeddingTablesV2:
    """A rank's part of a table, Adam, scores by step."""
    options = DynamicEmbTableOptions(
        torch.float32, 4, 512, dist_type=dist, score_strategy="STEP", init_capacity=512
    )
    module = BatchedDynamicEmbeddingTablesV2(
        [options], ["t"], pooling_mode=DynamicEmbPoolingMode.NONE, device="cpu", seed=3,
        optimizer="ADAM", learning_rate=0.1, enforce_hbm=True,
    )  # fmt: skip
    like: Any = link
    module.part = Part(like, [ROWS])
    return module


def contents(module: BatchedDynamicEmbeddingTablesV2) -> Rows:
    return {
        key: (row, score)
        for keys, words, scores in module.tiers.export(0)
        for key, row, score in zip(
            keys.tolist(),
            torch.cat([weights_of(module, 0, words), state_of(module, 0, words)], 1).tolist(),
            scores.tolist(),
            strict=True,
        )
    }


def dump(world: int, dist: str, folder: Path) -> Rows:
    def one(link: FakeLink) -> Rows:
        module = part_of(link, dist)
        mine = KEYS[owners(KEYS, dist, world, ROWS) == link.rank]
        for step in range(3):
            some = mine[: len(mine) - step]  # their scores differ
            out = module(some, torch.tensor([0, len(some)]))
            out.backward(some[:, None] % 7 * torch.ones_like(out))
        module.dump(str(folder), optim=True)
        return contents(module)

    return together(Meeting(world).run(one))


def load(world: int, dist: str, folder: Path) -> Rows:
    def one(link: FakeLink) -> Rows:
        module = part_of(link, dist)
        module.load(str(folder), optim=True)
        found = contents(module)
        if found:
            assert (owners(torch.tensor(list(found)), dist, world, ROWS) == link.rank).all()
        return found

    return together(Meeting(world).run(one))


def together(parts: list[Rows]) -> Rows:
    every = {key: row for part in parts for key, row in part.items()}
    assert len(every) == sum(map(len, parts)), "a key is on two ranks"
    return every


@pytest.mark.parametrize("dist", DISTS)
@pytest.mark.parametrize("world", WORLDS)
def test_every_number_of_ranks_loads_what_another_dumped(
    tmp_path: Path, world: int, dist: str
) -> None:
    saved = dump(world, dist, tmp_path / "d")
    assert sorted(saved) == KEYS.tolist()
    assert len({score for _, score in saved.values()}) > 1
    for after in WORLDS:
        for dealt in DISTS:
            assert load(after, dealt, tmp_path / "d") == saved, (after, dealt)


def test_a_rank_s_file_that_is_there_twice_is_named(tmp_path: Path) -> None:
    dump(3, "roundrobin", tmp_path / "d")
    one, two = (tmp_path / "d" / f"t_emb_keys.rank_{r}.world_size_3" for r in (0, 1))
    assert one.stat().st_size >= two.stat().st_size
    two.write_bytes(one.read_bytes()[: two.stat().st_size])
    with pytest.raises(ValueError, match=r"t_emb_keys\.rank_1\.world_size_3: its SHA-256 is not"):
        load(2, "roundrobin", tmp_path / "d")
    shutil.copy(one, one.with_name("t_emb_keys.rank_3.world_size_3"))
    two.unlink()
    with pytest.raises(ValueError, match=r"t_emb_keys\.rank_1\.world_size_3: the file is missing"):
        load(2, "roundrobin", tmp_path / "d")
