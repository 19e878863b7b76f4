"""Dumps of tables that are dealt out to ranks: every rank writes its part, any number reads it.

Rank 0 makes the new folder, takes a lock that ends with its process, and puts the folder in the
old one's place when all parts are there. A key's rank follows from the manifest's ``world_size``
and each table's ``dist_type`` and ``num_embeddings`` (``dynamicemb.dealing.owners``).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamicemb import dump_load as one
from dynamicemb._core.files import sync
from dynamicemb.dealing import owners
from dynamicemb.dump_file import DumpFile
from dynamicemb.key_value_table import REFUSED

if TYPE_CHECKING:
    from dynamicemb.link import Link
    from dynamicemb.table_api import TableApi as Module


class Part:
    """Which part of its tables a module has."""

    def __init__(self, link: Link, num_embeddings: Sequence[int]) -> None:
        self.link, self.num_embeddings = link, list(num_embeddings)
        self.rank, self.world = link.rank, link.world


def _all_or_none(link: Link, error: str) -> None:
    """Raises on every rank where one has an error."""
    for rank, said in enumerate(link.objects(error)):
        if said:
            raise RuntimeError(f"dynamicemb: rank {rank} failed: {said}")


def _locked(target: Path) -> Any:
    """An open file that holds the lock of a dump's folder."""
    path = target.with_name(f".{target.name}.lock")
    file = open(path, "a+")  # noqa: SIM115 - the lock is held as long as it is open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RuntimeError(f"{path} is held: another job dumps to {target}") from None
    return file


def dump(
    module: Module,
    part: Part,
    save_dir: str | os.PathLike[str],
    optim: bool,
    counter: bool,
    table_names: Sequence[str] | None,
) -> None:
    """As ``dump_load.dump``, on every rank at once.

    Raises:
        RuntimeError: on every rank, with the rank that could not write, or the lock that is held;
            the dump that was there is whole.
    """
    tables, link = one._chosen(module, table_names), part.link
    target = Path(os.path.realpath(save_dir))
    lock, error, name = None, "", ""
    if part.rank == 0:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(target)
            name = f".{target.name}.{secrets.token_hex(8)}"
            target.with_name(name).mkdir()
        except (OSError, RuntimeError) as raised:
            error = str(raised)
    try:
        _all_or_none(link, error)
        made = target.with_name(link.objects(name)[0])
        try:
            _write(module, part, made, target, tables, optim, counter)
        finally:
            if part.rank == 0:
                shutil.rmtree(made, ignore_errors=True)
    finally:
        if lock is not None:
            lock.close()


def _write(
    module: Module, part: Part, made: Path, target: Path, tables: list[int], optim: bool,
    counter: bool,
) -> None:  # fmt: skip
    link, error = part.link, ""
    entries: dict[str, Any] = {}
    try:
        for t in tables:
            entries[module.table_names[t]] = one._write_table(module, made, t, optim, counter)
    except OSError as raised:
        error = str(raised)
    _all_or_none(link, error)
    every = link.objects(entries)
    if part.rank == 0:
        try:
            whole = {}
            for t in tables:
                name = module.table_names[t]
                files = {f: said for of_rank in every for f, said in of_rank[name]["files"].items()}
                whole[name] = {
                    "rows": [of_rank[name]["rows"] for of_rank in every],
                    "dim": module.layouts[t].dim,
                    "dist_type": module.options[t].dist_type,
                    "num_embeddings": part.num_embeddings[t],
                    "files": files,
                }
            manifest = {"format": one.FORMAT, "world_size": part.world, "tables": whole}
            text = json.dumps(manifest).encode()
            file = DumpFile(made, one.MANIFEST)
            file.write(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            file.end()
            sync(made)
            one._replace(made, target)
            sync(target.parent)
        except OSError as raised:
            error = str(raised)
    _all_or_none(link, error)


def load(
    module: Module,
    part: Part | None,
    folder: Path,
    manifest: dict[str, Any],
    table: int,
    optim: bool,
) -> None:
    """Adds the rows of one table that are this rank's, from the files of all ranks that may have
    some. The files have been checked."""
    name = module.table_names[table]
    entry, saved = manifest["tables"][name], int(manifest["world_size"])
    rank, world = (0, 1) if part is None else (part.rank, part.world)
    rows = entry["rows"] if isinstance(entry["rows"], list) else [entry["rows"]]
    numbers = 0 if part is None else part.num_embeddings[table]
    kind = module.options[table].dist_type
    same = saved == world and entry.get("dist_type", kind) == kind
    same = same and (kind != "continuous" or entry.get("num_embeddings", numbers) == numbers)
    refused = done = 0
    for writer in [rank] if same else range(saved):
        suffix = f"rank_{writer}.world_size_{saved}"
        of_writer = {**entry, "rows": rows[writer]}
        for keys, values, scores in one._read_rows(module, folder, of_writer, table, optim, suffix):
            done += len(keys)
            one._progress(f"load {name}", done, sum(rows))
            if not same and world > 1:
                mine = owners(keys, kind, world, numbers) == rank
                keys, values, scores = keys[mine], values[mine], scores[mine]
            if len(keys):
                refused += _inserted(module, table, keys, values, scores)
    if refused:
        warnings.warn(
            f"dynamicemb: {refused} of {sum(rows)} rows of table {name!r} found no room: their "
            "scores are below those of the rows there",
            stacklevel=4,
        )


def _inserted(module: Module, table: int, keys: Tensor, values: Tensor, scores: Tensor) -> int:
    where = module.device
    status = module.tiers.insert(table, keys.to(where), values.to(where), scores.to(where))
    return int((status == REFUSED).sum())
