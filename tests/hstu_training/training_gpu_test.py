"""Whole runs on a GPU: they learn, have equal bits, and go on with the same."""

from __future__ import annotations

from pathlib import Path

import pytest
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
