"""What only a GPU can show: many keys at once, and several streams."""

from __future__ import annotations

import os
import threading

import hkv
import numpy as np
import pytest
from hkv import DeviceArray, Status

pytestmark = pytest.mark.gpu

# 10^8 keys; a smaller number for a run under a memory checker.
KEYS = int(os.environ.get("HKV_STRESS_KEYS", 100_000_000))
BATCH = min(KEYS, 4_000_000)


def scrambled(index: np.ndarray) -> np.ndarray:
    """Different random-looking keys for different indices (a bijection of 64 bits)."""
    x = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return x ^ (x >> np.uint64(29))


def marks(keys: np.ndarray) -> np.ndarray:
    return (keys & np.uint64(0xFFFFF)).astype(np.float32)


def test_no_row_is_lost_or_doubled_before_the_first_eviction() -> None:
    table = hkv.HashTable(int(KEYS / 0.97), 4, key_dtype="uint64")
    for begin in range(0, KEYS, BATCH):
        keys = scrambled(np.arange(begin, min(begin + BATCH, KEYS)))
        rows = np.repeat(marks(keys)[:, None], 4, 1)
        status = table.insert_or_assign(DeviceArray.of(keys), DeviceArray.of(rows)).numpy()
        assert (status == Status.INSERTED).all()
    assert table.size() == KEYS
    for begin in range(0, KEYS, BATCH):
        keys = scrambled(np.arange(begin, min(begin + BATCH, KEYS)))
        values, founds = table.find(DeviceArray.of(keys))
        assert founds.numpy().all()
        assert (values.numpy() == marks(keys)[:, None]).all()
    seen = 0
    for begin in range(0, table.capacity, BATCH):
        out = table.export_batch(min(BATCH, table.capacity - begin), begin)
        count = int(out.count.numpy()[0])
        keys = out.keys.numpy()[:count]
        assert (out.values.numpy()[:count] == marks(keys)[:, None]).all()
        seen += count
    assert seen == KEYS


@pytest.mark.parametrize("passes_from", [1, 1 << 40])
@pytest.mark.parametrize("dim", [3, 16])
def test_large_batches_keep_rows_whole_in_both_memories(passes_from: int, dim: int) -> None:
    n = min(KEYS // 4, 60_000)
    table = hkv.HashTable(
        2 * n, dim, key_dtype="uint64", hbm_bytes=3 * n * dim, passes_from=passes_from
    )

    def rows_of(keys: np.ndarray, add: int) -> np.ndarray:
        return (marks(keys) + add)[:, None] + np.arange(dim, dtype=np.float32) / 32

    keys = scrambled(np.arange(n))
    table.insert_or_assign(DeviceArray.of(keys), DeviceArray.of(rows_of(keys, 0)))
    out, founds = table.find(DeviceArray.of(keys))
    assert founds.numpy().all()
    np.testing.assert_array_equal(out.numpy(), rows_of(keys, 0))
    # Half of the keys are there, and the other half is new.
    mixed = scrambled(np.arange(n // 2, n // 2 + n))
    values = DeviceArray.of(rows_of(mixed, 1))
    founds, _ = table.find_or_insert(DeviceArray.of(mixed), values)
    old = np.arange(n) < n - n // 2
    assert (founds.numpy() == old).all()
    want = np.where(old[:, None], rows_of(mixed, 0), rows_of(mixed, 1))
    np.testing.assert_array_equal(values.numpy(), want)
    table.assign(DeviceArray.of(mixed), DeviceArray.of(rows_of(mixed, 2)))
    poison = DeviceArray.of(np.full((n, dim), -7, np.float32))
    out, founds = table.find(DeviceArray.of(scrambled(np.arange(n) + n)), values=poison)
    there = np.arange(n) < n // 2
    assert (founds.numpy() == there).all()
    want = np.where(there[:, None], rows_of(scrambled(np.arange(n) + n), 2), -7)
    np.testing.assert_array_equal(out.numpy(), want)


@pytest.mark.parametrize("capacity", [1000, 50_000])
def test_a_batch_far_larger_than_the_table_ends_and_is_consistent(capacity: int) -> None:
    n, dim = 6 * capacity, 8
    table = hkv.HashTable(capacity, dim, key_dtype="uint64")
    keys = scrambled(np.arange(n) % (n // 2))
    rows = np.repeat(marks(keys)[:, None], dim, 1)
    out = table.insert_and_evict(DeviceArray.of(keys), DeviceArray.of(rows))
    count = int(out.count.numpy()[0])
    left = out.values.numpy()[:count]
    assert (left == marks(out.keys.numpy()[:count])[:, None]).all()
    kept = table.export_batch(capacity)
    m = int(kept.count.numpy()[0])
    assert 0.97 * capacity <= m <= capacity
    assert len(set(kept.keys.numpy()[:m].tolist())) == m
    assert (kept.values.numpy()[:m] == marks(kept.keys.numpy()[:m])[:, None]).all()
    everything = set(kept.keys.numpy()[:m].tolist()) | set(out.keys.numpy()[:count].tolist())
    assert everything == set(keys.tolist())


def test_calls_on_several_streams_are_ordered() -> None:
    torch = pytest.importorskip("torch")
    n, dim = min(KEYS, 200_000), 16
    table = hkv.HashTable(2 * n, dim)
    streams = [torch.cuda.Stream() for _ in range(4)]
    keys = torch.arange(n, device="cuda")
    rows = [torch.full((n, dim), float(s), device="cuda") for s in range(4)]
    torch.cuda.synchronize()
    for turn in range(20):
        writer = turn % 4
        table.insert_or_assign(keys, rows[writer], stream=streams[writer])
        results = []
        for s in range(4):
            if s != writer:
                with torch.cuda.stream(streams[s]):
                    out = torch.empty(n, dim, device="cuda")
                    table.find(keys, values=out, stream=streams[s])
                    results.append((s, out))
        for s, out in results:
            streams[s].synchronize()
            assert (out == writer).all()


def test_threads_with_streams_of_their_own_share_a_table() -> None:
    torch = pytest.importorskip("torch")
    n, dim, count = min(KEYS, 50_000), 8, 4
    table = hkv.HashTable(2 * n, dim)
    failures: list[str] = []

    def work(worker: int) -> None:
        stream = torch.cuda.Stream()
        generator = np.random.default_rng(worker)
        with torch.cuda.stream(stream):
            for _ in range(20):
                k = torch.from_numpy(generator.choice(n, n // 2, replace=False)).cuda()
                v = k[:, None].expand(-1, dim).float().contiguous()
                table.insert_or_assign(k, v, stream=stream)
                out = torch.zeros(n // 2, dim, device="cuda")
                table.find(k, values=out, stream=stream)
                stream.synchronize()
                if not torch.equal(out, v):
                    failures.append(f"worker {worker} read something else than it wrote")

    threads = [threading.Thread(target=work, args=(w,)) for w in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert table.size() <= n


def test_calls_can_be_captured_into_a_graph() -> None:
    torch = pytest.importorskip("torch")
    n, dim = 10_000, 8
    table = hkv.HashTable(2 * n, dim)
    keys = torch.arange(n, device="cuda")
    rows, out = torch.rand(n, dim, device="cuda"), torch.zeros(n, dim, device="cuda")
    status = torch.zeros(n, dtype=torch.uint8, device="cuda")
    founds = torch.zeros(n, dtype=torch.bool, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        address = torch.cuda.current_stream().cuda_stream
        table.insert_or_assign(keys, rows, status=status, stream=address)
        table.find(keys, values=out, founds=founds, stream=address)
    assert table.size() == 0
    for _ in range(2):
        rows.uniform_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, rows)
    assert table.size() == n
