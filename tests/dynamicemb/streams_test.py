"""Steps on a GPU's streams: nothing waits, a graph captures them, prefetches run beside them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dynamicemb.cases import tables

N, KEYS = 4096, 3000
WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "cudaMemcpy\0")


def ids_of(step: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return (torch.rand(2 * N, generator=generator) ** 3 * KEYS).long().to(device)


def module_of(device: str, pooling: str = "NONE", **changes: Any) -> Any:
    given = {"optimizer": "ADAM", "learning_rate": 0.1, "max_capacity": 4096, **changes}
    return tables([16, 16], device, pooling, **given)


def ends_of(pooling: str, device: str) -> Tensor:
    return torch.arange(0, 2 * N + 1, 1 if pooling == "NONE" else 8, device=device)


def grad_of(out: Tensor) -> Tensor:
    return torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape)


def rows(module: Any) -> Tensor:
    keys = torch.arange(2 * KEYS, device=module.device) % KEYS
    out: Tensor = module.eval()(keys, torch.arange(2 * KEYS + 1, device=module.device))
    return out


@pytest.mark.parametrize("pooling", ["NONE", "SUM"])
def test_a_step_calls_nothing_that_waits(gpu: str, pooling: str) -> None:
    module, ends = module_of(gpu, pooling), ends_of(pooling, gpu)
    batches = [ids_of(step, gpu) for step in range(4)]
    module(batches[0], ends).sum().backward()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.profiler.profile(activities=activities) as profile:
            for ids in batches[1:]:
                module(ids, ends).sum().backward()
            called = torch.cuda.Event()
            called.record()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    names = [event.name for event in profile.events()]
    assert any("ReduceKernel" in name for name in names)
    waits = [n for n in names if any(wait in n + "\0" for wait in WAITS)]
    assert waits in ([], ["cudaDeviceSynchronize"])  # the profiler's own, at its end


@pytest.mark.parametrize("pooling", ["NONE", "SUM"])
def test_a_captured_step_does_what_the_called_one_does(gpu: str, pooling: str) -> None:
    captured, called = module_of(gpu, pooling), module_of(gpu, pooling)
    ends, ids = ends_of(pooling, gpu), ids_of(0, gpu)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        out = captured(ids, ends)
        out.backward(grad_of(out))
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            out = captured(ids, ends)
            out.backward(grad_of(out))
        for step in range(1, 6):
            ids.copy_(ids_of(step, gpu))
            graph.replay()
        side.synchronize()
    for step in range(6):
        wanted = called(ids_of(step, gpu), ends)
        wanted.backward(grad_of(wanted))
    assert torch.equal(out, wanted)
    if pooling == "NONE":
        assert torch.equal(rows(captured), rows(called))


@pytest.mark.parametrize("early", [True, False], ids=["before_forward", "after_forward"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"caching": True, "max_capacity": 8192, "local_hbm_for_values": 1024 * 208}],
    ids=["hbm", "caching"],
)
def test_prefetches_on_a_stream_of_their_own_change_nothing(
    device: str, changes: dict[str, Any], early: bool
) -> None:
    ahead = module_of(device, prefetch_pipeline=True, **changes)
    alone = module_of(device, **changes)
    ends, batches = ends_of("NONE", device), [ids_of(step, device) for step in range(10)]
    on_gpu = device == "cuda"
    main = torch.cuda.current_stream() if on_gpu else None
    side = torch.cuda.stream(torch.cuda.Stream()) if on_gpu else nullcontext()
    if on_gpu:
        torch.cuda.synchronize()

    def prefetch(step: int) -> None:
        with side:
            ahead.prefetch(batches[step], ends, main)

    prefetch(0)
    for step, ids in enumerate(batches):
        if early and step + 1 < len(batches):
            prefetch(step + 1)
        out, wanted = ahead(ids, ends), alone(ids, ends)
        if not early and step + 1 < len(batches):
            prefetch(step + 1)
        out.backward(grad_of(out))
        wanted.backward(grad_of(wanted))
        assert torch.equal(out, wanted), step
    assert torch.equal(rows(ahead), rows(alone))
