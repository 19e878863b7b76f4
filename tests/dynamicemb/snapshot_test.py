"""``dump(blocking=False)``: the tables of the moment of the call, whatever training does since."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2, dump_beside, dump_load
from dynamicemb.dump_load import state_of, state_width, weights_of
from torch import Tensor

from tests.dynamicemb.cases import batch, on, tables

CASES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "ADAM"},
    "evicting": {"max_capacity": 256, "score_strategy": "STEP"},
    "growing": {"init_capacity": 64, "optimizer": "ADAM"},
    "caching": {"caching": True, "local_hbm_for_values": 1 << 17, "optimizer": "ADAM"},
    "full_caching": {"caching": True, "local_hbm_for_values": 1 << 17, "max_capacity": 512},
    "apart": {"fused": False, "optimizer": "ADAM"},
}


def step(module: BatchedDynamicEmbeddingTablesV2, draw: random.Random, keys: int = 30_000) -> None:
    ids, offsets = on(str(module.device), *batch(draw, 2, 20, 20, keys))
    module.train()(ids, offsets).sum().backward()
    module.step()


def contents(module: BatchedDynamicEmbeddingTablesV2) -> list[dict[int, tuple[list[float], int]]]:
    """Whole rows and scores of each table."""
    found = []
    for table in range(2):
        rows: dict[int, tuple[list[float], int]] = {}
        for keys, values, scores in module.tiers.export(table):
            state = torch.cat([part(module, table, values) for part in PARTS], 1)
            rows |= {
                key: (row, score)
                for key, row, score in zip(
                    keys.tolist(), state.tolist(), scores.tolist(), strict=True
                )
            }
        found.append(rows)
    return found


PARTS = (weights_of, state_of)


def dumped(folder: Path, module: BatchedDynamicEmbeddingTablesV2) -> Any:
    """The same of a dump's files; a key that is there twice is an error."""
    found = []
    for table, name in enumerate(module.table_names):
        dim, width = module.layouts[table].dim, state_width(module, table)

        def read(part: str, dtype: torch.dtype, name: str = name) -> Tensor:
            data = (folder / f"{name}_{part}.rank_0.world_size_1").read_bytes()
            return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0)

        keys = read("emb_keys", torch.int64).tolist()
        assert len(set(keys)) == len(keys)
        weights = read("emb_values", torch.float32).view(-1, dim)
        state = read("opt_values", torch.float32).view(len(keys), width)
        rows = torch.cat([weights, state], 1).tolist()
        scores = read("emb_scores", torch.int64).tolist()
        found.append({k: (row, s) for k, row, s in zip(keys, rows, scores, strict=True)})
    return found


@pytest.mark.parametrize("case", CASES)
def test_it_holds_the_moment_of_the_call(
    device: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_load, "CHUNK", 128 if device == "cpu" else 64)
    draw = random.Random(1)
    module = tables([5, 8], device, **CASES[case])
    for _ in range(8):
        step(module, draw)
    ids, offsets = on(device, *batch(draw, 2, 20, 20, 30_000))
    between = module.train()(ids, offsets)  # its backward comes later
    wanted = contents(module)
    dump = module.dump(str(tmp_path / "d"), optim=True, blocking=False)
    between.sum().backward()
    for _ in range(20):
        step(module, draw)
        module.erase("table0", torch.tensor([draw.randrange(3000) * 7919 - 3]))
    assert dump is not None
    dump.wait()
    assert dump.done() and module.tiers.snapshot is None
    assert dumped(tmp_path / "d", module) == wanted
    assert contents(module) != wanted
    step(module, draw)


def test_rows_kept_aside_have_a_bound_and_training_says_that_it_waits(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    draw, reached = random.Random(2), threading.Event()
    module = tables([5, 8], device)
    for _ in range(8):
        step(module, draw)
    wanted = contents(module)
    write = dump_beside.Writer.write

    def late(self: Any, *rows: Tensor) -> None:
        assert reached.wait(60)
        write(self, *rows)

    def warn(text: str, **_: object) -> None:
        assert "training waits for a dump" in text and "kept_bytes is 1000" in text
        reached.set()

    monkeypatch.setattr(dump_beside.Writer, "write", late)
    monkeypatch.setattr("dynamicemb.snapshot.warnings.warn", warn)
    monkeypatch.setattr(dump_load, "CHUNK", 128 if device == "cpu" else 64)
    dump = module.dump(str(tmp_path / "d"), optim=True, blocking=False, kept_bytes=1000)
    assert dump is not None
    for _ in range(4):
        step(module, draw)
    assert reached.is_set()
    dump.wait()
    assert dumped(tmp_path / "d", module) == wanted


def test_rows_that_fit_into_kept_bytes_are_read_before_they_are_written(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go = threading.Event()
    module = tables([5, 8], device)
    step(module, random.Random(0))
    wanted, write = contents(module), dump_beside.Writer.write

    def late(self: Any, *rows: Tensor) -> None:
        assert go.wait(60)
        write(self, *rows)

    monkeypatch.setattr(dump_beside.Writer, "write", late)
    dump = module.dump(str(tmp_path / "d"), optim=True, blocking=False)
    assert dump is not None
    module.tiers._settle()
    assert module.tiers.snapshot is None and not dump.done()
    for seed in range(1, 4):
        step(module, random.Random(seed))
    go.set()
    dump.wait()
    assert dumped(tmp_path / "d", module) == wanted


def test_a_dump_that_has_ended_keeps_no_table_alive(device: str, tmp_path: Path) -> None:
    module = tables([5, 8], device)
    step(module, random.Random(0))
    dump = module.dump(str(tmp_path / "d"), blocking=False)
    assert dump is not None
    dump.wait()
    alive = weakref.ref(module)
    gc.collect()
    gc.disable()
    try:
        del module
        assert alive() is None and dump.done()
    finally:
        gc.enable()


def test_one_dump_at_a_time_and_its_error_is_told(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go = threading.Event()
    module = tables([5, 8], device)
    step(module, random.Random(0))

    def full(self: Any, *_: object) -> None:
        assert go.wait(60)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dump_beside.Writer, "write", full)
    dump = module.dump(str(tmp_path / "d"), blocking=False)
    assert dump is not None and not dump.done()
    with pytest.raises(RuntimeError, match="a dump of these tables is being written"):
        module.dump(str(tmp_path / "e"))
    go.set()
    with pytest.raises(OSError, match="No space left"):
        dump.wait()
    assert not list(tmp_path.iterdir()) and module.tiers.snapshot is None
    step(module, random.Random(0))
    with pytest.raises(ValueError, match="kept_bytes must be an int >= 1, got 0"):
        module.dump(str(tmp_path / "d"), blocking=False, kept_bytes=0)
