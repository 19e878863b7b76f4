"""Increments as files: what changed in a model's tables since the last one, numbered, to be
replayed in order over a dump.

An increment is a folder ``increment_00000001`` with, for each table, the keys that left it since
the last one and the rows that were written, and a manifest with the SHA-256 of each file. It is
written beside and renamed: it is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamicemb import dump_load as one
from dynamicemb._core.files import sha256, sync
from dynamicemb.arguments import checks, whole
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb.dealing import owners
from dynamicemb.dump_file import DumpFile
from dynamicemb.dump_ranks import _all_or_none, _inserted
from dynamicemb.incremental_dump import collections_of
from dynamicemb.link import Link

FORMAT = "dynamicemb increment 1"
NAME = re.compile(r"increment_(\d{8})")


class _Table(NamedTuple):
    collection: str
    module: Module
    number: int

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.module.table_names[self.number]}"

    @property
    def parts(self) -> dict[str, tuple[torch.dtype, int]]:
        """File -> dtype and width of what an increment holds of a table."""
        dim, state = self.module.layouts[self.number].dim, one.state_width(self.module, self.number)
        return {
            "gone": (torch.int64, 1), "keys": (torch.int64, 1), "scores": (torch.int64, 1),
            "values": (torch.float32, dim), "state": (torch.float32, state),
        }  # fmt: skip


def _tables(model: nn.Module) -> list[_Table]:
    found = [
        _Table(path, module, t)
        for path, modules in collections_of(model).items()
        for module in modules
        for t in range(len(module.table_names))
    ]
    if not found:
        raise ValueError("dynamicemb: model has no dynamic tables")
    return found


class Increments:
    """A series of increments of a model's tables.

    What ``append`` writes is what was trained, or left the tables, since this object was made or
    since the last ``append``. Make it where the dump is made that increments go on top of, with no
    training between; over several ranks on each of them, and ``append`` on each of them.

    Args:
        folder: one without increments; it is made if it is not there.
        model: its tables must have been made with ``capture_evicted=True``; their scores must tell
            when a row was written: TIMESTAMP, STEP or (TIMESTAMP, LFU).

    Raises:
        ValueError: a folder with increments, or a model without dynamic tables.
        RuntimeError: tables without ``capture_evicted``.
    """

    def __init__(self, folder: str | os.PathLike[str], model: nn.Module) -> None:
        checks.instance(model, nn.Module, "model")
        self.tables, self.folder = _tables(model), Path(os.path.realpath(folder))
        for table in self.tables:
            scores = table.module._scores
            if scores.strategy.name in ("LFU", "CUSTOMIZED") and not scores.stamped:
                raise ValueError(
                    f"dynamicemb: score_strategy of table {table.key} must be TIMESTAMP, STEP or "
                    f"(TIMESTAMP, LFU) for increments, got {scores.strategy.name}"
                )
        part = self.tables[0].module.part
        self.link: Link | None = None if part is None else part.link
        self.number, self.series = 0, secrets.token_hex(8)
        self._pop()
        self.since = self._now()
        error = ""
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            if there := sorted(_found(self.folder)):
                error = f"{self.folder} must hold no increments, and has number {there[-1]}"
        if self.link is not None:
            _all_or_none(self.link, error)
        elif error:
            raise ValueError(f"dynamicemb: {error}")

    @property
    def writes(self) -> bool:
        """Whether this rank writes the files of all."""
        return self.link is None or self.link.rank == 0

    def _now(self) -> list[int]:
        return [t.module._scores.current(t.number, t.module.tiers) for t in self.tables]

    def _pop(self) -> list[Tensor]:
        modules = {id(t.module): t.module for t in self.tables}
        popped = {number: module.pop_evicted_keys() for number, module in modules.items()}
        return [popped[id(t.module)][t.module.table_names[t.number]] for t in self.tables]

    def append(self) -> int:
        """Writes the next increment; its number.

        Raises:
            OSError: it cannot be written. What it would have held is in the next one.
        """
        gone, following, error = self._pop(), self._now(), ""
        arrays = [
            self._changed(table, since, left)
            for table, since, left in zip(self.tables, self.since, gone, strict=True)
        ]
        if self.link is not None:
            every = [[self.link.rows(x) for x in some] for some in arrays]
            arrays = every
        if self.writes:
            try:
                self._write(arrays)
            except OSError as raised:
                if self.link is None:
                    self._again(gone)
                    raise
                error = str(raised)
        if self.link is not None:
            try:
                _all_or_none(self.link, error)
            except RuntimeError:
                self._again(gone)
                raise
        self.since, self.number = following, self.number + 1
        return self.number

    def _again(self, gone: list[Tensor]) -> None:
        """Keys that left are told once more, the next time."""
        for table, keys in zip(self.tables, gone, strict=True):
            ends = torch.zeros(len(table.module.table_names) + 1, dtype=torch.int64)
            ends[table.number + 1 :] = len(keys)
            table.module.tiers.gone.append((keys, ends))

    def _changed(self, table: _Table, since: int, gone: Tensor) -> list[Tensor]:
        """What the files of a table hold, on the CPU."""
        module, t = table.module, table.number
        layout = module.layouts[t]
        stamped = layout.stamp_offset >= 0
        columns: list[list[Tensor]] = [
            [torch.empty((0, width) if name in ("values", "state") else 0, dtype=dtype)]
            for name, (dtype, width) in table.parts.items()
        ]
        columns[0].append(gone)
        for keys, rows, scores in module.tiers.export(t, 0 if stamped else since):
            if stamped:
                late = one._words(module, t, rows, layout.stamp_offset) >= since
                keys, rows, scores = keys[late], rows[late], scores[late]
            parts = (keys, scores, one.weights_of(module, t, rows), one.state_of(module, t, rows))
            for column, some in zip(columns[1:], parts, strict=True):
                column.append(some.cpu())
        return [torch.cat(column) for column in columns]

    def _write(self, arrays: list[list[Tensor]]) -> None:
        made = self.folder / f".{secrets.token_hex(8)}"
        made.mkdir()
        try:
            said, files = [], {}
            for i, (table, some) in enumerate(zip(self.tables, arrays, strict=True)):
                for (name, _), array in zip(table.parts.items(), some, strict=True):
                    file = DumpFile(made, f"{i}_{name}")
                    file.write(array)
                    files[file.name] = file.end()
                said.append({"table": table.key, "rows": len(some[1]), "gone": len(some[0])})
            manifest = {
                "format": FORMAT, "series": self.series, "number": self.number + 1,
                "tables": said, "files": files,
            }  # fmt: skip
            file = DumpFile(made, one.MANIFEST)
            text = json.dumps(manifest).encode()
            file.write(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            file.end()
            sync(made)
            os.rename(made, self.folder / f"increment_{self.number + 1:08d}")
            sync(self.folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise


def _found(folder: Path) -> dict[int, Path]:
    return {
        int(match.group(1)): path
        for path in folder.iterdir()
        if (match := NAME.fullmatch(path.name))
    }


def replay_increments(folder: str | os.PathLike[str], model: nn.Module, after: int = 0) -> int:
    """Brings tables that hold a dump, or the increments up to ``after``, up to the last increment.

    Everything is checked before a row is changed. Tables may be dealt out to any number of ranks.

    Returns:
        The number of the last increment.

    Raises:
        ValueError: an increment is missing between others, by its number; a file is missing or was
            altered; tables differ from the model's.
    """
    checks.instance(model, nn.Module, "model")
    whole(after, "after", 0)
    tables, found = _tables(model), _found(Path(folder))
    last = max(found, default=0)
    series = {}
    for number in range(after + 1, last + 1):
        if number not in found:
            raise ValueError(
                f"dynamicemb: {folder}: increment {number} is missing, and there is {last}"
            )
        series[number] = _checked(found[number], tables)
    names = {manifest["series"] for manifest in series.values()}
    if len(names) > 1:
        raise ValueError(f"dynamicemb: {folder}: increments of {len(names)} series")
    for number in series:
        for i, table in enumerate(tables):
            _apply(found[number], i, table)
    return max(last, after)


def _checked(path: Path, tables: list[_Table]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / one.MANIFEST).read_text())
    if manifest.get("format") != FORMAT:
        one._fail(path, f"format {manifest.get('format')!r}, expected {FORMAT!r}")
    held, wanted = [entry["table"] for entry in manifest["tables"]], [t.key for t in tables]
    if held != wanted:
        one._fail(path, f"tables {held}, expected {wanted}")
    for name, said in manifest["files"].items():
        there = path / name
        if not there.is_file() or sha256(there) != said["sha256"]:
            one._fail(there, "the file is missing or was altered")
    for i, (table, entry) in enumerate(zip(tables, manifest["tables"], strict=True)):
        for name, (dtype, width) in table.parts.items():
            rows = entry["gone"] if name == "gone" else entry["rows"]
            size, wide = manifest["files"][f"{i}_{name}"]["bytes"], rows * width * dtype.itemsize
            if size != wide:
                one._fail(path / f"{i}_{name}", f"{size} bytes, expected {wide}")
    return manifest


def _read(path: Path, number: int, table: _Table, name: str) -> Tensor:
    dtype, width = table.parts[name]
    file = path / f"{number}_{name}"
    rows = file.stat().st_size // max(width * dtype.itemsize, 1)
    if width == 0:
        return torch.empty(0, 0)
    found = one._array(file, dtype, width, 0, rows)
    return found if dtype == torch.int64 else found.reshape(-1, width)


def _apply(path: Path, number: int, table: _Table) -> None:
    module, t = table.module, table.number
    parts = {name: _read(path, number, table, name) for name in table.parts}

    def mine(keys: Tensor) -> Tensor:
        if module.part is None:
            return torch.ones_like(keys, dtype=torch.bool)
        numbers, kind = module.part.num_embeddings[t], module.options[t].dist_type
        return owners(keys, kind, module.part.world, numbers) == module.part.rank

    gone: Tensor = torch.unique(parts["gone"])
    if len(gone := gone[mine(gone)]):
        module.erase(module.table_names[t], gone)
    refused = 0
    for rows in _pieces(torch.nonzero(mine(parts["keys"]))[:, 0]):
        state = parts["state"][rows] if parts["state"].numel() else None
        words = one._rows_of(module, t, parts["values"][rows], state)
        refused += _inserted(module, t, parts["keys"][rows], words, parts["scores"][rows])
    if refused:
        warnings.warn(
            f"dynamicemb: {refused} rows of {path.name} found no room in table {table.key}",
            stacklevel=3,
        )


def _pieces(rows: Tensor) -> Iterator[Tensor]:
    for begin in range(0, len(rows), one.CHUNK):
        yield rows[begin : begin + one.CHUNK]


__all__ = ["Increments", "replay_increments"]
