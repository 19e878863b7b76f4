"""Dumps: what comes back, what is refused, and that a killed one loses nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2, DynamicEmbDump, DynamicEmbLoad
from dynamicemb.incremental_dump import get_score, incremental_dump
from torch import Tensor, nn

from tests.common.processes import killed
from tests.dynamicemb.cases import on, tables

KEYS = list(range(-20, 60))


def trained(device: str = "cpu", steps: int = 3, **changes: Any) -> BatchedDynamicEmbeddingTablesV2:
    module = tables([5, 8], device, **{"optimizer": "ADAM", "learning_rate": 0.1, **changes})
    for step in range(steps):
        step_of(module, step)
    return module


def step_of(module: BatchedDynamicEmbeddingTablesV2, step: int) -> Tensor:
    ids, offsets = on(str(module.device), KEYS + KEYS, [0, len(KEYS), 2 * len(KEYS)])
    out: Tensor = module.train()(ids, offsets)
    generator = torch.Generator().manual_seed(step)
    out.backward(torch.randn(out.shape, generator=generator).to(out.device))
    return out.detach()


def rows(module: BatchedDynamicEmbeddingTablesV2) -> Tensor:
    each = [[key] for _ in range(2) for key in KEYS]
    ids, offsets = on(str(module.device), [k for one in each for k in one], list(range(161)))
    return module.eval()(ids, offsets)


@pytest.mark.parametrize("kind", ["SGD", "ADAM", "EXACT_ADAGRAD", "EXACT_ROWWISE_ADAGRAD", "FTRL"])
def test_training_goes_on_after_a_load_as_if_nothing_had_been(
    device: str, tmp_path: Path, kind: str
) -> None:
    module = trained(device, optimizer=kind)
    module.dump(str(tmp_path / "d"), optim=True)
    other = trained(device, steps=0, optimizer=kind)
    other.load(str(tmp_path / "d"), optim=True)
    assert torch.equal(rows(other), rows(module))
    step_of(module, 9), step_of(other, 9)
    assert torch.equal(rows(other), rows(module))


def test_without_its_state_an_optimizer_starts_anew(tmp_path: Path) -> None:
    module = trained()
    module.dump(str(tmp_path / "d"), optim=False)
    other = trained(steps=0)
    with pytest.warns(UserWarning, match="state of table 'table0' is not in the dump"):
        other.load(str(tmp_path / "d"), optim=True)
    assert torch.equal(rows(other), rows(module))
    step_of(module, 9), step_of(other, 9)
    assert not torch.equal(rows(other), rows(module))


def test_another_optimizer_takes_the_rows_alone(tmp_path: Path) -> None:
    trained().dump(str(tmp_path / "d"), optim=True)
    other = trained(steps=0, optimizer="SGD")
    with pytest.warns(UserWarning, match="is of ADAM"):
        other.load(str(tmp_path / "d"), optim=True)


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    module = trained(score_strategy="STEP")
    module.dump(str(tmp_path / "d"), optim=True, table_names=["table1"])
    suffix = "rank_0.world_size_1"
    raw = {
        part: (tmp_path / "d" / f"table1_{part}.{suffix}").read_bytes()
        for part in ("emb_keys", "emb_values", "emb_scores", "opt_values")
    }
    keys = torch.frombuffer(bytearray(raw["emb_keys"]), dtype=torch.int64)
    values = torch.frombuffer(bytearray(raw["emb_values"]), dtype=torch.float32).view(-1, 8)
    state = torch.frombuffer(bytearray(raw["opt_values"]), dtype=torch.float32).view(-1, 17)
    scores = torch.frombuffer(bytearray(raw["emb_scores"]), dtype=torch.int64)
    assert sorted(keys.tolist()) == KEYS and (scores == 3).all() and (state[:, 16] == 3).all()
    exported = [
        torch.cat(parts) for parts in zip(*module.export_keys_values("table1"), strict=True)
    ]
    assert torch.equal(keys, exported[0]) and torch.equal(values, exported[1])
    assert not list((tmp_path / "d").glob("table0*"))
    args = json.loads((tmp_path / "d" / "table1_opt_args.json").read_text())
    assert args["opt_type"] == "ADAM" and args["learning_rate"] == 0.1 and args["step_score"] == 4


def truncate(folder: Path) -> None:
    file = next(folder.glob("table0_emb_values*"))
    file.write_bytes(file.read_bytes()[:-4])


def alter(folder: Path) -> None:
    file = next(folder.glob("table1_opt_values*"))
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)


def lose(folder: Path) -> None:
    next(folder.glob("table1_emb_scores*")).unlink()


def foreign(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "else"}')


def bare(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, r"table0_emb_values\S*: 1596 bytes, expected 1600"),
        (alter, r"table1_opt_values\S*: its SHA-256 is not"),
        (lose, r"table1_emb_scores\S*: the file is missing"),
        (foreign, "format 'else', expected 'dynamicemb dump 1'"),
        (bare, "there is no manifest"),
    ],
)
def test_a_harmed_dump_is_refused_and_the_tables_stay(
    tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    module = trained()
    module.dump(str(tmp_path / "d"), optim=True)
    step_of(module, 5)
    before = rows(module)
    harm(tmp_path / "d")
    with pytest.raises(ValueError, match=message):
        module.load(str(tmp_path / "d"), optim=True)
    assert torch.equal(rows(module), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_strategy": "LFU"}, "evict_strategy is 'TIMESTAMP', expected 'LFU'"),
        ({"dist_type": "continuous"}, "dist_type is 'roundrobin', expected 'continuous'"),
    ],
)
def test_a_dump_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    trained().dump(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=message):
        trained(steps=0, **changes).load(str(tmp_path / "d"))


def test_another_dim_or_table_is_refused(tmp_path: Path) -> None:
    trained().dump(str(tmp_path / "d"), table_names=["table0"])
    with pytest.raises(ValueError, match="no table 'table1'; there are table0"):
        trained(steps=0).load(str(tmp_path / "d"))
    with pytest.raises(ValueError, match="table 'table0' has dim 5, expected 6"):
        tables([6], "cpu").load(str(tmp_path / "d"))
    with pytest.raises(ValueError, match="no table 'x'; there are table0, table1"):
        trained(steps=0).dump(str(tmp_path / "d"), table_names=["x"])


def test_a_dump_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    module = trained()
    for _ in range(3):
        step_of(module, 1)
        module.dump(str(tmp_path / "d"))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    other = trained(steps=0)
    other.load(str(tmp_path / "d"))
    assert torch.equal(rows(other), rows(module))


def test_a_failed_dump_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamicemb.dump_file import DumpFile

    module = trained()
    module.dump(str(tmp_path / "d"))
    before = rows(module).clone()
    step_of(module, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DumpFile, "end", full)
    with pytest.raises(OSError, match="No space left"):
        module.dump(str(tmp_path / "d"))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    other = trained(steps=0)
    other.load(str(tmp_path / "d"))
    assert torch.equal(rows(other), before)


def test_a_killed_dump_leaves_the_one_before(tmp_path: Path) -> None:
    code = f"""
from tests.dynamicemb.dump_test import trained
module = trained()
module.dump({str(tmp_path / "d")!r})
print(1, flush=True)
while True:
    module.dump({str(tmp_path / "d")!r})
"""
    wanted = rows(trained())
    rounds = 200 if os.environ.get("DYNAMICEMB_LONG_TESTS") == "1" else 8
    for _ in killed(code, rounds, within=0.2):
        other = trained(steps=0)
        other.load(str(tmp_path / "d"))
        assert torch.equal(rows(other), wanted)


def test_dump_and_load_draw_a_bar_where_somebody_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, folder = trained(), str(tmp_path / "d")
    module.dump(folder), module.load(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    module.dump(folder), module.load(folder)
    bars = capsys.readouterr().err.split("\r")
    for call in ("dump", "load"):
        assert f"{call} table0 [{'#' * 30}] 100%\n" in bars


def test_a_smaller_table_says_what_found_no_room(tmp_path: Path) -> None:
    module = trained(score_strategy="STEP")
    module.dump(str(tmp_path / "d"))
    small = trained(steps=0, score_strategy="STEP", max_capacity=16)
    small.load(str(tmp_path / "d"))
    assert small.stats()["tables"]["table0"]["rows"] == 16


def test_a_model_s_collections_are_dumped_by_their_path(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"ebc": trained()}), "b": nn.Linear(2, 2)})
    DynamicEmbDump(str(tmp_path), model, optim=True)
    assert (tmp_path / "a.ebc" / "manifest.json").is_file()
    with pytest.raises(ValueError, match=r"a.ebc' is not empty; allow_overwrite=True"):
        DynamicEmbDump(str(tmp_path), model)
    DynamicEmbDump(str(tmp_path), model, optim=True, allow_overwrite=True)
    other = nn.ModuleDict({"a": nn.ModuleDict({"ebc": trained(steps=0)})})
    DynamicEmbLoad(str(tmp_path), other, optim=True)
    assert torch.equal(rows(other["a"]["ebc"]), rows(model["a"]["ebc"]))  # type: ignore[index]


def test_increments_hold_what_was_trained_since(device: str) -> None:
    module = trained(device)
    model = nn.ModuleDict({"ebc": module})
    scores = get_score(model)
    assert scores is not None
    ids, offsets = on(device, [5, 6, 1000], [0, 2, 3])
    module.train()(ids, offsets).sum().backward()
    dumped = incremental_dump(model, scores)
    assert dumped is not None
    found, following = dumped
    assert sorted(found["ebc"]["table0"][0].tolist()) == [5, 6]
    assert found["ebc"]["table1"][0].tolist() == [1000]
    nothing = incremental_dump(model, following)
    assert nothing is not None and not nothing[0]["ebc"]["table0"][0].numel()
    only = incremental_dump(model, {"ebc": {"table1": 0}})
    assert only is not None and list(only[0]["ebc"]) == ["table1"]
    assert len(only[0]["ebc"]["table1"][0]) == len(KEYS) + 1


def test_a_model_without_dynamic_tables_says_so() -> None:
    with pytest.warns(UserWarning, match="no dynamic tables"):
        assert incremental_dump(nn.Linear(2, 2), 0) is None


@pytest.mark.parametrize(
    "changes",
    [{"score_strategy": "STEP"}, {"caching": True, "local_hbm_for_values": 1 << 17}],
    ids=["step", "caching"],
)
def test_loaded_rows_are_no_increment(device: str, tmp_path: Path, changes: Any) -> None:
    def step(module: Any, keys: list[int]) -> None:
        module(*on(device, keys, list(range(len(keys) + 1)))).sum().backward()

    module = tables([4], device, **changes)
    for keys in ([1, 2], [3], [4]):
        step(module, keys)
    module.dump(str(tmp_path / "d"))
    other = tables([4], device, **changes)
    other.load(str(tmp_path / "d"))
    scores = other.get_score()
    assert not other.incremental_dump(scores)[0]["table0"][0].numel()
    step(other, [2, 9])
    assert sorted(other.incremental_dump(scores)[0]["table0"][0].tolist()) == [2, 9]
