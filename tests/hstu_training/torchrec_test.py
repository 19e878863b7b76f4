"""TorchRec deals tables out as dynamicemb alone does: by the real TorchRec, in two processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchrec", reason="an environment without TorchRec")

import hstu_training.modules.torchrec_embeddings  # noqa: F401 - before a fork

from tests.hstu_training import forks, runs

STEPS = 10
SHAPES = {
    "retrieval": ("ml-100k", "ml_100k_retrieval.gin", "RetrievalArgs.num_negatives=16",
                  "DatasetArgs.contextual_features=('user_id',)"),
    "ranking": ("kuairand-pure", "kuairand_pure_ranking.gin", "TrainerArgs.profile=False"),
}  # fmt: skip


def trained(task: str, folder: Path, world: int, *bindings: str) -> Path:
    """A run with a checkpoint at its middle and one at its end."""
    name, gin, *more = SHAPES[task]
    data = folder / name
    if not data.exists():
        runs.data(folder, name, users=70)
    done = forks.run(runs.program(
        task, gin, data, folder / "out", *runs.SMALL, "TrainerArgs.train_batch_size=8",
        f"TrainerArgs.max_train_iters={STEPS}", f"TrainerArgs.ckpt_save_interval={STEPS // 2}",
        f'TrainerArgs.ckpt_save_dir="{folder / "saved"}"', *more, *bindings, world=world,
    ))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def asked(backend: str) -> str:
    return f"NetworkArgs.embedding_backend='{backend}'"


def backend(folder: Path) -> str:
    return str(json.loads((folder / "out/report.json").read_text())["embedding_backend"])


def same(one: Path, other: Path) -> None:
    wanted, found = runs.state(one), runs.state(other)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, rtol=0, err_msg=name)


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two processes of each backend; torchrec without being asked for."""
    native, torchrec = (tmp_path_factory.mktemp(name) for name in ("native", "torchrec"))
    trained("retrieval", native, 2, asked("native"))
    trained("retrieval", torchrec, 2)
    return {"native": native, "torchrec": torchrec}


def assert_equal_runs(native: Path, torchrec: Path) -> None:
    assert (backend(native), backend(torchrec)) == ("native", "torchrec")
    same(native, torchrec)
    for a, b in zip(runs.numbers(native / "out"), runs.numbers(torchrec / "out"), strict=True):
        wanted = {name: float(value or 0) for name, value in a.items()}
        found = {name: float(value or 0) for name, value in b.items()}
        assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_torchrec_is_the_default_of_two_processes_and_trains_what_native_does(
    retrieval: dict[str, Path],
) -> None:
    assert_equal_runs(**retrieval)


def test_it_does_so_for_ranking(tmp_path: Path) -> None:
    native = trained("ranking", tmp_path / "native", 2, asked("native"))
    assert_equal_runs(native, trained("ranking", tmp_path / "torchrec", 2, asked("torchrec")))


@pytest.mark.parametrize(("first", "then"), [("native", "torchrec"), ("torchrec", "native")])
def test_a_checkpoint_of_one_goes_on_with_the_other(
    retrieval: dict[str, Path], tmp_path: Path, first: str, then: str
) -> None:
    load = f'TrainerArgs.ckpt_load_dir="{retrieval[first] / f"saved/iter{STEPS // 2}"}"'
    trained("retrieval", tmp_path, 2, asked(then), load)
    assert backend(tmp_path) == then
    same(retrieval[first], tmp_path)


def test_one_process_has_it_if_it_asks(tmp_path: Path) -> None:
    one = trained("retrieval", tmp_path / "1", 1, asked("torchrec"))
    other = trained("retrieval", tmp_path / "2", 1)
    assert (backend(one), backend(other)) == ("torchrec", "native")
    same(one, other)
