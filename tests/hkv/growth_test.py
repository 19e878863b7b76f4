"""Tables that grow: with a maximum that moves, without one, in little memory, and into refusals."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkv
import numpy as np
import pytest
from hkv import Status

Rows = Callable[..., np.ndarray]


class Budget:
    """Memory of CUDA by way of torch, up to ``limit`` bytes on the device at a time, and not the
    ``refuse``-th piece."""

    def __init__(self, limit: int = 2**63, refuse: int = 0) -> None:
        import torch

        self.torch = torch
        self.limit, self.refuse, self.asked = limit, refuse, 0
        self.held: dict[int, tuple[Any, int, str]] = {}
        self.most = 0

    def in_use(self, kind: str) -> int:
        return sum(size for _, size, k in self.held.values() if k == kind)

    def allocate(self, size: int, kind: str) -> int:
        self.asked += 1
        too_much = kind == "device" and self.in_use(kind) + size > self.limit
        if self.asked == self.refuse or too_much:
            return 0
        where: dict[str, Any] = {"device": "cuda"} if kind == "device" else {"pin_memory": True}
        tensor = self.torch.empty(size, dtype=self.torch.uint8, **where)
        self.torch.cuda.synchronize()
        self.held[tensor.data_ptr()] = (tensor, size, kind)
        self.most = max(self.most, self.in_use("device"))
        return int(tensor.data_ptr())

    def free(self, address: int, size: int, kind: str) -> None:
        assert self.held.pop(address)[1:] == (size, kind)


def address_space() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def holds(engine: Any, table: hkv.HashTable, keys: np.ndarray, given: np.ndarray) -> None:
    """The table has exactly the keys, with their rows."""
    values, founds = table.find(engine.put(keys))
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(values), given)
    assert table.size() == len(keys)


def test_rows_keys_and_scores_survive_a_growth(engine: Any) -> None:
    """From full, twice: rows trade places with others that have not moved yet."""
    generator = np.random.default_rng(3)
    table = engine.table(40_000, 8, init_capacity=10_000, evict_strategy="customized",
                         max_load_factor=1.0)  # fmt: skip
    keys = generator.choice(2**60, 9_600, replace=False)
    given = generator.standard_normal((len(keys), 8)).astype(np.float32)
    scores = np.arange(1, len(keys) + 1, dtype=np.uint64)
    table.insert_or_assign(engine.put(keys), engine.put(given), engine.put(scores))
    for capacity in (11_111, 40_000):
        table.reserve(capacity)
        assert table.capacity == capacity
        holds(engine, table, keys, given)
        out = engine.put(np.zeros(len(keys), np.uint64))
        table.find(engine.put(keys), scores=out)
        assert (engine.get(out) == scores).all()


def test_a_table_without_a_maximum_grows_with_its_keys(engine: Any, rows: Rows) -> None:
    table = engine.table(None, 4, init_capacity=64)
    assert table.max_capacity == 2**32 - 256
    keys = np.arange(50_000, dtype=np.int64)
    for part in np.array_split(keys, 5):
        status = table.insert_or_assign(engine.put(part), engine.put(rows(part)))
        assert (engine.get(status) == Status.INSERTED).all()
    holds(engine, table, keys, rows(keys))
    assert table.load_factor() <= 0.5


def test_a_table_without_a_maximum_starts_with_65536_rows(engine: Any) -> None:
    assert engine.table(None, 1).capacity == 65_536


def test_the_maximum_moves(engine: Any, rows: Rows) -> None:
    table = engine.table(100, 4)
    keys = np.arange(400, dtype=np.int64)
    table.insert_or_assign(engine.put(keys[:100]), engine.put(rows(keys[:100])))
    assert table.capacity == table.max_capacity == 100
    table.set_max_capacity(1000)
    assert table.max_capacity == 1000
    table.insert_or_assign(engine.put(keys), engine.put(rows(keys)))
    assert table.capacity > 400
    assert table.size() == 400
    table.set_max_capacity(table.capacity)
    held = table.capacity
    more = np.arange(10_000, 14_000, dtype=np.int64)
    table.insert_or_assign(engine.put(more), engine.put(rows(more)))
    assert table.capacity == held


def test_the_maximum_is_not_below_the_capacity(engine: Any) -> None:
    table = engine.table(100, 4)
    allowed = r"capacity is 99; it must be 100 \(the capacity now\) \.\.\. 4294967040"
    with pytest.raises(ValueError, match=allowed):
        table.set_max_capacity(99)
    with pytest.raises(ValueError, match="capacity is 4294967041"):
        table.set_max_capacity(2**32 - 255)
    with pytest.raises(TypeError, match="capacity is True"):
        table.set_max_capacity(True)
    assert table.max_capacity == 100


def test_a_growth_of_the_host_table_does_not_hold_its_rows_twice(rows: Rows) -> None:
    """Its address space takes three times the old rows, not the old and the new ones."""
    n, dim = 1 << 15, 512  # 64 MiB of rows
    table = hkv.HashTable(2 * n, dim, init_capacity=n, device="cpu", max_load_factor=1.0)
    keys = np.arange(n // 2, dtype=np.int64)
    given = rows(keys, dim)
    table.insert_or_assign(keys, given)
    used = address_space()
    before = resource.getrlimit(resource.RLIMIT_AS)
    new_rows = 2 * n * dim * 4
    resource.setrlimit(resource.RLIMIT_AS, (used + new_rows * 3 // 4, before[1]))
    try:
        table.reserve(2 * n)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    np.testing.assert_array_equal(table.find(keys)[0], given)


def test_a_host_table_that_finds_no_memory_is_as_it_was(rows: Rows) -> None:
    n, dim = 1 << 14, 512
    table = hkv.HashTable(None, dim, init_capacity=n, device="cpu", max_load_factor=1.0)
    keys = np.arange(n // 2, dtype=np.int64)
    given = rows(keys, dim)
    table.insert_or_assign(keys, given)
    used = address_space()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), before[1]))
    try:
        with pytest.raises(RuntimeError, match=r"a host table of \d+ rows of 2048 bytes"):
            table.reserve(64 * n)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert table.capacity == n
    np.testing.assert_array_equal(table.find(keys)[0], given)


def test_an_allocator_is_for_gpu_tables_alone() -> None:
    with pytest.raises(ValueError, match="allocator is 'torch'; it must be None with device='cpu'"):
        hkv.HashTable(10, 4, device="cpu", allocator="torch")


@pytest.mark.gpu
@pytest.mark.parametrize("allocator", ["pool", 7])
def test_an_allocator_is_torch_or_has_two_methods(allocator: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"allocator is .*; it must be"):
        hkv.HashTable(10, 4, allocator=allocator)


@pytest.mark.gpu
def test_torch_counts_the_memory_of_a_table_and_gets_it_back() -> None:
    import torch

    before = torch.cuda.memory_allocated()
    table = hkv.HashTable(100_000, 16, allocator="torch")
    assert torch.cuda.memory_allocated() - before > 100_000 * (16 * 4 + 17)
    keys = torch.arange(50_000, device="cuda")
    values = torch.rand(50_000, 16, device="cuda")
    table.insert_or_assign(keys, values)
    founds = torch.zeros(50_000, dtype=torch.bool, device="cuda")
    got = torch.zeros_like(values)
    table.find(keys, values=got, founds=founds)
    assert founds.all()
    assert torch.equal(got, values)
    del table
    torch.cuda.synchronize()
    del keys, values, founds, got
    assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
@pytest.mark.parametrize("hbm_bytes", [None, 30_000 * 256])
def test_a_gpu_table_grows_with_less_memory_than_old_and_new_rows(
    rows: Rows, hbm_bytes: int | None
) -> None:
    n, dim = 40_000, 64
    row = dim * 4
    old, new = (min(c * row, hbm_bytes or 2**62) for c in (n, 2 * n))
    budget = Budget(limit=new + old // 2 + 3 * n * 17 + (1 << 21))
    table = hkv.HashTable(2 * n, dim, init_capacity=n, max_load_factor=1.0, hbm_bytes=hbm_bytes,
                          allocator=budget, passes_from=1 << 40)  # fmt: skip
    keys = np.arange(n * 9 // 10, dtype=np.int64)
    given = rows(keys, dim)
    table.insert_or_assign(hkv.DeviceArray.of(keys), hkv.DeviceArray.of(given))
    table.reserve(2 * n)
    assert budget.most < old + new
    values, founds = table.find(hkv.DeviceArray.of(keys))
    assert founds.numpy().all()
    np.testing.assert_array_equal(values.numpy(), given)


@pytest.mark.gpu
@pytest.mark.parametrize("passes_from", [1 << 40, 1])
def test_whichever_piece_of_memory_is_refused_the_gpu_table_is_as_it_was(
    rows: Rows, passes_from: int
) -> None:
    """Growth, staging of a file, memory of large batches, lock bits: every piece in its turn."""
    n, dim = 3000, 8
    keys = np.arange(n, dtype=np.int64)
    more = np.arange(n, 4 * n, dtype=np.int64)

    def put(array: np.ndarray) -> hkv.DeviceArray:
        return hkv.DeviceArray.of(array)

    def grow(table: hkv.HashTable) -> None:
        table.insert_or_assign(put(more), put(rows(more, dim)))

    calls: list[Callable[[hkv.HashTable], Any]] = [
        grow,
        lambda t: t.reserve(20_000),
        lambda t: t.lock_keys(put(keys[:10])),
        lambda t: t.export_batch(n),
        lambda t: t.accum_or_assign(put(keys), put(rows(keys, dim)), put(np.ones(n, bool))),
    ]
    for call in calls:
        refused = 0
        for nth in range(1, 40):
            budget = Budget()
            table = hkv.HashTable(
                40_000, dim, init_capacity=2 * n, allocator=budget, passes_from=passes_from
            )
            table.insert_or_assign(put(keys), put(rows(keys, dim)))
            budget.asked, budget.refuse = 0, nth
            try:
                call(table)
            except RuntimeError as error:
                assert "the caller's allocator has none" in str(error)
                refused += 1
                values, founds = table.find(put(keys))
                assert founds.numpy().all()
                np.testing.assert_array_equal(values.numpy(), rows(keys, dim))
                assert table.size() == n
                assert table.capacity == 2 * n
                call(table)  # there is memory again
            if budget.asked < nth:
                break
        assert budget.asked < nth
        if call is grow:
            assert refused > 3
            assert table.size() == 4 * n


@pytest.mark.gpu
def test_a_gpu_table_without_a_maximum_says_that_there_is_no_memory(rows: Rows) -> None:
    dim = 64
    budget = Budget(limit=8 << 20)
    table = hkv.HashTable(None, dim, init_capacity=1024, allocator=budget, passes_from=1 << 40)
    keys = np.arange(0, dtype=np.int64)
    with pytest.raises(RuntimeError, match=r"allocating \d+ bytes of device memory for "):
        for part in np.array_split(np.arange(100_000, dtype=np.int64), 100):
            table.insert_or_assign(hkv.DeviceArray.of(part), hkv.DeviceArray.of(rows(part, dim)))
            keys = np.concatenate([keys, part])
    assert len(keys) > 2000
    values, founds = table.find(hkv.DeviceArray.of(keys))
    assert founds.numpy().all()
    np.testing.assert_array_equal(values.numpy(), rows(keys, dim))
    assert table.size() == len(keys)
