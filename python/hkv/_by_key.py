"""Calls of a table that take keys: reading, writing, erasing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hkv import _calls, _checks, _hkv
from hkv._arrays import Array, ArrayLike, Stream
from hkv._batch import Batch, Place
from hkv._calls import Mode
from hkv._results import Evicted, Exported, Missed
from hkv._rows import policy_word


class KeyCalls:
    """The part of HashTable that reads and writes rows by their keys."""

    _native: _hkv.Table
    _place: Place

    if TYPE_CHECKING:

        @property
        def engine(self) -> str: ...
        @property
        def key_dtype(self) -> str: ...

    # -- arguments

    def _batch(self, keys: ArrayLike, stream: Stream) -> Batch:
        return Batch(self._place, keys, stream)

    def _batch_of(self, name: str, array: ArrayLike, dtype: str, stream: Stream) -> Batch:
        return Batch.of(self._place, name, array, dtype, stream)

    def _run(self, batch: Batch, mode: Mode, policy: str, **fields: Any) -> None:
        """A writing call with a policy of its own."""
        call = _calls.write(mode, batch.n, batch.keys, policy=policy_word(policy), **fields)
        self._native.run_write(call.__index__(), call.size, batch.stream)
        batch.done()

    def _status(self, batch: Batch, status: ArrayLike | None = None) -> tuple[Array | None, int]:
        """Upstream HierarchicalKV reports none: its calls return None for the status."""
        if status is None and self._place.device >= 0 and self.engine == "upstream":
            return None, 0
        return batch.output("status", status, "uint8")

    # -- reading

    def find(
        self, keys: ArrayLike, *, values: ArrayLike | None = None, founds: ArrayLike | None = None,
        scores: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Reads rows. Scores do not change.

        Args:
            keys: (n,) key_dtype.
            values: (n, dim) value_dtype, written; rows of absent keys stay as they are. None: a new
                array of zeros.
            founds: (n,) bool, written.
            scores: (n,) uint64, written for present keys, if given.

        Returns:
            (values, founds)
        """
        b = self._batch(keys, stream)
        values, v = b.output_rows("values", values)
        founds, f = b.output("founds", founds, "bool")
        s = b.scores_out(scores)
        b.call(self._native.find, v, f, s)
        return values, founds

    def find_pointers(
        self, keys: ArrayLike, *, rows: ArrayLike | None = None, founds: ArrayLike | None = None,
        scores: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Addresses of rows: (rows (n,) uint64, 0 for absent keys; founds (n,) bool).

        They are valid until a call inserts, erases, clears or reserves.
        """
        b = self._batch(keys, stream)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        s = b.scores_out(scores)
        b.call(self._native.find_pointers, r, f, s)
        return rows, founds

    def find_missed(
        self, keys: ArrayLike, *, values: ArrayLike | None = None, stream: Stream = None
    ) -> Missed:
        """As find; lists the absent keys and their indices in ``keys`` (in any order)."""
        b = self._batch(keys, stream)
        values, v = b.output_rows("values", values)
        missed, m = b.output("missed", None, self.key_dtype)
        indices, i = b.output("indices", None, "int32")
        count, c = b.output("count", None, "uint64", (1,))
        b.call(self._native.find_missed, v, m, i, c, 0)
        missed, indices = b.cut(count, missed, indices)
        return Missed(values, missed, indices, count)

    def contains(
        self, keys: ArrayLike, *, founds: ArrayLike | None = None, stream: Stream = None
    ) -> Array:
        """(n,) bool: which keys are present."""
        b = self._batch(keys, stream)
        founds, f = b.output("founds", founds, "bool")
        b.call(self._native.contains, f)
        return founds

    # -- writing

    def find_and_update(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, policy: str | None = None,
        values: ArrayLike | None = None, founds: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """As find, and updates the scores of present keys as a write does."""
        b = self._batch(keys, stream)
        s = b.input("scores", scores)
        values, v = b.output_rows("values", values)
        founds, f = b.output("founds", founds, "bool")
        if policy is not None:
            self._run(b, Mode.FIND_AND_UPDATE, policy, values=v, founds=f, scores=s)
        else:
            b.call(self._native.find_and_update, v, f, s, 0)
        return values, founds

    def find_or_insert(
        self, keys: ArrayLike, values: ArrayLike, scores: ArrayLike | None = None, *,
        policy: str | None = None, founds: ArrayLike | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array | None]:  # fmt: skip
        """Inserts the given rows of absent keys; rows of present keys are written to ``values``.

        Args:
            keys: (n,) key_dtype.
            values: (n, dim) value_dtype, read for absent keys, written for present ones.
            scores: (n,) uint64 as the strategy asks; None for "lru".

        Returns:
            (founds (n,) bool, status (n,) uint8 of Status)
        """
        b = self._batch(keys, stream)
        v = b.input_rows("values", values, writes=True)
        s = b.input("scores", scores)
        founds, f = b.output("founds", founds, "bool")
        status, st = self._status(b, status)
        if policy is not None:
            self._run(b, Mode.FIND_OR_INSERT, policy, values=v, founds=f, scores=s, status=st)
        else:
            b.call(self._native.find_or_insert, v, f, s, st)
        return founds, status

    def find_or_insert_pointers(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, lock: bool = False,
        policy: str | None = None, rows: ArrayLike | None = None, founds: ArrayLike | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array, Array | None]:  # fmt: skip
        """Addresses of the rows of all keys; absent keys are inserted with arbitrary bytes.

        No two keys of a call get the same row: a key for which only rows of this call, or locked
        ones, are left is REFUSED. ``lock``: every key of the batch holds its row, as by
        ``hold_keys``, until ``unlock_keys`` of the same batch.

        Returns:
            (rows (n,) uint64, 0 for refused keys; founds (n,) bool; status (n,) uint8)
        """
        b = self._batch(keys, stream)
        s = b.input("scores", scores)
        pin = _checks.flag("lock", lock)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        status, st = self._status(b, status)
        if policy is not None:
            self._run(
                b,
                Mode.FIND_OR_INSERT,
                policy,
                name="find_or_insert_pointers",
                rows=r,
                founds=f,
                scores=s,
                status=st,
                pin=pin,
            )
        else:
            b.call(self._native.find_or_insert_pointers, r, f, s, pin, st)
        return rows, founds, status

    def insert_or_assign(
        self, keys: ArrayLike, values: ArrayLike, scores: ArrayLike | None = None, *,
        ignore_evict_strategy: bool = False, policy: str | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> Array | None:  # fmt: skip
        """Writes rows, inserting absent keys.

        Args:
            keys: (n,) key_dtype.
            values: (n, dim) value_dtype.
            scores: (n,) uint64 as the strategy asks; None for "lru".
            ignore_evict_strategy: store ``scores`` as they are, whatever the strategy.
            policy: how this call makes scores (``score_policy`` of the table); None: the table's.

        Returns:
            status (n,) uint8 of Status: REFUSED where the score was too low to evict anything.
        """
        b = self._batch(keys, stream)
        verbatim = _checks.flag("ignore_evict_strategy", ignore_evict_strategy)
        v = b.input_rows("values", values)
        s = b.input("scores", scores)
        status, st = self._status(b, status)
        if policy is not None:
            self._run(
                b, Mode.INSERT_OR_ASSIGN, policy, values=v, scores=s, status=st, verbatim=verbatim
            )
        else:
            b.call(self._native.insert_or_assign, v, s, verbatim, st)
        return status

    def insert_and_evict(
        self, keys: ArrayLike, values: ArrayLike, scores: ArrayLike | None = None, *,
        ignore_evict_strategy: bool = False, policy: str | None = None, stream: Stream = None,
    ) -> Evicted:  # fmt: skip
        """As insert_or_assign; returns what left the table and what was refused."""
        b = self._batch(keys, stream)
        verbatim = _checks.flag("ignore_evict_strategy", ignore_evict_strategy)
        v = b.input_rows("values", values)
        s = b.input("scores", scores)
        out_keys, ok = b.output("evicted_keys", None, self.key_dtype)
        out_values, ov = b.output_rows("evicted_values")
        out_scores, os_ = b.output("evicted_scores", None, "uint64")
        count, c = b.output("count", None, "uint64", (1,))
        status, st = self._status(b)
        if policy is not None:
            self._run(
                b,
                Mode.INSERT_AND_EVICT,
                policy,
                values=v,
                scores=s,
                status=st,
                verbatim=verbatim,
                evicted=(ok, ov, os_, c),
            )
        else:
            b.call(self._native.insert_and_evict, v, s, ok, ov, os_, c, verbatim, st)
        out_keys, out_values, out_scores = b.cut(count, out_keys, out_values, out_scores)
        return Evicted(out_keys, out_values, out_scores, count, status)

    def accum_or_assign(
        self, keys: ArrayLike, values_or_deltas: ArrayLike, accums: ArrayLike,
        scores: ArrayLike | None = None, *, policy: str | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> Array | None:  # fmt: skip
        """Adds to present keys where ``accums`` ((n,) bool), inserts absent ones where not.

        A key that is present without the flag, or absent with it, is SKIPPED. Sums are made in
        float32 and rounded to value_dtype. Returns status (n,) uint8.
        """
        b = self._batch(keys, stream)
        v = b.input_rows("values_or_deltas", values_or_deltas)
        a = b.input("accums", accums, "bool")
        s = b.input("scores", scores)
        status, st = self._status(b, status)
        if policy is not None:
            self._run(b, Mode.ACCUM_OR_ASSIGN, policy, values=v, accums=a, scores=s, status=st)
        else:
            b.call(self._native.accum_or_assign, v, a, s, st)
        return status

    def assign(
        self, keys: ArrayLike, values: ArrayLike, scores: ArrayLike | None = None, *,
        policy: str | None = None, stream: Stream = None,
    ) -> Array | None:  # fmt: skip
        """Overwrites rows and scores of present keys. Returns status (n,) uint8."""
        b = self._batch(keys, stream)
        v = b.input_rows("values", values)
        s = b.input("scores", scores)
        status, st = self._status(b)
        if policy is not None:
            self._run(b, Mode.ASSIGN, policy, values=v, scores=s, status=st)
        else:
            b.call(self._native.assign, v, s, st)
        return status

    def assign_values(
        self, keys: ArrayLike, values: ArrayLike, *, stream: Stream = None
    ) -> Array | None:
        """Overwrites rows of present keys; scores stay. Returns status (n,) uint8."""
        b = self._batch(keys, stream)
        v = b.input_rows("values", values)
        status, st = self._status(b)
        b.call(self._native.assign_values, v, st)
        return status

    def assign_scores(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, policy: str | None = None,
        stream: Stream = None,
    ) -> Array | None:  # fmt: skip
        """Updates scores of present keys by the strategy's rule. Returns status (n,) uint8."""
        b = self._batch(keys, stream)
        s = b.input("scores", scores)
        status, st = self._status(b)
        if policy is not None:
            self._run(b, Mode.ASSIGN, policy, name="assign_scores", scores=s, status=st)
        else:
            b.call(self._native.assign_scores, s, st)
        return status

    def erase(self, keys: ArrayLike, *, stream: Stream = None) -> Array | None:
        """Removes keys. Returns status (n,) uint8: UPDATED where one was removed."""
        b = self._batch(keys, stream)
        status, st = self._status(b)
        b.call(self._native.erase, st)
        return status

    def erase_exported(
        self, exported: Exported, mask: ArrayLike, *, stream: Stream = None
    ) -> Array | None:
        """Removes those of the rows that ``export_batch`` gave for which ``mask`` is true: a
        condition on values, in whatever library computes it.

        >>> import hkv, numpy as np
        >>> table = hkv.HashTable(capacity=1000, dim=2, device="cpu")
        >>> _ = table.insert_or_assign(np.arange(100), np.ones((100, 2), np.float32))
        >>> _ = table.insert_or_assign(np.arange(9), np.zeros((9, 2), np.float32))
        >>> for first in range(0, table.capacity, 500):
        ...     rows = table.export_batch(500, first)
        ...     _ = table.erase_exported(rows, ~rows.values.any(axis=1))
        >>> table.size()
        91

        Args:
            exported: of ``export_batch``.
            mask: (n,) bool, for each of its keys; what it says behind ``exported.count`` is not
                looked at.

        Returns:
            status (n,) uint8 of Status: UPDATED where a key was removed, LOCKED where one stays.
        """
        if not isinstance(exported, Exported):
            raise TypeError(f"hkv: exported is {exported!r}; it must be what export_batch returned")
        b = self._batch(exported.keys, stream)
        m = b.input_of("mask", mask, "bool", (b.n,))
        c = 0 if self._place.device < 0 else b.input_of("count", exported.count, "uint64", (1,))
        status, st = self._status(b)
        b.call(self._native.erase_where, m, c, st)
        return status
