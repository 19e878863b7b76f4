"""Two processes train the model that one trains, and go on where they were killed."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from dynamicemb import DynamicEmbeddingCollection

from tests.common.processes import environment
from tests.hstu_training import forks, runs

if "process_group" not in inspect.signature(DynamicEmbeddingCollection).parameters:
    pytest.skip("needs a dynamicemb that deals tables out", allow_module_level=True)

KILLS = int(os.environ.get("HSTU_TRAINING_KILLS", "2"))
STEPS = 50
SAVED = ("TrainerArgs.ckpt_save_interval=10", f"TrainerArgs.max_train_iters={STEPS}",
         "TrainerArgs.ckpt_load_dir='latest'", "TrainerArgs.eval_interval=50",
         "RetrievalArgs.num_negatives=16", "NetworkArgs.hidden_size=8",
         "RetrievalArgs.eval_metrics=('HR@10', 'NDCG@10')")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.data(tmp_path_factory.mktemp("data"), users=70)


def program(data: Path, folder: Path, world: int, *bindings: str) -> runs.Program:
    saved = f'TrainerArgs.ckpt_save_dir="{folder / "saved"}"'
    return runs.program(
        "retrieval", "ml_100k_retrieval.gin", data, folder / "out", *runs.SMALL, *SAVED, saved,
        f"TrainerArgs.train_batch_size={32 // world}", *bindings, world=world,
    )  # fmt: skip


def trained(data: Path, folder: Path, world: int, *bindings: str) -> Path:
    done = forks.run(program(data, folder, world, *bindings))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("one"), 1)


@pytest.mark.parametrize("balance", [False, True])
def test_two_processes_of_16_are_one_of_32(
    data: Path, one: Path, two: Path, tmp_path: Path, balance: bool
) -> None:
    other = two
    if balance:
        other = trained(data, tmp_path / "b", 2, "TrainerArgs.enable_balanced_shuffler=True")
    wanted, found = runs.state(one), runs.state(other)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=0, err_msg=name)
    for a, b in zip(runs.numbers(one / "out"), runs.numbers(other / "out"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-5)


def test_two_processes_that_are_killed_go_on_with_the_same_bits(
    data: Path, two: Path, tmp_path: Path
) -> None:
    for folder in forks.killed(lambda f: program(data, f, 2), tmp_path, KILLS):
        assert runs.checksums(folder / f"saved/iter{STEPS}") == runs.checksums(
            two / f"saved/iter{STEPS}"
        )
        assert runs.numbers(folder / "out") == runs.numbers(two / "out")


def test_another_number_of_processes_loads(data: Path, two: Path, tmp_path: Path) -> None:
    load = f'TrainerArgs.ckpt_load_dir="{two / f"saved/iter{STEPS}"}"'
    done = forks.run(program(data, tmp_path, 1, load))
    assert done.returncode == 0 and f"at step {STEPS}" in done.stdout, done.stderr
    for name, value in runs.state(tmp_path).items():
        assert np.array_equal(value, runs.state(two)[name]), name


def test_a_dead_process_ends_all_within_a_minute(data: Path, tmp_path: Path) -> None:
    line = program(data, tmp_path, 2, "TrainerArgs.max_train_iters=100000").line()
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        while (said := child.stdout.readline()) and not said.startswith("["):
            pass
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        begin = time.monotonic()
        assert child.wait(60) != 0
        assert time.monotonic() - begin < 60
