"""Where rows live: sets of hash tables, and tiers of them.

``TableSet`` owns a handle of the library's. ``Tiers`` is what training and evaluation ask: one set
in the memory of the device, behind it, if wanted, one in host memory that holds every row, behind
that a ``Storage`` of the user's. What leaves a tier goes to the next one; what a tier has not got
comes from there.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dynamicemb.host_copy import Numbers
from dynamicemb.ops import SETS, ops
from dynamicemb.types import Storage

if TYPE_CHECKING:
    from dynamicemb.dump_beside import Dump
    from dynamicemb.snapshot import Snapshot

# What table_set_write does, and what it says of a key (csrc/hkv/types.h).
FIND_OR_INSERT, INSERT_OR_ASSIGN, INSERT_AND_EVICT, ASSIGN, ERASE = range(5)
SKIPPED, UPDATED, INSERTED, EVICTED, REFUSED, LOCKED = range(6)
LRU, LFU, CUSTOMIZED = 0, 1, 4

STATE_WORDS = 8
MOST_ROWS = 2**32 - 256  # of one table
UNBOUNDED = 2**62  # bytes


class TableOptions(NamedTuple):
    """One table of a set."""

    row_bytes: int
    max_capacity: int
    init_capacity: int
    hbm_bytes: int = UNBOUNDED
    strategy: int = LRU
    max_load_factor: float = 0.5

    def words(self) -> list[int]:
        start = min(self.init_capacity, self.max_capacity)
        load = round(self.max_load_factor * 1e6)
        return [start, self.max_capacity, self.row_bytes, self.hbm_bytes, self.strategy, load]


class Written(NamedTuple):
    """What ``TableSet.write`` gives. The evicted of table t are listed from offsets[t] on."""

    rows: Tensor
    status: Tensor
    evicted_keys: Tensor
    evicted_values: Tensor
    evicted_scores: Tensor
    evicted_count: Tensor


class Listed(NamedTuple):
    """Rows one after the other; the first ``offsets[-1]`` entries count."""

    keys: Tensor
    offsets: Tensor
    values: Tensor
    scores: Tensor


class Refused(NamedTuple):
    """Keys of a batch that got no row, those of table t from ``ends[t]`` on, and their places."""

    places: Tensor
    keys: Tensor
    scores: Tensor
    ends: Tensor
    number: Tensor


class TableSet:
    """Hash tables that one call serves; keys are int64 tensors with a segment for each table."""

    def __init__(self, tables: Sequence[TableOptions], device: torch.device) -> None:
        self.device = device
        self.tables = tables
        self.row_bytes = max(table.row_bytes for table in tables)
        self.state = torch.zeros(STATE_WORDS, dtype=torch.int64, device=device)
        options = torch.tensor([table.words() for table in tables], dtype=torch.int64)
        index = -1 if device.type == "cpu" else device.index
        self.handle = ops.table_set_create(options, index, torch.get_num_threads())
        SETS[self.handle] = len(tables), self.row_bytes // 4
        self._end = weakref.finalize(self, _end, self.handle)
        self.version = 0  # of where rows are

    def find(self, keys: Tensor, offsets: Tensor, scored: bool = False) -> tuple[Tensor, Tensor]:
        """Row addresses, 0 for absent keys; with ``scored`` their scores."""
        rows, scores = ops.table_set_find(keys, offsets, self.handle, self.state, scored)
        return rows, scores

    def write(
        self,
        mode: int,
        keys: Tensor,
        offsets: Tensor,
        *,
        values: Tensor | None = None,
        scores: Tensor | None = None,
        verbatim: bool = False,
        pin: bool = False,
        report: bool = False,
    ) -> Written:
        """One of the modes above; ``report``: what a find_or_insert evicts is listed, too."""
        if mode != ASSIGN:
            self.version += 1
        given = (self.handle, self.state, values, scores, mode, verbatim, pin, report)
        return Written(*ops.table_set_write(keys, offsets, *given))

    def unlock(self, keys: Tensor, offsets: Tensor) -> None:
        """Each key gives back the row that a pinning call held for it."""
        ops.table_set_unlock(keys, offsets, self.handle, self.state)

    def load(self, rows: Tensor) -> Tensor:
        """(n, row words) float32: the rows at these addresses, zeros for 0."""
        values: Tensor = ops.load_rows(self.state, rows, self.row_bytes)
        return values

    def store(self, values: Tensor, rows: Tensor, chosen: Tensor | None = None) -> None:
        ops.store_rows(values, self.state, rows, chosen)

    def sizes(self) -> Tensor:
        """(tables, 4) int64 on the CPU: size, capacity, greatest capacity, held rows."""
        sizes: Tensor = ops.table_set_sizes(self.state, self.handle)
        return sizes

    def export(
        self, table: int, least_score: int = 0, batch: int = 65536, values: bool = True
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Keys, rows and scores of a table, at most ``batch`` at once, on its device."""
        capacity = int(self.sizes()[table, 1])
        for begin in range(0, capacity, batch):
            end = min(begin + batch, capacity)
            keys, rows, scores, count = ops.table_set_export(
                self.state, self.handle, table, begin, end, least_score, values
            )
            if n := int(count):
                yield keys[:n], rows[:n], scores[:n]

    def insert_one(self, table: int, keys: Tensor, values: Tensor, scores: Tensor | None) -> Tensor:
        """Inserts or overwrites rows of one table, scores verbatim; the status of each."""
        offsets = torch.zeros(len(self.tables) + 1, dtype=torch.int64, device=self.device)
        offsets[table + 1 :] = len(keys)
        verbatim = scores is not None
        return self.write(
            INSERT_OR_ASSIGN, keys, offsets, values=values, scores=scores, verbatim=verbatim
        ).status

    def clear(self) -> None:
        self.version += 1
        for table in range(len(self.tables)):
            ops.table_set_clear(self.state, self.handle, table)


def _end(handle: int) -> None:
    SETS.pop(handle, None)
    ops.table_set_destroy(handle)


def evicted_of(written: Written, offsets: Tensor) -> Listed:
    """What a call evicted, without gaps between the tables."""
    keys, values, scores, counts = written[2:]
    ends = ops.ends_of(counts)
    if len(counts) > 1:
        keys, values, scores = ops.tighten_lists(keys, values, scores, offsets, ends)
    return Listed(keys, ends, values, scores)


def _of_tables(listed: Listed) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys, table ids, values and scores on the CPU."""
    n = int(listed.offsets[-1])
    tables = ops.expand_ids(listed.offsets, n).long()
    parts = (listed.keys[:n], tables, listed.values[:n], listed.scores[:n])
    keys, ids, values, scores = (part.cpu() for part in parts)
    return keys, ids, values, scores


def _is_new(status: Tensor) -> Tensor:
    return (status == INSERTED) | (status == EVICTED)


class Tiers:
    """The rows of some tables, in up to three tiers.

    Args:
        first: the set on the device.
        host: a set that holds every row, ``first`` being its cache; or None.
        external: the last tier; or None.
        capture: keep the keys that leave the last tier, for ``pop_evicted_keys``.
    """

    def __init__(
        self,
        first: TableSet,
        host: TableSet | None = None,
        external: Storage | None = None,
        capture: bool = False,
    ) -> None:
        self.first, self.host, self.external = first, host, external
        self.capture = capture
        self.gone: list[tuple[Tensor, Tensor]] = []
        self.snapshot: Snapshot | None = None
        self.dump: Dump | None = None  # the last one beside training
        # How many keys of the last pinned batch have their rows in the host's set.
        self.in_place: Numbers | None = None

    @property
    def _lists_last(self) -> bool:
        """Whether anybody asks for what leaves the last of our tiers."""
        return self.capture or self.external is not None or self.snapshot is not None

    @property
    def reports(self) -> bool:
        return self._lists_last or self.host is not None

    @contextmanager
    def changing(self, keys: Tensor, offsets: Tensor) -> Iterator[None]:
        """Around what changes rows of these distinct keys: a snapshot keeps them as they were."""
        snapshot = self.snapshot
        if snapshot is None:
            yield
            return
        snapshot.wait()
        with snapshot.ordered():
            if self.snapshot is snapshot:
                snapshot.before(keys, offsets)
            yield

    def _settle(self) -> None:
        """Before what changes all rows: a snapshot that is being read is read to its end."""
        if (snapshot := self.snapshot) is not None:
            snapshot.settle()

    def train(
        self, keys: Tensor, offsets: Tensor, scores: Tensor | None, pin: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows of distinct keys, inserted where there are none, and their status: INSERTED and
        EVICTED rows are to be initialised by the caller."""
        with self.changing(keys, offsets):
            return self._train(keys, offsets, scores, pin)

    def _train(
        self, keys: Tensor, offsets: Tensor, scores: Tensor | None, pin: bool
    ) -> tuple[Tensor, Tensor]:
        first = self.first
        if self.host is not None and not self._lists_last:
            return self._through_cache(self.host, keys, offsets, scores, pin)
        written = first.write(
            FIND_OR_INSERT, keys, offsets, scores=scores, pin=pin, report=self.reports
        )
        rows, status = written.rows, written.status
        if self.host is not None:
            refused = Refused(*ops.refused_keys(keys, offsets, rows, scores))
            self.in_place = Numbers(refused.number) if pin else None
        if self.reports:
            self.leave(evicted_of(written, offsets))
        if self.host is not None:
            below, _ = self.host.find(keys, offsets)
            status = ops.take_rows(first.state, below, rows, status, first.row_bytes)
            self._in_host(refused, scores is not None, rows, status)
        if self.external is not None:
            n = int(offsets[-1])
            missing = torch.nonzero(_is_new(status[:n]))[:, 0]
            if len(missing):
                tables = ops.expand_ids(offsets, n).long()
                found = self.external.find(keys[missing].cpu(), tables[missing].cpu())
                values = torch.zeros(keys.numel(), first.row_bytes // 4, device=first.device)
                has = torch.zeros(keys.numel(), dtype=torch.bool, device=first.device)
                values[missing] = self._wide(found.values)
                has[missing] = found.founds.to(first.device)
                status = self._take(values, has, rows, status)
        return rows, status

    def _through_cache(
        self, host: TableSet, keys: Tensor, offsets: Tensor, scores: Tensor | None, pin: bool
    ) -> tuple[Tensor, Tensor]:
        """The same where nobody asks what leaves the host's set, in two calls."""
        first = self.first
        rows, status, left, count, between = ops.cache_seek(
            keys, offsets, first.handle, first.state, scores, pin
        )
        # Asked for before rows move: who wants to know does not wait for them.
        self.in_place = Numbers(count) if pin else None
        ops.cache_move(
            rows, status, keys, offsets, host.handle, host.state, scores, left, count, between
        )
        first.version += 1
        host.version += 1
        return rows, status

    def _wide(self, values: Tensor) -> Tensor:
        words = self.first.row_bytes // 4
        wide = values.new_zeros(values.shape[0], words)
        wide[:, : values.shape[1]] = values
        return wide.to(self.first.device)

    def _take(self, values: Tensor, has: Tensor, rows: Tensor, status: Tensor) -> Tensor:
        """Writes rows that another tier has to new rows; they are new no more."""
        take = _is_new(status) & has
        self.first.store(values, rows, take.to(torch.uint8))
        return torch.where(take, torch.full_like(status, UPDATED), status)

    def _in_host(self, refused: Refused, scored: bool, rows: Tensor, status: Tensor) -> None:
        """The keys that the cache has no room for get their rows in the host's set, in place."""
        assert self.host is not None
        last = self._lists_last
        written = self.host.write(
            FIND_OR_INSERT,
            refused.keys,
            refused.ends,
            scores=refused.scores if scored else None,
            report=last,
        )
        if last:
            self._leave_last(evicted_of(written, refused.ends))
        ops.place_rows(rows, status, refused.places, refused.number, written.rows, written.status)

    def locate(self, keys: Tensor, offsets: Tensor) -> Tensor:
        """Rows of distinct keys in our tiers, 0 where there are none."""
        rows, _ = self.first.find(keys, offsets)
        if self.host is not None:
            below, _ = self.host.find(keys, offsets)
            rows = torch.where(rows != 0, rows, below)
        return rows

    def locate_scored(self, keys: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the rows' scores."""
        rows, scores = self.first.find(keys, offsets, True)
        if self.host is not None:
            below, others = self.host.find(keys, offsets, True)
            scores = torch.where(rows != 0, scores, others)
            rows = torch.where(rows != 0, rows, below)
        return rows, scores

    def leave(self, listed: Listed) -> None:
        """What left the first tier goes to the next."""
        if self.snapshot is not None:
            self.snapshot.left(listed, self.first)
        if self.host is not None:
            last = self._lists_last
            written = self.host.write(
                INSERT_AND_EVICT if last else INSERT_OR_ASSIGN,
                listed.keys,
                listed.offsets,
                values=listed.values,
                scores=listed.scores,
                verbatim=True,
            )
            if not last:
                return
            listed = evicted_of(written, listed.offsets)
        self._leave_last(listed)

    def _leave_last(self, listed: Listed) -> None:
        if self.snapshot is not None and self.host is not None:
            self.snapshot.left(listed, self.host)
        if self.external is not None:
            keys, tables, values, scores = _of_tables(listed)
            if len(keys):
                self.external.insert(keys, tables, values, scores)
        elif self.capture:
            self.gone.append((listed.keys, listed.offsets))

    def evaluate(self, keys: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows of keys, which may repeat, 0 where there are none; and memory that some of them lie
        in, to be kept until they are read."""
        rows = self.locate(keys, offsets)
        if self.external is None:
            return rows, None
        n = int(offsets[-1])
        missing = torch.nonzero(rows[:n] == 0)[:, 0]
        if not len(missing):
            return rows, None
        tables = ops.expand_ids(offsets, n).long()
        found = self.external.find(keys[missing].cpu(), tables[missing].cpu())
        values = self._wide(found.values)
        places = values.data_ptr() + torch.arange(len(missing)) * self.first.row_bytes
        founds = found.founds.cpu()
        rows[missing] = torch.where(founds, places, 0).to(rows.device)
        return rows, values

    def flush(self) -> None:
        """Writes every row of the first tier to the next one, where it stays in both."""
        self._settle()
        target = self.host
        for table in range(len(self.first.tables)):
            for keys, values, scores in self.first.export(table):
                if target is not None:
                    target.insert_one(table, keys, values, scores)
                elif self.external is not None:
                    ids = torch.full((len(keys),), table, dtype=torch.int64)
                    self.external.insert(keys.cpu(), ids, values.cpu(), scores.cpu())

    def export(
        self, table: int, least_score: int = 0, batch: int = 65536
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Every row once: those of the first tier, then of the others what the first has not."""
        yield from self.first.export(table, least_score, batch)
        if self.host is None:
            return
        for keys, values, scores in self.host.export(table, least_score, batch):
            offsets = torch.zeros(len(self.first.tables) + 1, dtype=torch.int64)
            offsets[table + 1 :] = len(keys)
            rows, _ = self.first.find(keys, offsets.to(keys.device))
            new = rows == 0
            if bool(new.any()):
                yield keys[new], values[new], scores[new]

    def insert(self, table: int, keys: Tensor, values: Tensor, scores: Tensor | None) -> Tensor:
        """Rows from a dump: into the tier that holds all; the status of each."""
        target = self.host if self.host is not None else self.first
        self._settle()
        if self.host is not None:
            offsets = torch.zeros(len(self.first.tables) + 1, dtype=torch.int64)
            offsets[table + 1 :] = len(keys)
            self.first.write(ERASE, keys, offsets.to(keys.device))
        return target.insert_one(table, keys, values, scores)

    def erase(self, keys: Tensor, offsets: Tensor) -> Tensor:
        """(n) bool: the key was in a tier of ours."""
        with self.changing(keys, offsets):
            gone = self.first.write(ERASE, keys, offsets).status == UPDATED
            if self.host is not None:
                gone |= self.host.write(ERASE, keys, offsets).status == UPDATED
        if self.external is not None:
            n = int(offsets[-1])
            self.external.erase(keys[:n].cpu(), ops.expand_ids(offsets, n).long().cpu())
        return gone

    def clear(self) -> None:
        self._settle()
        self.first.clear()
        if self.host is not None:
            self.host.clear()

    def size(self, table: int) -> int:
        """Rows in our tiers, a row in two of them once."""
        if self.host is None:
            return int(self.first.sizes()[table, 0])
        return sum(len(keys) for keys, _, _ in self.export(table))
