"""Calls on a whole table: what matches, what it holds, its size, and its files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hkv import _checks, _hkv
from hkv._arrays import Stream, stream_address
from hkv._batch import Batch, Place
from hkv._results import Exported

_MAX_U64 = _checks.MAX_U64


class WholeCalls:
    """The part of HashTable that needs no keys."""

    _native: _hkv.Table
    _place: Place

    if TYPE_CHECKING:

        @property
        def capacity(self) -> int: ...
        @property
        def key_dtype(self) -> str: ...

    def _predicate(
        self, key_mask: int, key_pattern: int, score_min: int, score_max: int
    ) -> _hkv.Predicate:
        low = -(2**63) if self._place.key_dtype == "int64" else 0
        mask = _checks.integer("key_mask", key_mask, low)
        pattern = _checks.integer("key_pattern", key_pattern, low)
        return _hkv.Predicate(
            mask & _MAX_U64, pattern & _MAX_U64, _checks.integer("score_min", score_min),
            _checks.integer("score_max", score_max),
        )  # fmt: skip

    def erase_if(
        self, *, key_mask: int = 0, key_pattern: int = 0, score_min: int = 0,
        score_max: int = _MAX_U64, stream: Stream = None,
    ) -> int:  # fmt: skip
        """Removes the keys with ``key & key_mask == key_pattern`` and a score in
        [score_min, score_max]; returns how many. Locked keys stay.

        With "int64" keys the mask and the pattern may be negative: they are bits as the keys are.
        A call that would remove every key is refused: that is ``clear()``.
        """
        predicate = self._predicate(key_mask, key_pattern, score_min, score_max)
        if (key_mask, key_pattern, score_min, score_max) == (0, 0, 0, _MAX_U64):
            raise ValueError(
                "hkv: erase_if has no condition (key_mask is 0, score_min 0, score_max 2**64 - 1); "
                "it must have one, or be clear()"
            )
        return self._native.erase_if(predicate, stream_address(stream))

    def clear(self, *, stream: Stream = None) -> None:
        """Removes all keys, locked ones too."""
        self._native.clear(stream_address(stream))

    def export_batch(
        self, n: int, offset: int = 0, *, key_mask: int = 0, key_pattern: int = 0,
        score_min: int = 0, score_max: int = _MAX_U64, stream: Stream = None,
    ) -> Exported:  # fmt: skip
        """The live rows of slots [offset, offset + n) of ``capacity``, in no particular order.

        With a key mask or score bounds: only those that match (see erase_if).
        """
        predicate = self._predicate(key_mask, key_pattern, score_min, score_max)
        first, capacity = _checks.integer("offset", offset), self.capacity
        if _checks.integer("n", n) + first > capacity:
            raise ValueError(
                f"hkv: slots offset = {first} ... offset + n = {first + n} are not inside the "
                f"capacity, {capacity}"
            )
        b = Batch.without_keys(self._place, int(n), stream)
        keys, k = b.output("keys", None, self.key_dtype)
        values, v = b.output_rows("values")
        scores, s = b.output("scores", None, "uint64")
        count, c = b.output("count", None, "uint64", (1,))
        self._native.export_batch_if(predicate, b.n, first, c, k, v, s, b.stream)
        keys, values, scores = b.cut(count, keys, values, scores)
        return Exported(keys, values, scores, count)

    def size(self, *, stream: Stream = None) -> int:
        """Number of keys. Waits for the stream."""
        return self._native.size(stream_address(stream))

    def __len__(self) -> int:
        return self.size()

    def __bool__(self) -> bool:
        """True, an empty table too: ``if table`` asks whether there is one."""
        return True

    def size_if(
        self, *, key_mask: int = 0, key_pattern: int = 0, score_min: int = 0,
        score_max: int = _MAX_U64, stream: Stream = None,
    ) -> int:  # fmt: skip
        """Number of keys that match (see erase_if). Waits for the stream."""
        predicate = self._predicate(key_mask, key_pattern, score_min, score_max)
        return self._native.size_if(predicate, stream_address(stream))

    def load_factor(self, *, stream: Stream = None) -> float:
        """size / capacity."""
        return self.size(stream=stream) / self.capacity

    def reserve(self, capacity: int, *, stream: Stream = None) -> None:
        """Grows to at least ``capacity`` rows, at most ``max_capacity``."""
        self._native.reserve(_checks.integer("capacity", capacity, 1), stream_address(stream))

    def set_max_capacity(self, capacity: int) -> None:
        """From now on the table grows up to ``capacity`` rows, those of now ... 2**32 - 256, and
        evicts beyond them: ``set_max_capacity(table.capacity)`` ends its growth."""
        self._native.set_max_capacity(_checks.integer("capacity", capacity, 1))

    def set_global_epoch(self, epoch: int) -> None:
        """The epoch of "epoch_lru" and "epoch_lfu" scores from now on, 0 ... 2**32 - 1."""
        self._native.set_global_epoch(_checks.integer("epoch", epoch, 0, 2**32 - 1))

    def save(self, path: str | os.PathLike[str], *, stream: Stream = None) -> int:
        """Writes all rows to a file; returns their number.

        The file is put in its place when it is whole and synced: whatever happens, the old file or
        the new one is there, and of several savers the last one wins. An existing file's mode is
        kept, symbolic links are followed, what is not a regular file is refused. Takes 64 MB of
        memory at most.
        """
        return self._native.save(_checks.path(path), stream_address(stream))

    def load(self, path: str | os.PathLike[str], *, stream: Stream = None) -> int:
        """Adds the rows of a file with their scores, overwriting equal keys.

        The file is checked wholly (format, dtypes, dim, strategy, checksum) before the table is
        changed. Every row finds its place where there is one, whatever order the file is in; where
        the table's and the file's rows are too many, the greatest scores stay. "lru" and
        "epoch_lru" tables go on behind the file's clock (and epoch): every later write is newer.

        Returns how many of the file's rows are in the table.
        """
        return self._native.load(_checks.path(path), stream_address(stream))

    def synchronize(self, *, stream: Stream = None) -> None:
        """Waits for the stream."""
        self._native.synchronize(stream_address(stream))
