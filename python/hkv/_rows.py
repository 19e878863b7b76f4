"""Rows by their numbers, and their holders: calls of a table for kernels of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hkv import _calls, _checks, _hkv
from hkv._arrays import Array, ArrayLike, Stream, stream_address
from hkv._calls import Mode
from hkv._results import Evicted

if TYPE_CHECKING:
    from hkv._batch import Batch

NO_ROW = 2**64 - 1


class RowsView(NamedTuple):
    """Where a table's rows are. Row r < hbm_rows begins at ``hbm + r * stride``, another one at
    ``host + (r - hbm_rows) * stride``; both are addresses that the table's device reaches."""

    hbm: int
    host: int  # 0: all rows are in ``hbm``
    stride: int  # bytes
    hbm_rows: int
    capacity: int


def policy_word(policy: str | None) -> int:
    """The number of a score policy; None is the table's."""
    if policy is None:
        return 0
    return _calls.POLICIES.index(_checks.choice("policy", policy, _calls.POLICIES))


class RowCalls:
    """The part of HashTable that hands out rows and holds them."""

    _native: _hkv.Table

    if TYPE_CHECKING:

        def _batch(self, keys: ArrayLike, stream: Stream) -> Batch: ...
        def _status(
            self, batch: Batch, status: ArrayLike | None = None
        ) -> tuple[Array | None, int]: ...

        @property
        def key_dtype(self) -> str: ...

    def rows(self) -> RowsView:
        """Where the rows are, until the table grows or loads."""
        view = _calls.RowsView()
        self._native.view_rows(view.__index__())
        return RowsView(*view.fields())

    def find_rows(
        self, keys: ArrayLike, *, rows: ArrayLike | None = None, founds: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Row numbers: (rows (n,) uint64, ``hkv.NO_ROW`` for absent keys; founds (n,) bool).

        A key's number is less than ``capacity``, and stays while the key lives and the table
        neither grows nor loads.
        """
        b = self._batch(keys, stream)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        b.call(self._native.find_rows, r, f, 0)
        return rows, founds

    def find_or_insert_rows(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, lock: bool = False,
        policy: str | None = None, rows: ArrayLike | None = None, founds: ArrayLike | None = None,
        status: ArrayLike | None = None, stream: Stream = None,
    ) -> tuple[Array, Array, Array | None]:  # fmt: skip
        """As find_or_insert_pointers, with row numbers.

        No two keys of a call get the same row: a key for which only rows of this call, or locked
        ones, are left is REFUSED, and its row is ``hkv.NO_ROW``.

        Returns:
            (rows (n,) uint64; founds (n,) bool; status (n,) uint8)
        """
        b = self._batch(keys, stream)
        s = b.input("scores", scores)
        rows, r = b.output("rows", rows, "uint64")
        founds, f = b.output("founds", founds, "bool")
        status, st = self._status(b, status)
        call = _calls.write(
            Mode.FIND_OR_INSERT, b.n, b.keys, name="find_or_insert_rows", scores=s, row_numbers=r,
            founds=f, status=st, pin=_checks.flag("lock", lock), policy=policy_word(policy),
        )  # fmt: skip
        self._native.run_write(call.__index__(), call.size, b.stream)
        b.done()
        return rows, founds, status

    def find_or_insert_rows_and_evict(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, lock: bool = False,
        policy: str | None = None, stream: Stream = None,
    ) -> tuple[Array, Array, Evicted]:  # fmt: skip
        """As find_or_insert_rows, and what left the table, copied before its row is handed on.

        Returns:
            (rows (n,) uint64; founds (n,) bool; Evicted, without refused keys)
        """
        b = self._batch(keys, stream)
        s = b.input("scores", scores)
        rows, r = b.output("rows", None, "uint64")
        founds, f = b.output("founds", None, "bool")
        left, lk = b.output("evicted_keys", None, self.key_dtype)
        values, lv = b.output_rows("evicted_values")
        left_scores, ls = b.output("evicted_scores", None, "uint64")
        count, c = b.output("count", None, "uint64", (1,))
        status, st = self._status(b)
        call = _calls.write(
            Mode.FIND_OR_INSERT, b.n, b.keys, name="find_or_insert_rows", scores=s, row_numbers=r,
            founds=f, status=st, pin=_checks.flag("lock", lock), policy=policy_word(policy),
            evicted=(lk, lv, ls, c),
        )  # fmt: skip
        self._native.run_write(call.__index__(), call.size, b.stream)
        b.done()
        left, values, left_scores = b.cut(count, left, values, left_scores)
        return rows, founds, Evicted(left, values, left_scores, count, status)

    def lock_keys(self, keys: ArrayLike, *, stream: Stream = None) -> Array:
        """Protects present keys from being overwritten, evicted or erased; they are still found.

        Returns (n,) bool: this call locked the key (False: absent, or locked already).
        """
        b = self._batch(keys, stream)
        done, d = b.output("succeeded", None, "bool")
        b.call(self._native.lock_keys, d)
        return done

    def unlock_keys(self, keys: ArrayLike, *, stream: Stream = None) -> Array:
        """Ends lock_keys. Returns (n,) bool: this call unlocked the key."""
        b = self._batch(keys, stream)
        done, d = b.output("succeeded", None, "bool")
        b.call(self._native.unlock_keys, d)
        return done

    def hold_keys(self, keys: ArrayLike, *, stream: Stream = None) -> Array:
        """Gives present keys one holder more, however many they have (lock_keys: only to keys that
        have none). Held rows are not overwritten, evicted, moved or erased.

        Returns (n,) bool: the key is present.
        """
        b = self._batch(keys, stream)
        done, d = b.output("succeeded", None, "bool")
        b.call(self._native.hold_keys, d)
        return done

    def unlock_rows(self, rows: ArrayLike, *, stream: Stream = None) -> Array:
        """As unlock_keys, by row numbers ((n,) uint64); ``hkv.NO_ROW`` is passed over."""
        b = self._batch_of("rows", rows, "uint64", stream)
        done, d = b.output("succeeded", None, "bool")
        b.call(self._native.unlock_rows, d)
        return done

    def locked(self, *, stream: Stream = None) -> int:
        """Number of rows that have holders. Waits for the stream."""
        return self._native.locked(stream_address(stream))

    if TYPE_CHECKING:

        def _batch_of(self, name: str, array: ArrayLike, dtype: str, stream: Stream) -> Batch: ...
