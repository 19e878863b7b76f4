"""Dumps that are written while training goes on: ``dump(blocking=False)``."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamicemb import dump_load as one
from dynamicemb._core.files import sync
from dynamicemb.dump_file import DumpFile
from dynamicemb.snapshot import Rows, Snapshot

if TYPE_CHECKING:
    from dynamicemb.table_api import TableApi as Module


class Writer:
    """The files of a table; what is of the moment is taken when it is made."""

    def __init__(
        self, module: Module, folder: Path, table: int, optim: bool, counter: bool
    ) -> None:
        self.module, self.table, self.optim = module, table, optim
        self.name, self.folder, self.rows = module.table_names[table], folder, 0
        self.total = module.tiers.size(table)
        self.files: dict[str, Any] = {}
        self.said = one._said(module, table)
        self.counted: tuple[Tensor, ...] = ()
        if counter and module._counter is not None:
            self.counted = module._counter.export(table)

    def open(self) -> None:
        parts = ["emb_keys", "emb_values", "emb_scores"]
        for part in [*parts, "opt_values"] if self.optim else parts:
            self._file(part)

    def _file(self, part: str) -> Any:
        made = DumpFile(self.folder, f"{self.name}_{part}.{one._suffix(self.module)}")
        self.files[part] = made
        return made

    def write(self, keys: Tensor, rows: Tensor, scores: Tensor) -> None:
        self.files["emb_keys"].write(keys)
        self.files["emb_values"].write(one.weights_of(self.module, self.table, rows))
        self.files["emb_scores"].write(scores)
        if self.optim:
            self.files["opt_values"].write(one.state_of(self.module, self.table, rows))
        self.rows += len(keys)
        one._progress(f"dump {self.name}", self.rows, self.total)

    def end(self) -> dict[str, Any]:
        parts = ("counter_keys", "counter_frequencies")
        for part, array in zip(parts, self.counted, strict=False):
            self._file(part).write(array.to(torch.int64))
        text = json.dumps(self.said, indent=1, default=str).encode()
        self.files["args"] = DumpFile(self.folder, f"{self.name}_opt_args.json")
        self.files["args"].write(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        entries = {file.name: file.end() for file in self.files.values()}
        return {"rows": self.rows, "dim": self.module.layouts[self.table].dim, "files": entries}


class Dump:
    """A dump that is written while training goes on."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="dynamicemb dump")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - wait() raises it
            self._error = error
        del self._work  # it holds the module, which may hold this dump

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Returns when the dump is in its place.

        Raises:
            OSError: it could not be written; the dump that was there is whole.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error


def start(
    module: Module,
    save_dir: str | os.PathLike[str],
    optim: bool,
    counter: bool,
    table_names: Sequence[str] | None,
    kept_bytes: int,
) -> Dump:
    """See ``BatchedDynamicEmbeddingTablesV2.dump``."""
    if module.part is not None:
        raise ValueError("dynamicemb: blocking=False is for tables that are not dealt out to ranks")
    if isinstance(kept_bytes, bool) or not isinstance(kept_bytes, int) or kept_bytes < 1:
        raise ValueError(f"dynamicemb: kept_bytes must be an int >= 1, got {kept_bytes!r}")
    tables = one._chosen(module, table_names)
    target = Path(os.path.realpath(save_dir))
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    writers = {t: Writer(module, made, t, optim, counter) for t in tables}
    chunk = one.CHUNK if module.device.type == "cuda" else one.CHUNK // 2
    snapshot = Snapshot(module.tiers, tables, kept_bytes, chunk)
    module.tiers.snapshot = snapshot

    def work() -> None:
        try:
            with torch.cuda.stream(snapshot.stream):
                _write(target, made, writers, snapshot.rows())
        finally:
            snapshot.end()

    module.tiers.dump = Dump(work)
    return module.tiers.dump


def _write(target: Path, made: Path, writers: Mapping[int, Writer], pieces: Iterable[Rows]) -> None:
    made.mkdir()
    try:
        for writer in writers.values():
            writer.open()
        for rows in pieces:
            assert isinstance(rows.tables, int)
            writers[rows.tables].write(rows.keys, rows.values, rows.scores)
        entries = {writer.name: writer.end() for writer in writers.values()}
        manifest = {"format": one.FORMAT, "world_size": 1, "tables": entries}
        file = DumpFile(made, one.MANIFEST)
        file.write(torch.frombuffer(bytearray(json.dumps(manifest).encode()), dtype=torch.uint8))
        file.end()
        sync(made)
        one._replace(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    sync(target.parent)
