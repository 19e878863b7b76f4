"""Whole runs on a GPU: they learn, have equal bits, and go on with the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hstu_training.training import command, trainer

from tests.hstu_training import runs

SIZES = ("NetworkArgs.hidden_size=64", "NetworkArgs.kv_channels=32", "TrainerArgs.log_interval=20",
         "TrainerArgs.ckpt_load_dir='latest'", "TrainerArgs.train_batch_size=16",
         "RetrievalArgs.num_negatives=16",
         "RetrievalArgs.eval_metrics=('HR@10', 'NDCG@10')")  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_that_was_stopped_has_the_bits_of_one_that_was_not(
    gpu: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "plot", lambda *_: None)  # it may not be installed there
    data = runs.data(tmp_path)

    def train(name: str, steps: int) -> Path:
        folder = tmp_path / name
        program = runs.program(
            "retrieval", "ml_100k_retrieval.gin", data, folder / "out", *runs.SMALL, *SIZES,
            f"NetworkArgs.dtype_str='{dtype}'", f"TrainerArgs.max_train_iters={steps}",
            f'TrainerArgs.ckpt_save_dir="{folder / "saved"}"',
        )  # fmt: skip
        given = [one for one in program.arguments if one != "--device=cpu"]
        assert command.run("retrieval", [*given, "--gpu-check=any"]) == 0
        return folder

    whole = train("whole", 60)
    train("parts", 20)
    parts = train("parts", 60)
    assert runs.checksums(whole / "saved/iter60") == runs.checksums(parts / "saved/iter60")
    rows = runs.numbers(whole / "out")
    assert rows == runs.numbers(parts / "out")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def _process(rank: int, world: int, port: int, arguments: list[str]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}  # fmt: skip
    trainer.plot = lambda *_: None  # type: ignore[assignment] # it may not be installed there
    assert command.run("retrieval", arguments) == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_of_16_are_one_of_32(gpu: str, tmp_path: Path) -> None:
    """In float32, by the formula: a sum over 32 and two over 16 round alike to 1e-5. A GPU draws
    for each process apart, so nothing is drawn: no dropout, every item a negative."""
    data, folders = runs.data(tmp_path, users=70), []
    for world in (1, 2):
        folder = tmp_path / str(world)
        program = runs.program(
            "retrieval", "ml_100k_retrieval.gin", data, folder / "out", *runs.SMALL, *SIZES,
            "NetworkArgs.dtype_str='float32'", "NetworkArgs.layer_type='DEBUG'",
            "NetworkArgs.hidden_size=8", "NetworkArgs.kv_channels=8",
            "NetworkArgs.hidden_dropout=0.0", "RetrievalArgs.sampling='full'",
            f"TrainerArgs.train_batch_size={32 // world}",
            "TrainerArgs.max_train_iters=50", f'TrainerArgs.ckpt_save_dir="{folder / "saved"}"',
        )  # fmt: skip
        given = [one for one in program.arguments if one != "--device=cpu"] + ["--gpu-check=any"]
        torch.multiprocessing.spawn(_process, (world, runs.free_port(), given), world)
        folders.append(folder)
    wanted, found = (runs.state(folder) for folder in folders)
    assert found.keys() == wanted.keys()
    print("furthest apart:", max(float(np.abs(found[n] - wanted[n]).max()) for n in wanted))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=0, err_msg=name)
    losses = [[float(row["loss"]) for row in runs.numbers(f / "out")] for f in folders]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert [row["step"] for row in runs.numbers(folders[0] / "out")] == ["20", "40", "50"]
