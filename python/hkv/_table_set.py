"""Many tables, one call."""

from __future__ import annotations

from collections.abc import Sequence

from hkv import _calls, _checks, _hkv
from hkv._arrays import Array, ArrayLike, Stream
from hkv._batch import Batch, Place
from hkv._calls import Mode
from hkv._results import Evicted, Exported
from hkv._rows import policy_word
from hkv._table import HashTable


class TableSet:
    """Tables of one device, key dtype and value dtype, each with its own capacity, dim and
    strategy: a call does for all of them what it does for one, on a GPU by one launch for 64
    tables.

    >>> import hkv, numpy as np
    >>> users, items = (hkv.HashTable(100, dim, device="cpu") for dim in (2, 4))
    >>> both = hkv.TableSet([users, items])
    >>> keys, offsets = np.array([7, 8, 7], np.int64), np.array([0, 2, 3], np.uint64)
    >>> rows, founds, status = both.find_or_insert_rows(keys, offsets)
    >>> users.size(), items.size()
    (2, 1)

    Args:
        tables: T of them, different ones.

    ``offsets`` ((T + 1,) uint64, ascending, on the tables' device) says whose the keys are:
    ``keys[offsets[t]:offsets[t + 1]]`` are table t's, and so are the entries of the other arrays.
    Values are (n, the greatest dim); a narrower table's rows fill the front of theirs. Scores are
    for the tables whose strategy takes them. Calls on GPU tables take one kernel, whatever
    ``passes_from`` says, in which equal keys of a table wait for one another.
    """

    def __init__(self, tables: Sequence[HashTable]) -> None:
        for t, table in enumerate(_checks.sequence("tables", tables, "HashTable")):
            if not isinstance(table, HashTable):
                raise TypeError(f"hkv: tables[{t}] is {table!r}; it must be a HashTable")
        if not tables:
            raise ValueError(f"hkv: tables is {tables!r}; there must be one at least")
        self.tables = tuple(tables)
        first = self.tables[0]
        self._native: _hkv.Table = first.native
        place = first._place
        dim = max(table.dim for table in self.tables)
        self._place = Place(place.device, dim, place.key_dtype, place.value_dtype)
        self._segments = _calls.Segments([table.native.address() for table in self.tables])

    def __len__(self) -> int:
        return len(self.tables)

    def _batch(self, keys: ArrayLike, offsets: ArrayLike, stream: Stream) -> tuple[Batch, int]:
        batch = Batch(self._place, keys, stream)
        return batch, batch.input_of("offsets", offsets, "uint64", (len(self.tables) + 1,))

    def _read(self, b: Batch, offsets: int, call: _calls.Packed) -> None:
        segments = self._segments.at(offsets).__index__()
        self._native.run_read_segments(segments, call.__index__(), call.size, b.stream)
        b.done()

    def _write(self, b: Batch, offsets: int, call: _calls.Packed) -> None:
        segments = self._segments.at(offsets).__index__()
        self._native.run_write_segments(segments, call.__index__(), call.size, b.stream)
        b.done()

    def find(
        self, keys: ArrayLike, offsets: ArrayLike, *, values: ArrayLike | None = None,
        founds: ArrayLike | None = None, scores: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """(values (n, dim), founds (n,)), as HashTable.find."""
        b, o = self._batch(keys, offsets, stream)
        values, v = b.output_rows("values", values)
        founds, f = b.output("founds", founds, "bool")
        s = b.scores_out(scores)
        self._read(b, o, _calls.read("find", b.n, b.keys, values=v, founds=f, scores=s))
        return values, founds

    def find_rows(
        self, keys: ArrayLike, offsets: ArrayLike, *, rows: ArrayLike | None = None,
        founds: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """(rows (n,) uint64 within their tables, founds (n,)), as HashTable.find_rows."""
        b, o = self._batch(keys, offsets, stream)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        self._read(b, o, _calls.read("find_rows", b.n, b.keys, row_numbers=r, founds=f))
        return rows, founds

    def find_or_insert(
        self, keys: ArrayLike, offsets: ArrayLike, values: ArrayLike,
        scores: ArrayLike | None = None, *, policy: str | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """(founds (n,), status (n,)), as HashTable.find_or_insert."""
        b, o = self._batch(keys, offsets, stream)
        v, s = b.input_rows("values", values, writes=True), b.input("scores", scores)
        founds, f = b.output("founds", None, "bool")
        status, st = b.output("status", None, "uint8")
        call = _calls.write(
            Mode.FIND_OR_INSERT, b.n, b.keys, values=v, scores=s, founds=f, status=st,
            policy=policy_word(policy),
        )  # fmt: skip
        self._write(b, o, call)
        return founds, status

    def find_or_insert_rows(
        self, keys: ArrayLike, offsets: ArrayLike, scores: ArrayLike | None = None, *,
        lock: bool = False, policy: str | None = None, rows: ArrayLike | None = None,
        founds: ArrayLike | None = None, status: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """(rows (n,) uint64 within their tables, founds (n,), status (n,)), as HashTable's."""
        b, o = self._batch(keys, offsets, stream)
        s = b.input("scores", scores)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        status, st = b.output("status", status, "uint8")
        call = _calls.write(
            Mode.FIND_OR_INSERT, b.n, b.keys, name="find_or_insert_rows", scores=s, row_numbers=r,
            founds=f, status=st, pin=_checks.flag("lock", lock), policy=policy_word(policy),
        )  # fmt: skip
        self._write(b, o, call)
        return rows, founds, status

    def insert_or_assign(
        self, keys: ArrayLike, offsets: ArrayLike, values: ArrayLike,
        scores: ArrayLike | None = None, *, policy: str | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> Array:  # fmt: skip
        """status (n,), as HashTable.insert_or_assign."""
        b, o = self._batch(keys, offsets, stream)
        v, s = b.input_rows("values", values), b.input("scores", scores)
        status, st = b.output("status", status, "uint8")
        call = _calls.write(
            Mode.INSERT_OR_ASSIGN, b.n, b.keys, values=v, scores=s, status=st,
            policy=policy_word(policy),
        )  # fmt: skip
        self._write(b, o, call)
        return status

    def insert_evicting(
        self, keys: ArrayLike, offsets: ArrayLike, values: ArrayLike,
        scores: ArrayLike | None = None, *, policy: str | None = None, stream: Stream = None,
    ) -> Evicted:  # fmt: skip
        """As HashTable.insert_and_evict. What left table t is in the entries from ``offsets[t]``
        on, ``count[t]`` of them; the arrays are not cut."""
        b, o = self._batch(keys, offsets, stream)
        v, s = b.input_rows("values", values), b.input("scores", scores)
        left, lk = b.output("evicted_keys", None, self._place.key_dtype)
        left_values, lv = b.output_rows("evicted_values")
        left_scores, ls = b.output("evicted_scores", None, "uint64")
        count, c = b.output("count", None, "uint64", (len(self.tables),))
        status, st = b.output("status", None, "uint8")
        call = _calls.write(
            Mode.INSERT_AND_EVICT, b.n, b.keys, values=v, scores=s, status=st,
            evicted=(lk, lv, ls, c), policy=policy_word(policy),
        )  # fmt: skip
        self._write(b, o, call)
        return Evicted(left, left_values, left_scores, count, status)

    def erase(self, keys: ArrayLike, offsets: ArrayLike, *, stream: Stream = None) -> Array:
        """status (n,), as HashTable.erase."""
        b, o = self._batch(keys, offsets, stream)
        status, st = b.output("status", None, "uint8")
        self._write(b, o, _calls.write(Mode.ERASE, b.n, b.keys, status=st))
        return status

    def unlock_rows(self, rows: ArrayLike, offsets: ArrayLike, *, stream: Stream = None) -> Array:
        """succeeded (n,) bool, as HashTable.unlock_rows."""
        b = Batch.of(self._place, "rows", rows, "uint64", stream)
        o = b.input_of("offsets", offsets, "uint64", (len(self.tables) + 1,))
        done, d = b.output("succeeded", None, "bool")
        self._write(b, o, _calls.write(Mode.UNLOCK_ROWS, b.n, 0, row_numbers=b.keys, founds=d))
        return done

    def export_batch(
        self, begin: Sequence[int], end: Sequence[int], *, stream: Stream = None
    ) -> Exported:
        """The live rows of the slots [begin[t], end[t]) of each table, from entry
        ``sum(end[s] - begin[s] for s < t)`` on, ``count[t]`` of them; the arrays are not cut."""
        starts, stops = (
            [_checks.integer(name, x) for x in _checks.sequence(name, numbers, "integers")]
            for name, numbers in (("begin", begin), ("end", end))
        )
        if len(starts) != len(self.tables) or len(stops) != len(self.tables):
            raise ValueError(
                f"hkv: begin is {starts} and end is {stops}; they must have one number for each of "
                f"the {len(self.tables)} tables"
            )
        n = sum(max(0, stop - start) for start, stop in zip(starts, stops, strict=True))
        b = Batch.without_keys(self._place, n, stream)
        keys, k = b.output("keys", None, self._place.key_dtype)
        values, v = b.output_rows("values")
        scores, s = b.output("scores", None, "uint64")
        count, c = b.output("count", None, "uint64", (len(self.tables),))
        call = _calls.export(starts, stops, (0, 0, 0, 2**64 - 1), k, v, s, c, 0)
        segments = self._segments.at(0).__index__()
        self._native.run_export_segments(segments, call.__index__(), call.size, b.stream)
        b.done()
        return Exported(keys, values, scores, count)
