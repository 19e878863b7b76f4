"""One file of a dump, written, summed and brought to the disk at once."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

SYNCED_BYTES = 1 << 26  # that a file is ahead of the disk before it is told to go on


class DumpFile:
    """A file of a dump, its SHA-256 made as it is written.

    With ``threads`` writing, summing, and what the caller does next go on at once; a call of
    ``write`` waits for the one before. Meanwhile what is written goes to the disk, which a machine
    with much memory would leave to the end.
    """

    def __init__(self, folder: Path, name: str, threads: bool = False) -> None:
        self.name, self.path = name, folder / name
        self.file: BinaryIO = open(self.path, "wb")  # noqa: SIM115 - closed by end()
        self.sum, self.bytes = hashlib.sha256(), 0
        self.workers = ThreadPoolExecutor(3) if threads else None
        self.running: list[Future[Any]] = []
        self.syncing: Future[None] | None = None
        self.asked = 0  # bytes that a sync was asked for

    def write(self, array: Tensor) -> None:
        data = array.contiguous().cpu().numpy().data
        self._done()
        for work in (self.file.write, self.sum.update):
            if self.workers is None:
                work(data)
            else:
                self.running.append(self.workers.submit(work, data))
        self._sync_some()
        self.bytes += array.nbytes

    def _sync_some(self) -> None:
        """Of what was written before this call."""
        if self.workers is None or self.bytes - self.asked < SYNCED_BYTES:
            return
        if self.syncing is None or self.syncing.done():
            self._synced()
            self.syncing = self.workers.submit(os.fdatasync, self.file.fileno())
            self.asked = self.bytes

    def _synced(self) -> None:
        if self.syncing is not None:
            self.syncing.result()

    def _done(self) -> None:
        while self.running:
            self.running.pop().result()

    def end(self) -> dict[str, Any]:
        self._done()
        self._synced()
        if self.workers is not None:
            self.workers.shutdown()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"bytes": self.bytes, "sha256": self.sum.hexdigest()}
