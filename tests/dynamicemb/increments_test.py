"""Increments as files: a dump and what came after it are the live tables."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbDump, DynamicEmbLoad
from dynamicemb.dump_load import state_of, weights_of
from dynamicemb.increments import Increments, replay_increments
from torch import nn

from tests.dynamicemb.cases import batch, on, tables

CASES: dict[str, dict[str, Any]] = {
    "time": {"optimizer": "ADAM"},
    "steps": {"score_strategy": "STEP", "optimizer": "EXACT_ADAGRAD"},
    "both": {"score_strategy": ("TIMESTAMP", "LFU")},
}


def made(device: str, **changes: Any) -> nn.ModuleDict:
    given = {"capture_evicted": True, "max_capacity": 128, **changes}
    return nn.ModuleDict({"ebc": tables([5, 8], device, **given)})


def module_of(model: nn.ModuleDict) -> Module:
    found = model["ebc"]
    assert isinstance(found, Module)
    return found


def train(model: nn.ModuleDict, draw: random.Random, steps: int) -> None:
    module = module_of(model)
    for _ in range(steps):
        ids, offsets = on(str(module.device), *batch(draw, 2, 20, 6, 3000))
        module.train()(ids, offsets).sum().backward()


def contents(model: nn.ModuleDict) -> list[dict[int, list[float]]]:
    module = module_of(model)
    return [
        {
            key: [*row, score]
            for keys, words, scores in module.tiers.export(t)
            for key, row, score in zip(
                keys.tolist(),
                torch.cat([weights_of(module, t, words), state_of(module, t, words)], 1).tolist(),
                scores.tolist(),
                strict=True,
            )
        }
        for t in range(2)
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_dump_and_its_increments_are_the_live_tables(
    device: str, tmp_path: Path, case: str
) -> None:
    draw, live = random.Random(3), made(device, **CASES[case])
    train(live, draw, 4)
    series = Increments(tmp_path / "i", live)
    DynamicEmbDump(str(tmp_path / "d"), live, optim=True)
    other = made(device, **CASES[case])
    DynamicEmbLoad(str(tmp_path / "d"), other, optim=True)
    reached, gone = 0, 0
    for number in (1, 2, 3):
        before = contents(live)
        train(live, draw, number)
        gone += sum(len(set(b) - set(a)) for b, a in zip(before, contents(live), strict=True))
        assert series.append() == number
        if number != 2:  # two at once, and one
            reached = replay_increments(tmp_path / "i", other, reached)
            assert reached == number
            assert contents(other) == contents(live)
    assert gone > 50  # rows left, and left the other tables, too


def test_a_gap_is_named_and_changes_nothing(tmp_path: Path) -> None:
    draw, live = random.Random(3), made("cpu")
    series = Increments(tmp_path, live)
    other = made("cpu")
    for _ in range(3):
        train(live, draw, 1)
        series.append()
    aside = shutil.move(tmp_path / "increment_00000002", tmp_path / "aside")
    with pytest.raises(ValueError, match="increment 2 is missing, and there is 3"):
        replay_increments(tmp_path, other)
    shutil.move(aside, tmp_path / "increment_00000002")
    file = tmp_path / "increment_00000003" / "1_values"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ValueError, match="1_values: the file is missing or was altered"):
        replay_increments(tmp_path, other)
    with pytest.raises(ValueError, match=r"tables \['ebc/table0', 'ebc/table1'\], expected"):
        replay_increments(tmp_path, nn.ModuleDict({"e": tables([5, 8], "cpu")}))
    assert contents(other) == [{}, {}]
    with pytest.raises(ValueError, match="after must be an int >= 0, got -1"):
        replay_increments(tmp_path, other, -1)
    with pytest.raises(ValueError, match="must hold no increments, and has number 3"):
        Increments(tmp_path, live)


def test_what_could_not_be_written_is_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamicemb.dump_file import DumpFile

    draw, live, other = random.Random(3), made("cpu"), made("cpu")
    series = Increments(tmp_path, live)
    train(live, draw, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DumpFile, "end", full)
        with pytest.raises(OSError, match="No space left"):
            series.append()
    assert not list(tmp_path.iterdir())
    train(live, draw, 1)
    assert series.append() == 1 and replay_increments(tmp_path, other) == 1
    assert contents(other) == contents(live)


def test_tables_that_cannot_tell_what_changed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score_strategy of table ebc/table0 must be TIMESTAMP"):
        Increments(tmp_path, made("cpu", score_strategy="LFU"))
    with pytest.raises(RuntimeError, match="capture_evicted"):
        Increments(tmp_path, made("cpu", capture_evicted=False))
    with pytest.raises(ValueError, match="model has no dynamic tables"):
        Increments(tmp_path, nn.Linear(2, 2))
