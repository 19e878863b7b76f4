"""Small runs of the training programs, in processes of their own."""

from __future__ import annotations

import csv
import hashlib
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hstu_training import preprocess

from tests.common.processes import environment

EXAMPLES = Path(__file__).parents[2] / "examples/hstu"
SMALL = (
    "NetworkArgs.hidden_size=16", "NetworkArgs.kv_channels=8", "NetworkArgs.num_attention_heads=2",
    "NetworkArgs.num_layers=2", "NetworkArgs.num_position_buckets=64",
    "NetworkArgs.scaling_seqlen=-1", "DatasetArgs.max_history_seqlen=20",
    "TrainerArgs.log_interval=5", "TrainerArgs.eval_interval=20", "TrainerArgs.eval_batch_size=64",
)  # fmt: skip


def data(folder: Path, name: str = "ml-100k", users: int = 60, over: int = 8) -> Path:
    """A made-up data set of a published one's shape."""
    made = folder / name
    given = ["--dataset", f"synthetic-{name}", "--output", str(made), "--users", str(users)]
    assert preprocess.main([*given, "--over", str(over)]) == 0
    return made


class Program(NamedTuple):
    """A training program and its arguments."""

    task: str
    arguments: list[str]
    world: int

    def line(self) -> list[str]:
        """As a person starts it: torchrun with more than one process, plain Python otherwise."""
        start = ["-m", f"hstu_training.pretrain_gr_{self.task}"]
        if self.world > 1:
            start = ["-m", "torch.distributed.run", f"--nproc_per_node={self.world}",
                     f"--master_port={free_port()}",
                     str(EXAMPLES / f"pretrain_gr_{self.task}.py")]  # fmt: skip
        return [sys.executable, *start, *self.arguments]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def program(
    task: str, gin: str, data_set: Path, output: Path, *bindings: str, world: int = 1
) -> Program:
    """Of a file of examples/hstu, on the CPU."""
    given = [f"--gin-config-file={EXAMPLES / gin}", f"--output={output}", "--device=cpu"]
    every = (f'DatasetArgs.dataset_path="{data_set}"', *bindings)
    return Program(task, [*given, *(f"--gin-bindings={binding}" for binding in every)], world)


def run(started: Program, **variables: str) -> subprocess.CompletedProcess[str]:
    """From the command line; see ``forks`` for what costs less."""
    return subprocess.run(
        started.line(), capture_output=True, text=True, check=False, env=environment() | variables
    )


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a checkpoint, but for the manifest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def state(run: Path) -> dict[str, np.ndarray]:
    """Parameters, and keys and rows of tables, of a run's last checkpoint, whoever wrote a row."""
    last = max((run / "saved").iterdir(), key=lambda path: int(path.name.removeprefix("iter")))
    found = torch.load(last / "torch_module/model.pt", map_location="cpu", weights_only=True)
    made = {name: value.numpy() for name, value in found.items()}
    for table in sorted(p for p in (last / "dynamicemb_module").iterdir() if p.is_dir()):
        parts = sorted(table.glob("*_emb_keys.*"))
        keys = np.concatenate([np.fromfile(part, np.int64) for part in parts])
        values = [np.fromfile(str(part).replace("_keys", "_values"), np.float32) for part in parts]
        order = np.argsort(keys)
        assert len(np.unique(keys)) == len(keys) > 0
        made[f"{table.name} keys"] = keys[order]
        made[f"{table.name} rows"] = np.concatenate(values).reshape(len(keys), -1)[order]
    return made


def numbers(output: Path) -> list[dict[str, str]]:
    """The lines of metrics.csv without what depends on the time."""
    with open(output / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    timed = re.compile("tokens_per_second|mfu|seconds")
    return [{k: v for k, v in row.items() if not timed.match(k)} for row in rows]
