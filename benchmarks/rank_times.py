"""How long a step of several ranks takes, and where it waits."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.distributed as dist
from dynamicemb.link import Link


def times(step: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Median milliseconds of a step, of its calls, and of the process's processor time."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = []
    for _ in range(repeats + 2):
        wait()
        dist.barrier()
        begin, worked = time.perf_counter(), time.process_time()
        step()
        host = time.perf_counter() - begin
        wait()
        taken.append((time.perf_counter() - begin, host, time.process_time() - worked))
    return [1e3 * statistics.median(column) for column in zip(*taken[2:], strict=True)]


def link_gbps(total: int, device: torch.device, world: int) -> float | None:
    """Of an all-to-all in which a rank hands half of ``total`` bytes to the others."""
    if world == 1:
        return None
    most = torch.tensor(total, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    each = max(int(most) // 2 // (world - 1) // 4, 1)
    given = torch.zeros(each * world, device=device)
    came = torch.empty_like(given)
    ms, _, _ = times(lambda: dist.all_to_all_single(came, given), device, 9)
    return each * 4 * (world - 1) / ms / 1e6


def waits(step: Callable[[], object], device: torch.device) -> int | None:
    """In how many places of a step PyTorch or the exchange waits for the GPU."""
    if device.type != "cuda":
        return None
    asked, on_host = [], Link.on_host

    def told(self: Link, given: torch.Tensor) -> object:
        asked.append(given)
        return on_host(self, given)

    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said, patch.object(Link, "on_host", told):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return len(asked) + sum("synchronizing" in str(one.message) for one in said)
