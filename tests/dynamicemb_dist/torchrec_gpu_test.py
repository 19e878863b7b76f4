"""Dynamic tables under TorchRec on a GPU: where a step waits for it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("torchrec")

from tests.dynamicemb_dist import cases
from tests.dynamicemb_dist.torchrec_cases import Model, alone, build, given


@pytest.mark.parametrize(
    ("model", "most"), [(Model(), 0), (Model("SUM"), 0), (Model(dedup=True), 1)]
)
def test_a_step_of_one_rank_waits_at_most_once(gpu: str, model: Model, most: int) -> None:
    """Of a batch whose loader knows how many keys each feature has."""
    dist.init_process_group("nccl", rank=0, world_size=1, store=dist.HashStore())
    try:
        made = build(model._replace(device=gpu), dist.group.WORLD)
        outs, _ = alone(model, 1)
        for step in range(model.steps):
            jagged, whole = given(model, 0, step)
            there = jagged.to(torch.device(gpu))
            there.length_per_key()
            torch.cuda.synchronize()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    out = made(there)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            if step > 1:
                assert sum("synchronizing" in str(one.message) for one in said) <= most
            grads = [grad.to(gpu) for grad in cases.grads_of(cases.Case(model.kind), whole, out)]
            cases.learn(out, grads)
            for name, wanted in outs[0][step].items():
                torch.testing.assert_close(out[name].cpu(), wanted, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()
