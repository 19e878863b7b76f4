"""Memory of a GPU: what tables take of it, and what happens where there is too little."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from dynamicemb import plan
from torch import Tensor

from tests.dynamicemb.cases import tables

REFUSED = r"dynamicemb: allocating \d+ bytes of .*; \d+ of \d+ bytes of the GPU are free"


def free() -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def taken(device: str, **changes: Any) -> tuple[int, int]:
    """Bytes that a table took of the GPU, and bytes of a row."""
    tables([4], device, max_capacity=1000)  # the context's own memory is there
    before = free()
    module = tables([32], device, "NONE", optimizer="ADAM", **changes)
    return before - free(), module.layouts[0].row_bytes


@pytest.fixture
def scarce(gpu: str) -> Iterator[None]:
    """600 MB of the GPU's memory are left."""
    hog = torch.empty(max(0, free() - (600 << 20)), dtype=torch.uint8, device=gpu)
    yield
    del hog
    torch.cuda.empty_cache()


@pytest.mark.parametrize("rows", [10**6, 10**7, 10**8])
def test_the_plan_s_memory_is_that_of_a_table(gpu: str, rows: int) -> None:
    row_bytes = tables([32], gpu, "NONE", optimizer="ADAM", max_capacity=1000).layouts[0].row_bytes
    said = plan.table_bytes(rows, row_bytes)
    if free() < 1.1 * said:
        pytest.skip(f"needs {1.1 * said:.0f} bytes of GPU memory, {free()} are free")
    assert abs(taken(gpu, max_capacity=rows)[0] / said - 1) < 0.03


def test_rows_beyond_local_hbm_for_values_take_none(gpu: str) -> None:
    rows = 10**6
    part, row_bytes = taken(gpu, max_capacity=rows, local_hbm_for_values=rows // 4 * 416)
    assert row_bytes == 416
    assert abs(part / (rows * (row_bytes // 4 + plan.SLOT_BYTES)) - 1) < 0.05
    whole, _ = taken(gpu, max_capacity=rows, local_hbm_for_values=0, enforce_hbm=True)
    assert abs(whole / plan.table_bytes(rows, row_bytes) - 1) < 0.03


def read(module: Any, keys: Tensor) -> Tensor:
    ends = torch.arange(len(keys) + 1, device=keys.device)
    out: Tensor = module.eval()(keys, ends)
    module.train()
    return out


def test_a_table_without_room_in_memory_is_told_in_bytes(gpu: str, scarce: None) -> None:
    tables([1024], gpu, max_capacity=1000)  # code that is loaded when it is needed is there
    before = free()
    with pytest.raises(RuntimeError, match=REFUSED):
        tables([1024], gpu, max_capacity=1_000_000)
    assert free() == before
    ids = torch.arange(9, device=gpu)
    module = tables([4], gpu, max_capacity=1000, learning_rate=1.0)
    module(ids, torch.arange(10, device=gpu)).sum().backward()
    assert module.stats()["inserted"] == 9


def test_a_table_that_cannot_grow_stays_whole(gpu: str, scarce: None) -> None:
    module = tables([1024], gpu, max_capacity=1 << 15, score_strategy="NO_EVICTION")
    some = torch.arange(100, device=gpu)
    module(some, torch.arange(101, device=gpu)).sum().backward()
    wanted = read(module, some)
    step = 1 << 15
    with pytest.raises(RuntimeError, match=REFUSED):
        for begin in range(1000, 1000 + 16 * step, step):
            ids = torch.arange(begin, begin + step, device=gpu)
            module._prepare(ids, torch.tensor([0, step], device=gpu), None)
    assert torch.equal(read(module, some), wanted)
    module(some, torch.arange(101, device=gpu)).sum().backward()
    assert not torch.equal(read(module, some), wanted)
