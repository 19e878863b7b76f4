"""A rank that fails under TorchRec is named by the others, within the group's timeout."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch.distributed as dist

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.pool import Pool

pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import Model, build, given


@pytest.fixture
def short() -> Iterator[Pool]:
    """A pool that a test may break; its collectives fail after four seconds."""
    made = Pool(3, ["torch", "torchrec", "dynamicemb.shard"], timeout=4)
    yield made
    for process in made.processes:
        process.kill()


def _raise(*_: Any) -> None:
    raise ArithmeticError("in the middle of it")


def failing(group: Any, kind: str, where: str) -> None:
    model = Model(kind)
    made = build(model, group)
    first = dist.get_rank(group) == 1
    for step in range(2):
        jagged, whole = given(model, dist.get_rank(group), step)
        if first and step == 1 and where == "lookup":
            made.module.sparse._lookups[0].register_forward_pre_hook(_raise)
        if first and step == 1 and where == "elsewhere":
            _raise()
        if first and step == 1 and where == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        out = made(jagged)
        if first and step == 1 and where == "backward":
            out["f"].register_hook(_raise)
        cases.learn(out, cases.grads_of(cases.Case(kind), whole, out))


@pytest.mark.parametrize(
    ("kind", "where"),
    [("sequence", "lookup"), ("SUM", "backward"), ("sequence", "elsewhere")],
)
def test_a_rank_that_raises_is_named_by_the_others(short: Pool, kind: str, where: str) -> None:
    errors = short.errors(failing, 3, kind, where)
    assert "in the middle of it" in errors[1]
    for rank in (0, 2):
        assert "rank 1 failed" in errors[rank], errors
        assert where != "lookup" or "ArithmeticError in its forward" in errors[rank], errors


def test_a_killed_rank_is_named_by_the_others(short: Pool) -> None:
    for pipe in short.pipes:
        pipe.send((failing, 3, ("sequence", "killed")))
    for rank in (0, 2):
        assert short.pipes[rank].poll(60), f"rank {rank} hangs"
        well, said = short.pipes[rank].recv()
        assert not well and "rank 1 failed" in said[0], said
