"""What is learned from MovieLens 100K, by plain counting as far as it can be said beforehand.

Asked for by --config=movielens, which fetches the data (GroupLens' terms: research, with
acknowledgement, no redistribution, no revenue-bearing use).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hstu_training import preprocess
from hstu_training.data.columns import Columns

from tests.hstu_training import runs

SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
pytestmark = pytest.mark.skipif(
    "ML_100K" not in os.environ, reason="needs --config=movielens, which fetches the data"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(os.environ["ML_100K"])
    assert hashlib.sha256(source.read_bytes()).hexdigest() == SHA256
    made = tmp_path_factory.mktemp("data") / "ml-100k"
    given = ["--dataset=ml-100k", f"--input={source}", f"--output={made}"]
    assert preprocess.main(given) == 0  # its counts are checked
    return made


def popularity(data: Path) -> float:
    """HR@10 of the items that most users had before their last event, seen ones removed."""
    columns = Columns(data)
    ends = np.asarray(columns["offsets"][1:]) - 1
    items = np.searchsorted(columns["catalogue"], columns["items"])
    counts = np.bincount(np.delete(items, ends), minlength=len(columns["catalogue"]))
    hits = 0
    for begin, end in zip(columns["offsets"][:-1], ends, strict=True):
        left = counts.copy()
        left[items[begin:end]] = -1
        hits += int((left >= left[items[end]]).sum()) <= 10
    return hits / columns.users


def test_twenty_epochs_foretell_the_next_item(data: Path, tmp_path: Path) -> None:
    before = sum(os.times()[:4])
    arguments = runs.program(
        "retrieval", "ml_100k_retrieval.gin", data, tmp_path, "TrainerArgs.max_train_iters=600",
        "TrainerArgs.eval_interval=600",
    )  # fmt: skip
    done = runs.run(arguments, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    last = runs.numbers(tmp_path)[-1]
    mean = (float(last["valid_HR@10"]) + float(last["test_HR@10"])) / 2
    most = popularity(data)
    seconds = sum(os.times()[:4]) - before
    print(f"HR@10 {mean:.4f}, popularity {most:.4f}, {seconds:.0f} CPU-seconds")
    assert most == pytest.approx(0.0859, abs=0.002)
    assert mean >= 0.172 and mean >= 2 * most


def test_ratings_of_ten_candidates_are_told_apart(data: Path, tmp_path: Path) -> None:
    arguments = runs.program("ranking", "ml_100k_ranking.gin", data, tmp_path)
    done = runs.run(arguments, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert max(float(row["test_AUC"]) for row in runs.numbers(tmp_path)) >= 0.748
