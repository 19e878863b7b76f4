"""Whole runs: they learn, stop, go on with the same bits, and say what a person wants to see."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from hstu_training.training import checkpoint, report

from tests.hstu_training import forks, runs

KILLS = int(os.environ.get("HSTU_TRAINING_KILLS", "8"))
STEPS = 40
SAVED = ("TrainerArgs.ckpt_save_interval=4", f"TrainerArgs.max_train_iters={STEPS}",
         "TrainerArgs.train_batch_size=16", "TrainerArgs.ckpt_load_dir='latest'",
         "RetrievalArgs.eval_metrics=('HR@10', 'NDCG@10')",
         "RetrievalArgs.num_negatives=16", "NetworkArgs.hidden_size=8")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.data(tmp_path_factory.mktemp("data"))


def retrieval(data: Path, folder: Path, *bindings: str) -> runs.Program:
    saved = f'TrainerArgs.ckpt_save_dir="{folder / "saved"}"'
    return runs.program("retrieval", "ml_100k_retrieval.gin", data, folder / "out", *runs.SMALL,
                        *SAVED, saved, *bindings)  # fmt: skip


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = forks.run(retrieval(data, folder))
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def test_a_run_leaves_a_bar_a_table_and_files(whole: Path) -> None:
    said = (whole / "said").read_text()
    assert re.search(r"\[#+\.*\] 5/40  loss \d+\.\d+  [\d,]+ tokens/s .*ETA", said)
    assert "| test_NDCG@10 |" in said
    rows = runs.numbers(whole / "out")
    assert [int(row["step"]) for row in rows] == list(range(5, 41, 5))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert (whole / "out/training.png").read_bytes().startswith(b"\x89PNG")
    assert '"best"' in (whole / "out/report.json").read_text()
    assert sorted(p.name for p in (whole / "saved").iterdir()) == ["iter32", "iter36", "iter40"]


def same(one: Path, other: Path) -> None:
    assert runs.checksums(one / "saved/iter40") == runs.checksums(other / "saved/iter40")
    assert runs.numbers(one / "out") == runs.numbers(other / "out")


def test_two_runs_are_the_same_bits(data: Path, whole: Path, tmp_path: Path) -> None:
    done = forks.run(retrieval(data, tmp_path, "TrainerArgs.num_workers=3"))
    assert done.returncode == 0, done.stderr
    same(tmp_path, whole)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    for folder in forks.killed(lambda f: retrieval(data, f), tmp_path, KILLS):
        same(folder, whole)


def test_sigterm_finishes_the_step_saves_and_exits_with_0(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    program = retrieval(data, tmp_path, "TrainerArgs.ckpt_save_interval=1000")
    run = forks.Forked(program)
    assert run.begun()
    run.send(signal.SIGTERM)
    done = run.wait()
    assert done.returncode == 0, done.stderr
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", done.stdout)[1])  # type: ignore[index]
    assert 5 <= step < STEPS and (tmp_path / f"saved/iter{step}/manifest.json").is_file()
    done = forks.run(program)
    assert done.returncode == 0 and f"at step {step}" in done.stdout, done.stdout + done.stderr
    same(tmp_path, whole)


def test_a_damaged_checkpoint_is_passed_over_by_name(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    for folder in ("saved", "out"):
        shutil.copytree(whole / folder, tmp_path / folder)
    model = tmp_path / "saved/iter40/torch_module/model.pt"
    model.write_bytes(model.read_bytes()[:-1])
    done = forks.run(retrieval(data, tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"passed over: .*iter40/torch_module/model.pt: \d+ bytes", done.stdout)
    assert "resumed from" in done.stdout and "at step 36" in done.stdout
    same(tmp_path, whole)


def test_a_checkpoint_of_another_model_is_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    wanted = f'TrainerArgs.ckpt_load_dir="{whole / "saved/iter40"}"'
    done = forks.run(retrieval(data, tmp_path, wanted, "NetworkArgs.num_layers=1"))
    assert done.returncode == 1
    assert "another model: num_layers is 2 there and 1 here" in done.stderr


def test_code_in_a_checkpoint_is_not_run(whole: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    folder = tmp_path / "iter40"
    shutil.copytree(whole / "saved/iter40", folder)
    torch.save({"state": Code()}, folder / "torch_module/model.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    manifest["files"] = checkpoint._files(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    said = r"model\.pt: it holds more than tensors, numbers and text; none of it was run"
    with pytest.raises(checkpoint.CheckpointError, match=said):
        checkpoint.load(folder, manifest["model"], model, optimizer, None)
    assert not (tmp_path / "run").exists()


def test_scalars_go_to_tensorboard_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    added = []
    module = type(sys)("torch.utils.tensorboard")
    writer = type("Writer", (), {"add_scalar": lambda _, *scalar: added.append(scalar)})
    module.SummaryWriter = lambda folder: writer()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    report.TensorBoard(Path("x"), True).add({"step": 3, "loss": 0.5, "mfu": None})
    assert added == [("loss", 0.5, 3)]
    monkeypatch.setitem(sys.modules, module.__name__, None)
    report.TensorBoard(Path("x"), True).add({"step": 3, "loss": 0.5})
    assert len(added) == 1


def test_a_late_step_s_batch_comes_first(data: Path, tmp_path: Path) -> None:
    from hstu_training.training import gin_file, trainer
    from hstu_training.training.build import build
    from hstu_training.training.processes import Processes
    from hstu_training.training.settings import Settings

    bindings = [*runs.SMALL, *SAVED, "TrainerArgs.max_train_iters=9001",
                f'DatasetArgs.dataset_path="{data}"',
                f'TrainerArgs.ckpt_save_dir="{tmp_path}"']  # fmt: skip

    def made() -> trainer.Trainer:
        gin_file.parse(runs.EXAMPLES / "ml_100k_retrieval.gin", bindings)
        return trainer.Trainer(build(Settings.read(ranking=False), Processes("cpu")), tmp_path)

    first = made()
    first.watch, first.step = trainer.Watch(first.device), 9000
    first.save()
    assert checkpoint.read_manifest(tmp_path / "iter9000")["step"] == 9000
    late, asked = made(), []
    order = late.built.train
    late.built.train = lambda step: asked.append(step) or order(step)  # type: ignore[assignment]
    late.built.train.per_epoch, late.built.train.maker = order.per_epoch, order.maker
    late.built.train.global_batch = order.global_batch
    begin = time.process_time()
    assert late.run() == 0
    assert asked == [9000] and time.process_time() - begin < 5


def test_a_loss_that_is_no_number_stops_the_run(data: Path, tmp_path: Path) -> None:
    done = forks.run(retrieval(data, tmp_path, "RetrievalArgs.temperature=1e-300"))
    assert done.returncode == 1
    found = re.search(r"the loss of step (\d+) is not finite on rank 0; its batch is in (\S+)",
                      done.stderr)  # fmt: skip
    assert found, done.stderr
    batch = torch.load(found[2], weights_only=True)
    assert batch["labels"].numel() == batch["count"]


def test_a_full_disk_does_not_end_training_but_its_exit_status(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "saved").mkdir()

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = forks.run(retrieval(data, tmp_path, "TrainerArgs.eval_interval=100"), fill)
    assert done.returncode == 1
    assert "checkpoint of step 4 was not saved" in done.stdout, done.stdout + done.stderr
    assert f"{STEPS}/{STEPS}" in done.stdout
    assert not list((tmp_path / "saved").iterdir())


def test_ranking_learns_what_can_be_learned(tmp_path: Path) -> None:
    made = runs.data(tmp_path, "kuairand-pure", users=300, over=4)
    arguments = runs.program(
        "ranking", "kuairand_pure_ranking.gin", made, tmp_path / "out", *runs.SMALL,
        "TrainerArgs.max_train_iters=120", "TrainerArgs.eval_interval=120",
        "TrainerArgs.profile=False", "DatasetArgs.max_num_candidates=5",
        "OptimizerArgs.learning_rate=0.01",
        "DatasetArgs.shuffle=True", "NetworkArgs.hidden_dropout=0.0",
    )  # fmt: skip
    done = forks.run(arguments)
    assert done.returncode == 0, done.stderr
    last = runs.numbers(tmp_path / "out")[-1]
    assert float(last["test_AUC"]) > 0.55, last  # of users that it was not trained on; .575


def test_every_gin_file_trains_three_steps(tmp_path: Path) -> None:
    """On data of its shape over 16, two sequences a batch, in one process for all of them."""
    files = sorted(runs.EXAMPLES.glob("*.gin"))
    assert len(files) >= 15
    names = {"movielen_": "ml-20m", "ml_1m": "ml-1m", "ml_20m": "ml-20m", "ml_100k": "ml-100k",
             "kuairand_1k": "kuairand-1k", "kuairand_27k": "kuairand-27k",
             "kuairand_pure": "kuairand-pure"}  # fmt: skip
    from hstu_training.training import gin_file
    from hstu_training.training.command import run
    from hstu_training.training.gin_config_args import DatasetArgs, NetworkArgs

    for file in files:
        gin_file.parse(file)
        dataset, network = gin_file.make(DatasetArgs), gin_file.make(NetworkArgs)
        bindings = [
            "TrainerArgs.max_train_iters=3", "TrainerArgs.train_batch_size=2",
            "TrainerArgs.eval_batch_size=2", "TrainerArgs.max_eval_iters=1",
            "TrainerArgs.profile=False",
            f"DatasetArgs.max_history_seqlen={dataset.max_history_seqlen // 16}",
            f"DatasetArgs.max_num_candidates={-(-dataset.max_num_candidates // 16)}",
            f"NetworkArgs.hidden_size={network.hidden_size // 4}",
        ]  # fmt: skip
        if dataset.dataset_name == "benchmark":
            longest = dataset.max_history_seqlen // 16
            bindings += [
                f"item_and_action/FeatureArgs.max_sequence_length={longest}",
                f"NetworkArgs.kv_channels={network.kv_channels // 4}",
                "item/DynamicEmbeddingArgs.item_vocab_size_or_capacity=10000",
                "BenchmarkDatasetArgs.num_generated_batches=4",
            ]
        else:
            name = next(value for key, value in names.items() if file.name.startswith(key))
            made = tmp_path / name
            if not made.exists():
                runs.data(tmp_path, name, users=12, over=16)
            bindings.append(f'DatasetArgs.dataset_path="{made}"')
        task = "ranking" if "ranking" in file.name or "prefetch" in file.name else "retrieval"
        given = [f"--gin-config-file={file}", "--device=cpu", f"--output={tmp_path / file.stem}"]
        assert run(task, [*given, *(f"--gin-bindings={b}" for b in bindings)]) == 0, file.name
        assert runs.numbers(tmp_path / file.stem)[-1]["step"] == "3", file.name
