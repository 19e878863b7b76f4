"""Batches are a function of (seed, epoch, step), and hold the right tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hstu_attn.ref import visible
from hstu_training.data.batches import BatchMaker, Order, Task, ahead
from hstu_training.data.columns import Columns, Events, write
from hstu_training.data.shuffler import balanced, even, visible_pairs


def columns(folder: Path, lengths: list[int]) -> Columns:
    """User u has items 100 u + i with actions i % 3 at times 10 i."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    users = np.arange(len(lengths))
    cities = {"city": users % 4}
    events = Events(owner, 100 * owner + place, 10 * place, place % 3, cities, users, 4, False)
    write(folder / "data", "made", events)
    return Columns(folder / "data")


def task(**changes: object) -> Task:
    given = {"ranking": True, "split": "users", "history": 4, "candidates": 2,
             "contexts": ("user_id", "city")}  # fmt: skip
    return Task(**{**given, **changes})  # type: ignore[arg-type]


def test_a_ranking_batch_is_contexts_pairs_and_candidates(tmp_path: Path) -> None:
    maker = BatchMaker(columns(tmp_path, [9, 4, 2, 3]), task(), "train")
    assert maker.users.tolist() == [0, 1]  # the first 70 % of those with more than 2 events
    batch = maker.make(np.array([0, 1]), np.array([0, 1]))
    # The most recent events: 4 of the history and 2 candidates of user 0, 2 and 2 of user 1.
    assert batch.features["item"].tolist() == [3, 4, 5, 6, 7, 8, 100, 101, 102, 103]
    assert batch.features["action"].tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.features["user_id"].tolist() == batch.features["city"].tolist() == [0, 1]
    flat = ["u0", "u1", "c0", "c1", *(f"i{i}" for i in batch.features["item"].tolist())]
    flat += [f"a{n}" for n in range(6)]
    assert [flat[i] for i in batch.order.tolist()] == (
        "u0 c0 i3 a0 i4 a1 i5 a2 i6 a3 i7 i8 u1 c1 i100 a4 i101 a5 i102 i103".split()
    )
    assert batch.cu.tolist() == [0, 12, 20] and batch.max_len == 12
    assert batch.contexts.tolist() == batch.targets.tolist() == [2, 2]
    assert batch.target_rows.tolist() == [10, 11, 18, 19] and batch.cu_targets.tolist() == [0, 2, 4]
    assert batch.places.tolist() == [*range(11), 10, *range(7), 6]  # one for all candidates
    assert batch.labels.tolist() == [1, 2, 2, 0] and batch.groups.tolist() == [0, 0, 1, 1]


def test_without_candidates_every_item_is_predicted(tmp_path: Path) -> None:
    maker = BatchMaker(columns(tmp_path, [9, 4]), task(split="last", contexts=()), "train")
    batch = maker.make(np.array([0, 1]), np.array([0, 1]))
    assert batch.features["item"].tolist() == [3, 4, 5, 6, 100, 101]  # not the last two
    assert batch.read_rows.tolist() == [0, 2, 4, 6, 8, 10] and batch.targets is None
    assert batch.places.tolist() == [*range(8), *range(4)]
    assert batch.labels.tolist() == [0, 1, 2, 0, 0, 1]
    test = BatchMaker(maker.columns, maker.task, "test").make(np.array([0]), np.array([0]), True)
    assert test.labels.tolist() == [1, 2] and test.features["item"].tolist() == [3, 4, 5, 6, 7, 8]


def test_leave_one_out_foretells_the_next_item(tmp_path: Path) -> None:
    given = task(ranking=False, split="leave_one_out", candidates=0, contexts=(), with_times=True)
    data = columns(tmp_path, [8, 3, 4])
    parts = {part: BatchMaker(data, given, part) for part in ("train", "valid", "test")}
    assert parts["train"].users.tolist() == [0, 2]
    batch = parts["train"].make(np.array([0]), np.array([5]))
    assert batch.features["item"].tolist() == [1, 2, 3, 4]
    assert batch.labels.tolist() == [2, 3, 4, 5] and batch.slots.tolist() == [5] * 4
    assert batch.times.tolist() == [10, 20, 30, 40]
    assert batch.next_times.tolist() == [20, 30, 40, 50]
    for part, last in (("valid", 6), ("test", 7)):
        batch = parts[part].make(np.array([0]), np.array([0]), True)
        assert batch.labels.tolist() == [last]
        assert batch.features["item"].tolist() == list(range(last - 4, last))
        assert batch.seen[1].tolist() == list(range(last))
        assert batch.read_rows.tolist() == [3]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("balance", [False, True])
def test_a_global_batch_is_the_same_for_any_number_of_processes(
    tmp_path: Path, world: int, balance: bool
) -> None:
    maker = BatchMaker(columns(tmp_path, [5 + n % 7 for n in range(40)]), task(), "train")
    alone = Order(maker, 12, seed=3)
    ranks = [Order(maker, 12 // world, r, world, 3, balance=balance) for r in range(world)]
    for step in (0, 1, alone.per_epoch, 9000):
        whole = alone(step)
        users = torch.cat([rank(step).groups for rank in ranks])
        assert sorted(users.tolist()) == sorted(whole.groups.tolist())
        slots = torch.cat([rank(step).slots for rank in ranks])
        assert set(slots.tolist()) == set(whole.slots.tolist()) == set(range(12))
    assert alone.global_batch(0).tolist() != alone.global_batch(alone.per_epoch).tolist()
    everyone = [alone.global_batch(s) for s in range(alone.per_epoch)]
    assert set(np.concatenate(everyone).tolist()) == set(range(len(maker)))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_takes_every_user_once(tmp_path: Path, world: int) -> None:
    maker = BatchMaker(columns(tmp_path, [6] * 13), task(), "test")
    found, counts = [], []
    for rank in range(world):
        order = Order(maker, 2, rank, world)
        for step in range(order.per_epoch):
            batch = order.evaluation(step)
            counts.append(batch.sequences)
            if batch.count:
                found += sorted(set(batch.groups.tolist()))
    assert sorted(found) == sorted(maker.users.tolist())
    assert sum(counts) == len(maker)


def test_batches_made_ahead_come_in_order_and_begin_anywhere() -> None:
    asked = []

    def make(step: int) -> int:
        asked.append(step)
        return step

    for workers in (1, 3):
        asked.clear()
        assert list(ahead(make, 9000, 9020, workers, 3, lambda b: b)) == list(range(9000, 9020))
        assert asked[0] == 9000
    assert list(ahead(make, 2, 4, 1, 0, lambda b: -b)) == [-2, -3]


def test_visible_pairs_are_those_of_the_mask() -> None:
    for length, contexts, targets in ((9, 0, 0), (9, 2, 3), (5, 1, 4), (1, 0, 0), (4, 3, 0)):
        mask = visible(length, length, window=(-1, 0), contexts=contexts, targets=targets)
        found = visible_pairs(np.array([length]), contexts, np.array([targets]))
        assert found[0] == int(mask.sum()), (length, contexts, targets)


@pytest.mark.parametrize("world", [2, 8])
def test_balanced_shares_of_zipf_lengths_cost_the_same(world: int) -> None:
    draw, worst, plain = np.random.default_rng(5), [], []
    for _ in range(50):
        lengths = np.minimum(draw.zipf(1.2, 32 * world), 4096)
        costs = visible_pairs(2 * lengths, 0, 0 * lengths)
        for shares, found in ((balanced(costs, world), worst), (even(costs, world), plain)):
            loads = [costs[share].sum() for share in shares]
            assert sorted(np.concatenate(shares).tolist()) == list(range(32 * world))
            found.append(max(loads) / np.mean(loads))
    assert np.mean(worst) <= 1.05 < np.mean(plain)
