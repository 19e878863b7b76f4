"""What calls return beside arrays."""

from __future__ import annotations

import enum
from typing import NamedTuple

from hkv._arrays import Array


class Status(enum.IntEnum):
    """What a writing call did with one key of the batch."""

    SKIPPED = 0
    UPDATED = 1
    INSERTED = 2
    EVICTED = 3  # inserted in place of the key with the smallest score, which is gone
    REFUSED = 4  # not inserted: its score is below every score of the full bucket
    LOCKED = 5  # not written: lock_keys holds the row


class Evicted(NamedTuple):
    """Rows that left the table in ``insert_and_evict``, refused input rows among them.

    The first ``count[0]`` entries of each array are valid. On the host table the arrays are cut to
    that length.
    """

    keys: Array  # (n,)
    values: Array  # (n, dim)
    scores: Array  # (n,) uint64
    count: Array  # type: ignore[assignment] # (1,) uint64
    status: Array | None  # (n,) uint8 of Status, for the input keys


class Exported(NamedTuple):
    """Live rows of a range of slots; the first ``count[0]`` entries are valid (as in Evicted)."""

    keys: Array  # (n,)
    values: Array  # (n, dim)
    scores: Array  # (n,) uint64
    count: Array  # type: ignore[assignment] # (1,) uint64


class Missed(NamedTuple):
    """Result of ``find_missed``; the first ``count[0]`` entries of keys and indices are valid."""

    values: Array  # (n, dim)
    keys: Array  # (n,)
    indices: Array  # (n,) int32
    count: Array  # type: ignore[assignment] # (1,) uint64
