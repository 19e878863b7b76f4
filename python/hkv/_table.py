"""The Python front of the eighteen GPU tables and of the host table."""

from __future__ import annotations

import enum
import os
from typing import Any, NamedTuple

import numpy as np

from hkv import _hkv
from hkv._arrays import ArrayLike, DeviceArray, Stream, View, stream_address, view

_VALUE_ALIASES = {"bfloat16": ("bfloat16", "uint16")}
_MAX_U64 = 2**64 - 1


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

    keys: Any  # (n,)
    values: Any  # (n, dim)
    scores: Any  # (n,) uint64
    count: Any  # (1,) uint64
    status: Any  # (n,) uint8 of Status, for the input keys


class Exported(NamedTuple):
    """Live rows of a range of slots; the first ``count[0]`` entries are valid (as in Evicted)."""

    keys: Any  # (n,)
    values: Any  # (n, dim)
    scores: Any  # (n,) uint64
    count: Any  # (1,) uint64


class Missed(NamedTuple):
    """Result of ``find_missed``; the first ``count[0]`` entries of keys and indices are valid."""

    values: Any  # (n, dim)
    keys: Any  # (n,)
    indices: Any  # (n,) int32
    count: Any  # (1,) uint64


def _parse_device(device: str | int) -> int:
    """CUDA ordinal, or -1 for the host."""
    if isinstance(device, int) and device >= 0:
        return device
    if device == "cpu":
        return -1
    if device == "cuda":
        return 0
    if isinstance(device, str) and device.startswith("cuda:") and device[5:].isdigit():
        return int(device[5:])
    raise ValueError(f"hkv: device is {device!r}; it must be 'cpu', 'cuda', 'cuda:N' or N >= 0")


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"hkv: {name} is {value!r}; it must be a positive integer")
    return int(value)


class HashTable:
    """A bounded hash table of keys to rows of ``dim`` values, on a GPU or in host memory.

    Args:
        capacity: rows, any positive number. A full table evicts the key with the smallest score of
            the new key's bucket (at most 128 slots); with two candidate buckets per key the first
            eviction comes at about 98 % load.
        dim: values per row.
        key_dtype: "int64" or "uint64"; all 2^64 values are allowed.
        value_dtype: "float32", "float16" or "bfloat16".
        evict_strategy: what scores mean: "lru" (clock, ns), "lfu" (sum of the given increments),
            "customized" (the given scores); on the host also "epoch_lru" and "epoch_lfu".
        device: "cuda", "cuda:N" or "cpu".
        init_capacity: rows at the start; the table doubles when it would be fuller than
            ``max_load_factor``, up to ``capacity``. None: ``capacity``. Only a table that can still
            grow waits for the device when it inserts.
        hbm_bytes: GPU memory for rows; the other rows live in pinned host memory, which the kernels
            reach directly. None: all rows in GPU memory.
        num_threads: of the host table; 0: one per core.
        passes_from: on the native GPU engine, batches of at least so many keys (a sixteenth of it
            with rows in host memory) are written in passes, smaller ones by one kernel. The first
            such batch takes 28 MB of GPU memory for good, and 15 MB more with rows in host memory.
            From a 64th of it on, equal keys of a batch are told apart, which takes 21 MB for good;
            in smaller batches they wait for one another, some two microseconds each.
        api_lock: order the calls that come on several CUDA streams (on the device; the host never
            waits). Calls captured into CUDA graphs are not ordered and must not run beside others.
            Without the order, and in graphs, every batch takes one kernel in which equal keys wait
            for one another.

    Arrays are contiguous, on the table's device, of any library with DLPack or
    ``__cuda_array_interface__``; NumPy arrays for the host table. Calls on a GPU table are
    asynchronous on ``stream`` (None: the legacy default stream) unless they return a host number.
    Arrays that a call returns are NumPy arrays or ``DeviceArray``; give the ``out`` arguments to
    reuse memory.

    Equal keys in a batch are allowed: each row is written whole by one of them (the host table: the
    last), increments of "lfu" add up, every delta of ``accum_or_assign`` counts.

    Errors: TypeError / ValueError name the argument, its value and what is allowed, before anything
    is changed; RuntimeError for CUDA, memory and file errors.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        key_dtype: str = "int64",
        value_dtype: str = "float32",
        evict_strategy: str = "lru",
        device: str | int = "cuda",
        init_capacity: int | None = None,
        max_load_factor: float = 0.5,
        hbm_bytes: int | None = None,
        num_threads: int = 0,
        passes_from: int = 1 << 18,
        api_lock: bool = True,
    ) -> None:
        ordinal = _parse_device(device)
        options = _hkv.Options()
        options.max_capacity = _positive("capacity", capacity)
        options.dim = _positive("dim", dim)
        if init_capacity is not None:
            options.init_capacity = _positive("init_capacity", init_capacity)
        options.max_load_factor = float(max_load_factor)
        if hbm_bytes is not None:
            if hbm_bytes < 0:
                raise ValueError(f"hkv: hbm_bytes is {hbm_bytes}; it must not be negative")
            options.max_hbm_for_vectors = hbm_bytes
        options.device_id = ordinal
        options.passes_from = _positive("passes_from", passes_from)
        options.api_lock = bool(api_lock)
        if ordinal >= 0 and _hkv.device_count() <= ordinal:
            raise RuntimeError(
                f"hkv: device is {device!r}, but this machine has {_hkv.device_count()} usable "
                "CUDA devices; device='cpu' needs none"
            )
        self._native = _hkv.create(
            ordinal >= 0, key_dtype, value_dtype, evict_strategy, options, num_threads
        )
        self._device = ordinal

    # -- properties

    @property
    def dim(self) -> int:
        return self._native.dim()

    @property
    def device(self) -> str:
        return "cpu" if self._device < 0 else f"cuda:{self._device}"

    @property
    def key_dtype(self) -> str:
        return self._native.key_type()

    @property
    def value_dtype(self) -> str:
        return self._native.value_type()

    @property
    def evict_strategy(self) -> str:
        return self._native.evict_strategy()

    @property
    def engine(self) -> str:
        """The GPU engine, "native" or "upstream", or "host"."""
        return self._native.engine()

    @property
    def capacity(self) -> int:
        """Rows now; at most ``max_capacity``."""
        return self._native.capacity()

    @property
    def max_capacity(self) -> int:
        return self._native.max_capacity()

    @property
    def native(self) -> _hkv.Table:
        """The table with addresses for arrays, for callers who count microseconds."""
        return self._native

    # -- arguments

    def _allocate(self, shape: tuple[int, ...], dtype: str, stream: Stream) -> Any:
        if self._device >= 0:
            return DeviceArray(shape, dtype, self._device, stream)
        return np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)

    def _checked(
        self, name: str, v: View, dtype: str, shape: tuple[int, ...], writable: bool = False
    ) -> View:
        if v.device != self._device:
            where = "the host" if v.device < 0 else f"cuda:{v.device}"
            raise ValueError(f"hkv: {name} is on {where}; the table is on {self.device}")
        if v.dtype not in _VALUE_ALIASES.get(dtype, (dtype,)):
            raise TypeError(f"hkv: {name} has dtype {v.dtype}; it must be {dtype}")
        if v.shape != shape:
            raise ValueError(f"hkv: {name} has shape {v.shape}; it must be {shape}")
        if not v.contiguous:
            raise ValueError(f"hkv: {name} is not contiguous (C order)")
        if writable and v.read_only:
            raise ValueError(f"hkv: {name} is read-only; the call writes it")
        return v

    def _view(
        self, name: str, array: ArrayLike, dtype: str, shape: tuple[int, ...], stream: Stream,
        writable: bool = False,
    ) -> View:  # fmt: skip
        v = view(name, array, stream_address(stream))
        return self._checked(name, v, dtype, shape, writable)

    def _keys(self, keys: ArrayLike, stream: Stream) -> tuple[int, View]:
        v = view("keys", keys, stream_address(stream))
        if len(v.shape) != 1:
            raise ValueError(f"hkv: keys has shape {v.shape}; it must have one dimension")
        return v.shape[0], self._checked("keys", v, self.key_dtype, v.shape)

    def _input(
        self, name: str, array: ArrayLike | None, dtype: str, shape: tuple[int, ...],
        stream: Stream,
    ) -> int:  # fmt: skip
        if array is None:
            return 0
        return self._view(name, array, dtype, shape, stream).address

    def _output(
        self, name: str, array: ArrayLike | None, dtype: str, shape: tuple[int, ...],
        stream: Stream,
    ) -> tuple[Any, int]:  # fmt: skip
        if array is None:
            array = self._allocate(shape, dtype, stream)
        return array, self._view(name, array, dtype, shape, stream, writable=True).address

    def _status(self, status: ArrayLike | None, n: int, stream: Stream) -> tuple[Any, int]:
        """Upstream HierarchicalKV reports none: its calls return None for the status."""
        if status is None and self.engine == "upstream":
            return None, 0
        return self._output("status", status, "uint8", (n,), stream)

    def _rows(self, n: int) -> tuple[int, int]:
        return (n, self.dim)

    # -- reading

    def find(
        self,
        keys: ArrayLike,
        *,
        values: ArrayLike | None = None,
        founds: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Any, Any]:
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
        n, k = self._keys(keys, stream)
        values, v = self._output("values", values, self.value_dtype, self._rows(n), stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        s = 0 if scores is None else self._output("scores", scores, "uint64", (n,), stream)[1]
        self._native.find(n, k.address, v, f, s, stream_address(stream))
        return values, founds

    def find_pointers(
        self,
        keys: ArrayLike,
        *,
        rows: ArrayLike | None = None,
        founds: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Any, Any]:
        """Addresses of rows: (rows (n,) uint64, 0 for absent keys; founds (n,) bool).

        They are valid until a call inserts, erases, clears or reserves.
        """
        n, k = self._keys(keys, stream)
        rows, r = self._output("rows", rows, "uint64", (n,), stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        s = 0 if scores is None else self._output("scores", scores, "uint64", (n,), stream)[1]
        self._native.find_pointers(n, k.address, r, f, s, stream_address(stream))
        return rows, founds

    def find_missed(
        self, keys: ArrayLike, *, values: ArrayLike | None = None, stream: Stream = None
    ) -> Missed:
        """As find; lists the absent keys and their indices in ``keys`` (in any order)."""
        n, k = self._keys(keys, stream)
        values, v = self._output("values", values, self.value_dtype, self._rows(n), stream)
        missed, m = self._output("missed", None, self.key_dtype, (n,), stream)
        indices, i = self._output("indices", None, "int32", (n,), stream)
        count, c = self._output("count", None, "uint64", (1,), stream)
        self._native.find_missed(n, k.address, v, m, i, c, 0, stream_address(stream))
        if self._device < 0:
            missed, indices = missed[: int(count[0])], indices[: int(count[0])]
        return Missed(values, missed, indices, count)

    def contains(
        self, keys: ArrayLike, *, founds: ArrayLike | None = None, stream: Stream = None
    ) -> Any:
        """(n,) bool: which keys are present."""
        n, k = self._keys(keys, stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        self._native.contains(n, k.address, f, stream_address(stream))
        return founds

    # -- writing

    def find_and_update(
        self,
        keys: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        values: ArrayLike | None = None,
        founds: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Any, Any]:
        """As find, and updates the scores of present keys as a write does."""
        n, k = self._keys(keys, stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        values, v = self._output("values", values, self.value_dtype, self._rows(n), stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        self._native.find_and_update(n, k.address, v, f, s, 0, stream_address(stream))
        return values, founds

    def find_or_insert(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        founds: ArrayLike | None = None,
        status: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Any, Any]:
        """Inserts the given rows of absent keys; rows of present keys are written to ``values``.

        Args:
            keys: (n,) key_dtype.
            values: (n, dim) value_dtype, read for absent keys, written for present ones.
            scores: (n,) uint64 as the strategy asks; None for "lru".

        Returns:
            (founds (n,) bool, status (n,) uint8 of Status)
        """
        n, k = self._keys(keys, stream)
        v = self._view("values", values, self.value_dtype, self._rows(n), stream, writable=True)
        s = self._input("scores", scores, "uint64", (n,), stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        status, st = self._status(status, n, stream)
        self._native.find_or_insert(n, k.address, v.address, f, s, st, stream_address(stream))
        return founds, status

    def find_or_insert_pointers(
        self,
        keys: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        lock: bool = False,
        rows: ArrayLike | None = None,
        founds: ArrayLike | None = None,
        status: ArrayLike | None = None,
        stream: Stream = None,
    ) -> tuple[Any, Any, Any]:
        """Addresses of the rows of all keys; absent keys are inserted with arbitrary bytes.

        ``lock``: leave every row locked as by ``lock_keys``, so that nothing evicts it before
        ``unlock_keys``; without it a later key of the same batch may.

        Returns:
            (rows (n,) uint64, 0 for refused keys; founds (n,) bool; status (n,) uint8)
        """
        n, k = self._keys(keys, stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        rows, r = self._output("rows", rows, "uint64", (n,), stream)
        founds, f = self._output("founds", founds, "bool", (n,), stream)
        status, st = self._status(status, n, stream)
        self._native.find_or_insert_pointers(
            n, k.address, r, f, s, lock, st, stream_address(stream)
        )
        return rows, founds, status

    def insert_or_assign(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        ignore_evict_strategy: bool = False,
        status: ArrayLike | None = None,
        stream: Stream = None,
    ) -> Any:
        """Writes rows, inserting absent keys.

        Args:
            keys: (n,) key_dtype.
            values: (n, dim) value_dtype.
            scores: (n,) uint64 as the strategy asks; None for "lru".
            ignore_evict_strategy: store ``scores`` as they are, whatever the strategy.

        Returns:
            status (n,) uint8 of Status: REFUSED where the score was too low to evict anything.
        """
        n, k = self._keys(keys, stream)
        v = self._input("values", values, self.value_dtype, self._rows(n), stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        status, st = self._status(status, n, stream)
        self._native.insert_or_assign(
            n, k.address, v, s, ignore_evict_strategy, st, stream_address(stream)
        )
        return status

    def insert_and_evict(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        ignore_evict_strategy: bool = False,
        stream: Stream = None,
    ) -> Evicted:
        """As insert_or_assign; returns what left the table and what was refused."""
        n, k = self._keys(keys, stream)
        v = self._input("values", values, self.value_dtype, self._rows(n), stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        out_keys, ok = self._output("evicted_keys", None, self.key_dtype, (n,), stream)
        out_values, ov = self._output(
            "evicted_values", None, self.value_dtype, self._rows(n), stream
        )
        out_scores, os_ = self._output("evicted_scores", None, "uint64", (n,), stream)
        count, c = self._output("count", None, "uint64", (1,), stream)
        status, st = self._status(None, n, stream)
        self._native.insert_and_evict(
            n, k.address, v, s, ok, ov, os_, c, ignore_evict_strategy, st, stream_address(stream)
        )
        if self._device < 0:
            m = int(count[0])
            out_keys, out_values, out_scores = out_keys[:m], out_values[:m], out_scores[:m]
        return Evicted(out_keys, out_values, out_scores, count, status)

    def accum_or_assign(
        self,
        keys: ArrayLike,
        values_or_deltas: ArrayLike,
        accums: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        status: ArrayLike | None = None,
        stream: Stream = None,
    ) -> Any:
        """Adds to present keys where ``accums`` ((n,) bool), inserts absent ones where not.

        A key that is present without the flag, or absent with it, is SKIPPED. Sums are made in
        float32 and rounded to value_dtype. Returns status (n,) uint8.
        """
        n, k = self._keys(keys, stream)
        v = self._input("values_or_deltas", values_or_deltas, self.value_dtype, self._rows(n),
                        stream)  # fmt: skip
        a = self._input("accums", accums, "bool", (n,), stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        status, st = self._status(status, n, stream)
        self._native.accum_or_assign(n, k.address, v, a, s, st, stream_address(stream))
        return status

    def assign(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        scores: ArrayLike | None = None,
        *,
        stream: Stream = None,
    ) -> Any:
        """Overwrites rows and scores of present keys. Returns status (n,) uint8."""
        n, k = self._keys(keys, stream)
        v = self._input("values", values, self.value_dtype, self._rows(n), stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        status, st = self._status(None, n, stream)
        self._native.assign(n, k.address, v, s, st, stream_address(stream))
        return status

    def assign_values(self, keys: ArrayLike, values: ArrayLike, *, stream: Stream = None) -> Any:
        """Overwrites rows of present keys; scores stay. Returns status (n,) uint8."""
        n, k = self._keys(keys, stream)
        v = self._input("values", values, self.value_dtype, self._rows(n), stream)
        status, st = self._status(None, n, stream)
        self._native.assign_values(n, k.address, v, st, stream_address(stream))
        return status

    def assign_scores(
        self, keys: ArrayLike, scores: ArrayLike | None = None, *, stream: Stream = None
    ) -> Any:
        """Updates scores of present keys by the strategy's rule. Returns status (n,) uint8."""
        n, k = self._keys(keys, stream)
        s = self._input("scores", scores, "uint64", (n,), stream)
        status, st = self._status(None, n, stream)
        self._native.assign_scores(n, k.address, s, st, stream_address(stream))
        return status

    def erase(self, keys: ArrayLike, *, stream: Stream = None) -> Any:
        """Removes keys. Returns status (n,) uint8: UPDATED where one was removed."""
        n, k = self._keys(keys, stream)
        status, st = self._status(None, n, stream)
        self._native.erase(n, k.address, st, stream_address(stream))
        return status

    def erase_if(
        self,
        *,
        key_mask: int = 0,
        key_pattern: int = 0,
        score_min: int = 0,
        score_max: int = _MAX_U64,
        stream: Stream = None,
    ) -> int:
        """Removes the keys with ``key & key_mask == key_pattern`` and a score in
        [score_min, score_max]; returns how many. Locked keys stay."""
        predicate = _hkv.Predicate(key_mask, key_pattern, score_min, score_max)
        return self._native.erase_if(predicate, stream_address(stream))

    def clear(self, *, stream: Stream = None) -> None:
        """Removes all keys, locked ones too."""
        self._native.clear(stream_address(stream))

    def lock_keys(self, keys: ArrayLike, *, stream: Stream = None) -> Any:
        """Protects present keys from being overwritten, evicted or erased; they are still found.

        Returns (n,) bool: this call locked the key (False: absent, or locked already).
        """
        n, k = self._keys(keys, stream)
        done, d = self._output("succeeded", None, "bool", (n,), stream)
        self._native.lock_keys(n, k.address, d, stream_address(stream))
        return done

    def unlock_keys(self, keys: ArrayLike, *, stream: Stream = None) -> Any:
        """Ends lock_keys. Returns (n,) bool: this call unlocked the key."""
        n, k = self._keys(keys, stream)
        done, d = self._output("succeeded", None, "bool", (n,), stream)
        self._native.unlock_keys(n, k.address, d, stream_address(stream))
        return done

    # -- the whole table

    def export_batch(
        self,
        n: int,
        offset: int = 0,
        *,
        key_mask: int = 0,
        key_pattern: int = 0,
        score_min: int = 0,
        score_max: int = _MAX_U64,
        stream: Stream = None,
    ) -> Exported:
        """The live rows of slots [offset, offset + n) of ``capacity``, in no particular order.

        With a key mask or score bounds: only those that match (see erase_if).
        """
        keys, k = self._output("keys", None, self.key_dtype, (n,), stream)
        values, v = self._output("values", None, self.value_dtype, self._rows(n), stream)
        scores, s = self._output("scores", None, "uint64", (n,), stream)
        count, c = self._output("count", None, "uint64", (1,), stream)
        predicate = _hkv.Predicate(key_mask, key_pattern, score_min, score_max)
        self._native.export_batch_if(
            predicate, n, offset, c, k, v, s, stream_address(stream)
        )  # fmt: skip
        if self._device < 0:
            m = int(count[0])
            keys, values, scores = keys[:m], values[:m], scores[:m]
        return Exported(keys, values, scores, count)

    def size(self, *, stream: Stream = None) -> int:
        """Number of keys. Waits for the stream."""
        return self._native.size(stream_address(stream))

    def __len__(self) -> int:
        return self.size()

    def size_if(
        self,
        *,
        key_mask: int = 0,
        key_pattern: int = 0,
        score_min: int = 0,
        score_max: int = _MAX_U64,
        stream: Stream = None,
    ) -> int:
        """Number of keys that match (see erase_if). Waits for the stream."""
        predicate = _hkv.Predicate(key_mask, key_pattern, score_min, score_max)
        return self._native.size_if(predicate, stream_address(stream))

    def load_factor(self, *, stream: Stream = None) -> float:
        """size / capacity."""
        return self.size(stream=stream) / self.capacity

    def reserve(self, capacity: int, *, stream: Stream = None) -> None:
        """Grows to at least ``capacity`` rows, at most ``max_capacity``."""
        self._native.reserve(_positive("capacity", capacity), stream_address(stream))

    def set_global_epoch(self, epoch: int) -> None:
        """The epoch of "epoch_lru" and "epoch_lfu" scores from now on."""
        self._native.set_global_epoch(epoch)

    def save(self, path: str | os.PathLike[str], *, stream: Stream = None) -> int:
        """Writes all rows to a file (temporary name, synced, renamed); returns their number."""
        return self._native.save(os.fspath(path), stream_address(stream))

    def load(self, path: str | os.PathLike[str], *, stream: Stream = None) -> int:
        """Adds the rows of a file with their scores, overwriting equal keys.

        The file is checked wholly (format, dtypes, dim, strategy, checksum) before the table is
        changed. Returns how many of its rows are in the table: fewer than it holds where a full
        bucket refused some.
        """
        return self._native.load(os.fspath(path), stream_address(stream))

    def synchronize(self, *, stream: Stream = None) -> None:
        """Waits for the stream."""
        self._native.synchronize(stream_address(stream))

    def __repr__(self) -> str:
        return (
            f"HashTable(capacity={self.max_capacity}, dim={self.dim}, key_dtype={self.key_dtype!r},"
            f" value_dtype={self.value_dtype!r}, evict_strategy={self.evict_strategy!r},"
            f" device={self.device!r})"
        )
