"""Tables as they were at one moment, read while training goes on.

A reader walks the slots of the tables, ahead of who writes the rows to files: what it has read is
kept aside. Before a step changes a row that the reader has not reached, the row is kept aside, too;
``met``, a table of keys alone, knows whom either of them had. Reader and steps take turns by a lock
and by the order of their streams; rows are written outside.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicemb.key_value_table import (
    FIND_OR_INSERT,
    INSERTED,
    LRU,
    MOST_ROWS,
    UNBOUNDED,
    Listed,
    TableOptions,
    TableSet,
    Tiers,
)
from dynamicemb.ops import ops


class Rows(NamedTuple):
    """Some rows: keys (n), rows (n, words), scores (n), and of each the table, or -1: there is no
    such row. ``tables`` an int: of all."""

    tables: int | Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor

    @property
    def bytes(self) -> int:
        return sum(part.untyped_storage().nbytes() for part in self[1:])

    def of(self, table: int) -> Rows | None:
        """Those of one table, if there are any."""
        if isinstance(self.tables, int):
            return self if self.tables == table else None
        mine = torch.nonzero(self.tables == table)[:, 0]
        return Rows(table, *(part[mine] for part in self[1:])) if len(mine) else None


class Snapshot:
    """The rows of ``tables`` at the moment of construction.

    Args:
        tiers: whose rows; its ``snapshot`` is set until the reader has all of them.
        tables: which tables.
        kept_bytes: the most that rows kept aside may take before training waits; the reader
            leaves training half of it.
        batch: rows that the reader takes at a time.
    """

    def __init__(self, tiers: Tiers, tables: Sequence[int], kept_bytes: int, batch: int) -> None:
        self.tiers, self.chosen, self.kept_bytes, self.batch = tiers, tables, kept_bytes, batch
        self.turn = threading.Condition()
        self.kept: deque[Rows] = deque()
        self.bytes = 0
        self.waited = False
        self.error: Exception | None = None  # of the reader
        first = tiers.first
        self.met = TableSet(
            [self._room(int(size)) for size in first.sizes()[:, 0].tolist()], first.device
        )
        self.stream: torch.cuda.Stream | None = None
        self.event: torch.cuda.Event | None = None
        if first.device.type == "cuda":
            self.stream = torch.cuda.Stream(first.device)  # type: ignore[no-untyped-call]
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record(torch.cuda.current_stream(first.device))

    @staticmethod
    def _room(rows: int) -> TableOptions:
        start = max(4096, 2 * rows + rows // 4)
        return TableOptions(16, MOST_ROWS, start, UNBOUNDED, LRU, 0.5)  # it never evicts

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Work on tables, apart from that of other threads and streams."""
        with self.turn:
            if self.event is None:
                yield
                return
            stream = torch.cuda.current_stream(self.tiers.first.device)
            stream.wait_event(self.event)
            try:
                yield
            finally:
                self.event.record(stream)

    # -- what training does

    def wait(self) -> None:
        """Returns when there is room for more rows aside."""
        with self.turn:
            if self.bytes > self.kept_bytes and not self.waited:
                self.waited = True
                warnings.warn(
                    f"dynamicemb: training waits for a dump: {self.bytes} bytes of rows are kept "
                    f"aside, kept_bytes is {self.kept_bytes}",
                    stacklevel=4,
                )
            while self.bytes > self.kept_bytes and self.tiers.snapshot is self:
                self.turn.wait(0.1)

    def _new(self, keys: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Which of distinct keys nobody has met, and their tables. Waits for the device, once."""
        status = self.met.write(FIND_OR_INSERT, keys, offsets).status
        new = torch.nonzero(status == INSERTED)[:, 0]
        return new, ops.expand_ids(offsets, keys.numel())[new]

    def _tight(self, tables: Tensor) -> Tensor:
        """Where the keys of each table begin among keys of these tables, ascending."""
        every = torch.arange(len(self.met.tables) + 1, device=tables.device, dtype=tables.dtype)
        return torch.searchsorted(tables, every)

    def before(self, keys: Tensor, offsets: Tensor) -> None:
        """Rows of these distinct keys, if there are any, are about to change. In ``ordered``."""
        new, tables = self._new(keys, offsets)
        if not len(new):
            return
        some = keys[new]
        rows, scores = self.tiers.locate_scored(some, self._tight(tables))
        tables = torch.where(rows != 0, tables, torch.full_like(tables, -1))
        self._keep(Rows(tables, some, self.tiers.first.load(rows), scores))

    def left(self, listed: Listed, tier: TableSet) -> None:
        """Rows left a tier. In ``ordered``."""
        if tier is not self.tiers.first:  # what is in the cache as well has not left
            n = int(listed.offsets[-1])
            cached, _ = self.tiers.first.find(listed.keys, listed.offsets)
            gone = torch.nonzero(cached[:n] == 0)[:, 0]
            tables = ops.expand_ids(listed.offsets, n)[gone]
            listed = Listed(
                listed.keys[gone], self._tight(tables), listed.values[gone], listed.scores[gone]
            )
        new, tables = self._new(listed.keys, listed.offsets)
        if len(new):
            self._keep(Rows(tables, listed.keys[new], listed.values[new], listed.scores[new]))

    def _keep(self, rows: Rows) -> None:
        self.kept.append(rows)
        self.bytes += rows.bytes

    # -- what the reader does

    def _slots(self, tier: TableSet, table: int, begin: int) -> tuple[Rows | None, int]:
        """The unmet rows of the slots from ``begin`` on, and where the next ones begin; 0: the
        table has no more."""
        with self.ordered():
            capacity = int(tier.sizes()[table, 1])
            end = min(begin + self.batch, capacity)
            keys, values, scores, count = ops.table_set_export(
                tier.state, tier.handle, table, begin, end, 0, True
            )
            n = int(count)
            offsets = torch.zeros(len(tier.tables) + 1, dtype=torch.int64)
            offsets[table + 1 :] = n
            new, _ = self._new(keys, offsets.to(keys.device))
        parts = keys, values, scores
        some = (part[:n] if len(new) == n > len(keys) // 2 else part[new] for part in parts)
        rows = Rows(table, *some) if len(new) else None
        return rows, end if end < capacity else 0

    def _reads(self) -> bool:
        """Whether the reader is to go on, when there is room for what it reads."""
        with self.turn:
            while self.bytes > self.kept_bytes // 2 and self.tiers.snapshot is self:
                self.turn.wait(0.1)
            return self.tiers.snapshot is self

    def _read(self) -> None:
        tiers = [tier for tier in (self.tiers.first, self.tiers.host) if tier is not None]
        for tier in tiers:
            for table in self.chosen:
                begin, capacity = 0, int(tier.sizes()[table, 1])
                while self._reads():
                    rows, begin = self._slots(tier, table, begin)
                    if rows is not None:
                        here = Rows(table, *(part.cpu() for part in rows[1:]))
                        with self.turn:
                            self._keep(here)
                            self.turn.notify_all()
                    grown = int(tier.sizes()[table, 1])
                    if grown != capacity:  # its rows lie elsewhere now
                        begin, capacity = 0, grown
                    elif begin == 0:
                        break

    def _run(self) -> None:
        try:
            with torch.cuda.stream(self.stream):
                self._read()
        except Exception as error:  # noqa: BLE001 - the writer raises it
            self.error = error
        self.end()

    # -- what the writer does

    def _taken(self) -> Rows | None:
        with self.turn:
            while not self.kept and self.tiers.snapshot is self:
                self.turn.wait(0.1)
            with self.ordered():
                return self.kept.popleft() if self.kept else None

    def rows(self) -> Iterator[Rows]:
        """Every row of the moment once, in pieces; each is forgotten when the next one is asked
        for. The snapshot ends when all are in memory."""
        reader = threading.Thread(target=self._run, name="dynamicemb snapshot")
        reader.start()
        try:
            while (rows := self._taken()) is not None:
                for table in self.chosen:
                    if (mine := rows.of(table)) is not None:
                        yield mine
                with self.turn:
                    self.bytes -= rows.bytes
                    self.turn.notify_all()
        finally:
            self.end()
            reader.join()
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        """Returns when the reader has everything."""
        with self.turn:
            while self.tiers.snapshot is self:
                self.turn.wait(0.1)

    def end(self) -> None:
        with self.turn:
            if self.tiers.snapshot is self:
                self.tiers.snapshot = None
            self.turn.notify_all()
