"""What goes wrong on one rank is named on all of them, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbTableOptions, ExchangeOptions

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.cases import Case
from tests.dynamicemb_dist.pool import Pool


@pytest.fixture
def short() -> Iterator[Pool]:
    """A pool that a test may break; its collectives fail after ten seconds."""
    made = Pool(3, ["torch", "dynamicemb"], timeout=10)
    yield made
    for process in made.processes:
        process.kill()


def differing(group: Any, what: str) -> None:
    """Rank 1 builds another collection than the others."""
    case = Case("SUM")
    changes: dict[str, Any] = {}
    if dist.get_rank(group) == 1:
        if what == "optimizer":
            case = case._replace(optimizer="SGD")
        if what == "dim":
            case = case._replace(dims=(8, 8, 8))
        if what == "tables":
            changes = {"tables": 2}
        if what == "dist_type":
            case = case._replace(dist_type="continuous")
        if what == "exchange":
            case = case._replace(exchange=ExchangeOptions(dedup=False))
        if what == "first rows":
            one = DynamicEmbTableOptions(max_capacity=1024)
            one.initializer_args.upper = 3.0
            changes = {"options": {"t1": one}}
    cases.collection(case, group, **changes)


@pytest.mark.parametrize(
    "what", ["optimizer", "dist_type", "exchange", "first rows", "dim", "tables"]
)
def test_ranks_that_build_different_tables_say_the_difference(pool: Pool, what: str) -> None:
    errors = pool.errors(differing, 3, what)
    for error in errors:
        assert error.startswith("ValueError: dynamicemb: ranks differ in "), error
        assert "rank 1 has" in error
    named = what if what in ("optimizer", "exchange") else "table"
    assert all(f"differ in {named}" in error for error in errors)


def test_seeds_that_differ_are_rank_0_s(pool: Pool) -> None:
    seeds = pool.run(seed_of, 2)
    assert seeds[0] == seeds[1] == 100


def seed_of(group: Any) -> int:
    torch.manual_seed(100 + dist.get_rank(group))
    params = {"optimizer": "SGD", "learning_rate": 0.125}
    made = cases.collection(Case("SUM"), group, fused_params=params)
    return int(made.groups[0]._seed)


def too_many(group: Any) -> Any:
    case = Case("sequence", exchange=ExchangeOptions(max_keys_per_rank=3))
    made = cases.collection(case, group)
    given = cases.batch(case._replace(batches="uneven"), dist.get_rank(group), 0)
    error = ""
    try:
        cases.look_up(case, made, given)
    except ValueError as raised:
        error = str(raised)
    return error, sum(len(keys) for keys, _ in cases.contents(made).values())


def test_too_many_keys_name_who_asked_whom_and_change_nothing(pool: Pool) -> None:
    for error, rows in pool.run(too_many, 2):
        assert "asks rank" in error and "max_keys_per_rank is 3" in error
        assert rows == 0


def raising(group: Any, where: str) -> None:
    case = Case("SUM")
    made = cases.collection(case, group)
    rank = dist.get_rank(group)
    given = cases.batch(case, rank, 0)
    if rank == 1 and where == "forward":
        given = given._replace(values=given.values.int())
    if rank == 1 and where == "elsewhere":
        raise KeyError("in the model")
    out = cases.look_up(case, made, given)
    grads = cases.grads_of(case, given, out)
    if rank == 1 and where == "backward":
        out["f"].register_hook(_raise)
    cases.learn(out, grads)


def _raise(grad: Any) -> None:
    raise ArithmeticError("in the model's backward")


@pytest.mark.parametrize("where", ["forward", "backward", "elsewhere"])
def test_a_rank_that_raises_is_named_by_the_others(short: Pool, where: str) -> None:
    errors = short.errors(raising, 3, where)
    for rank in (0, 2):
        assert "rank 1 failed" in errors[rank], errors
    if where == "forward":
        assert "indices must be a 1-D int64 tensor" in errors[0]


def killed(group: Any, victim: int) -> None:
    case = Case("SUM")
    made = cases.collection(case, group)
    for step in range(3):
        if step == 2 and dist.get_rank(group) == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        given = cases.batch(case, dist.get_rank(group), step)
        out = cases.look_up(case, made, given)
        cases.learn(out, cases.grads_of(case, given, out))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_by_the_others(short: Pool, victim: int) -> None:
    for pipe in short.pipes:
        pipe.send((killed, 3, (victim,)))
    for rank in set(range(3)) - {victim}:
        assert short.pipes[rank].poll(60), f"rank {rank} hangs"
        well, said = short.pipes[rank].recv()
        assert not well and f"rank {victim} failed" in said[0], said


def test_wrong_options_are_named() -> None:
    for wrong in (
        {"pool_at": "nowhere"}, {"chunks": 0}, {"max_keys_per_rank": 0}, {"max_keys_per_rank": 2.5},
        {"forward_dtype": torch.int8}, {"backward_dtype": torch.int8},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ExchangeOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_keys_per_rank needs pool_at"):
        ExchangeOptions(max_keys_per_rank=5, pool_at="owner")
    with pytest.raises(ValueError, match="exchange needs a process_group"):
        cases.collection(Case("SUM"), None, exchange=ExchangeOptions())


def learning_at_the_owner(group: Any) -> None:
    case = Case("SUM", weighted=True, exchange=ExchangeOptions(pool_at="owner"))
    made = cases.collection(case, group)
    given = cases.batch(case, dist.get_rank(group), 0)
    cases.look_up(case, made, given._replace(weights=given.weights.requires_grad_()))


def test_weights_that_learn_are_not_pooled_at_the_owner(pool: Pool) -> None:
    for error in pool.errors(learning_at_the_owner, 2):
        assert "weights that require a gradient need pool_at" in error


def weights_learn(group: Any) -> Any:
    case = Case("MEAN", weighted=True)
    made = cases.collection(case, group)
    given = cases.batch(case, dist.get_rank(group), 0)
    given.weights.requires_grad_()
    out = cases.look_up(case, made, given)
    cases.learn(out, cases.grads_of(case, given, out))
    return given.weights.grad


def test_weights_get_their_gradient(pool: Pool) -> None:
    case = Case("MEAN", weighted=True)
    for rank, got in enumerate(pool.run(weights_learn, 2)):
        alone = cases.collection(case, None)
        given = cases.batch(case, rank, 0)
        given.weights.requires_grad_()
        out = cases.look_up(case, alone, given)
        cases.learn(out, cases.grads_of(case, given, out))
        torch.testing.assert_close(got, given.weights.grad)
