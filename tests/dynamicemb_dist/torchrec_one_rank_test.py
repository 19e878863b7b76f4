"""Dynamic tables under TorchRec with one rank: nothing is dealt out, nothing is waited for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("torchrec")

from torchrec.distributed.types import Awaitable

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.torchrec_cases import Model, alone, build, given


@contextlib.contextmanager
def unsynchronized() -> Iterator[list[str]]:
    """What PyTorch says of waits for the GPU within."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found += [str(one.message) for one in said if "synchronizing" in str(one.message)]


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What TorchRec's own ``wait`` was called of."""
    found: list[Any] = []
    wait = Awaitable.wait
    monkeypatch.setattr(Awaitable, "wait", lambda one: (found.append(one), wait(one))[1])
    return found


@pytest.mark.parametrize("model", [Model(), Model("SUM"), Model(dedup=True)])
def test_one_rank_trains_as_one_table_and_waits_for_nothing(
    device: str, model: Model, awaited: list[Any]
) -> None:
    """Of a batch whose loader knows how many keys each feature has. Only the first step, and one
    in which somebody hooks into a lookup, goes through TorchRec's awaitables."""
    cuda = device != "cpu"
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        made = build(model._replace(device=device), dist.group.WORLD)
        outs, _ = alone(model, 1)
        for step in range(model.steps):
            jagged, whole = given(model, 0, step)
            there = jagged.to(torch.device(device))
            there.length_per_key()
            hook = None
            if step == 1:
                hook = made.module.sparse._lookups[0].register_forward_pre_hook(lambda *_: None)
            awaited.clear()
            with unsynchronized() if cuda else contextlib.nullcontext([]) as waits:
                out = made(there)
            assert step < 2 or not waits
            grads = [grad.to(device) for grad in cases.grads_of(cases.Case(model.kind), whole, out)]
            cases.learn(out, grads)
            assert bool(awaited) == (step < 2)
            if hook is not None:
                hook.remove()
            for name, wanted in outs[0][step].items():
                torch.testing.assert_close(out[name].cpu(), wanted, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()
