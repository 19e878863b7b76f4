"""The dynamic tables of a run: of one process, or dealt out to several."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from dynamicemb import torchrec_compat

from hstu_training.modules.embeddings import TableConfig, collection_of
from hstu_training.training.gin_file import fail
from hstu_training.training.processes import Processes
from hstu_training.training.settings import Settings


def _backend(settings: Settings, processes: Processes) -> str:
    """ "torchrec" or "native", the same on every process.

    Raises:
        ConfigError: TorchRec is asked for, and not here.
    """
    wanted = settings.network.embedding_backend
    if wanted == "native" or (wanted is None and processes.world == 1):
        return "native"
    problem = "torchrec is not installed"
    if importlib.util.find_spec("torchrec") is not None:
        try:
            torchrec_compat.require()
            problem = ""
        except ImportError as error:
            problem = str(error)
    problems = [one for one in processes.all(problem) if one]
    if not problems:
        return "torchrec"
    if wanted is None:
        return "native"
    return fail(settings.network, "embedding_backend", f"'native' or None here: {problems[0]}")


def make_tables(
    tables: Sequence[TableConfig], settings: Settings, processes: Processes
) -> tuple[Any, str]:
    """The collection of the dynamic tables, and what divides it.

    Raises:
        ConfigError: a backend that this installation has not.
    """
    backend = _backend(settings, processes)
    optimizer, seed = settings.table_optimizer(), settings.trainer.seed
    if processes.device.type == "cpu":  # all memory is the host's
        tables = [dataclasses.replace(t, hbm_bytes=0, caching=False) for t in tables]
    given = (tables, optimizer, processes.device, seed)
    if backend == "native":
        return collection_of(*given, dist.group.WORLD if processes.world > 1 else None), backend
    # Imported here: most installations have no TorchRec, and it takes seconds.
    from hstu_training.modules.torchrec_embeddings import TorchRecCollection

    processes.begin()
    return TorchRecCollection(*given), backend


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
