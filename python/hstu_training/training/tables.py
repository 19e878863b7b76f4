"""The dynamic tables of a run: of one process, or dealt out to several."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from dynamicemb import DynamicEmbeddingCollection

from hstu_training.modules.embeddings import TableConfig, local_collection
from hstu_training.training.gin_file import fail
from hstu_training.training.processes import Processes
from hstu_training.training.settings import Settings


def make_tables(
    tables: Sequence[TableConfig], settings: Settings, processes: Processes
) -> tuple[Any, str]:
    """The collection of the dynamic tables, and what divides it.

    Raises:
        ConfigError: a backend that this installation has not.
    """
    wanted = settings.network.embedding_backend
    optimizer, seed = settings.table_optimizer(), settings.trainer.seed
    if wanted == "torchrec":
        fail(settings.network, "embedding_backend", "'native' or None: torchrec is not here yet")
    if processes.device.type == "cpu":  # all memory is the host's
        tables = [dataclasses.replace(t, hbm_bytes=0, caching=False) for t in tables]
    if processes.world == 1:
        return local_collection(tables, optimizer, processes.device, seed), "native"
    if "process_group" not in inspect.signature(DynamicEmbeddingCollection).parameters:
        said = "used with one process: this dynamicemb deals no tables out"
        fail(settings.network, "embedding_backend", said)
    shared = [dataclasses.replace(t, rows=_share(t.rows, processes)) for t in tables]
    group = dist.group.WORLD
    made = local_collection(shared, optimizer, processes.device, seed, process_group=group)
    return made, "native"


def _share(rows: int, processes: Processes) -> int:
    """Rows of a process, with some to spare: no law says that ids are dealt out evenly."""
    return rows // processes.world + 1024


def _groups(collection: Any) -> list[tuple[Any, str]]:
    return [(group, name) for group in collection.groups for name in group.table_names]


def dumper(collection: Any) -> Callable[[Path], None]:
    """Writes every table to ``<folder>/<table>``, all processes together."""

    def dump(folder: Path) -> None:
        for group, name in _groups(collection):
            group.dump(str(folder / name), optim=True, table_names=[name])

    return dump


def loader(collection: Any) -> Callable[[Path], None]:
    """Reads them, of any number of processes."""

    def load(folder: Path) -> None:
        for group, name in _groups(collection):
            group.load(str(folder / name), optim=True, table_names=[name])

    return load
