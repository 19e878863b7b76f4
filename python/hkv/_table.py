"""The Python front of the GPU tables and of the host table."""

from __future__ import annotations

import os
from typing import Any

from hkv import _calls, _checks, _hkv
from hkv._allocator import Allocator, TorchAllocator, lend, take_back
from hkv._arrays import Array, ArrayLike, Stream, stream_address
from hkv._batch import Batch, Place
from hkv._calls import Mode
from hkv._results import Evicted, Exported, Missed
from hkv._rows import RowCalls, policy_word

_KEYS = ("int64", "uint64")
_VALUES = ("float32", "float16", "bfloat16")
_STRATEGIES = ("lru", "lfu", "epoch_lru", "epoch_lfu", "customized")
_MAX_U64 = _checks.MAX_U64
_MAX_CAPACITY = 2**32 - 256  # kMaxCapacity of csrc/hkv/layout.h


def _check_allocator(allocator: Any, ordinal: int) -> None:
    if ordinal < 0:
        raise ValueError(
            f"hkv: allocator is {allocator!r}; it must be None with device='cpu', whose memory is "
            "the process's own"
        )
    if isinstance(allocator, str):
        _checks.choice("allocator", allocator, ("torch",))
    elif not all(callable(getattr(allocator, name, None)) for name in ("allocate", "free")):
        raise TypeError(
            f"hkv: allocator is {allocator!r}; it must be None, 'torch', or have the methods "
            "allocate and free"
        )


def _create_with(
    allocator: Allocator | str, kind: tuple[bool, str, str, str], options: _hkv.Options,
    threads: int,
) -> _hkv.Table:  # fmt: skip
    if isinstance(allocator, str):
        allocator = TorchAllocator(options.device_id)
    context = lend(options, allocator)
    try:
        return _hkv.create(*kind, options, threads)
    except BaseException:
        take_back(context)
        raise


class HashTable(RowCalls):
    """A bounded hash table of keys to rows of ``dim`` values, on a GPU or in host memory.

    >>> import hkv, numpy as np
    >>> table = hkv.HashTable(capacity=1000, dim=2, device="cpu")
    >>> keys = np.array([7, -1], np.int64)
    >>> status = table.insert_or_assign(keys, np.array([[1, 2], [3, 4]], np.float32))
    >>> [hkv.Status(s).name for s in status]
    ['INSERTED', 'INSERTED']
    >>> values, founds = table.find(np.array([-1, 5], np.int64))
    >>> values.tolist(), founds.tolist()
    ([[3.0, 4.0], [0.0, 0.0]], [True, False])
    >>> table.size()
    2

    On a GPU the same calls take arrays of torch, CuPy or JAX on it, or ``hkv.DeviceArray.of(...)``.

    Args:
        capacity: rows, any positive number; None: the table grows until memory refuses, which a
            call that inserts then says, and the table stays as it was. A full table evicts the key
            with the smallest score of the new key's two buckets (of at most 128 slots); the first
            eviction comes at about 98 % load.
        dim: values per row.
        key_dtype: "int64" or "uint64"; all 2^64 values are allowed.
        value_dtype: "float32", "float16" or "bfloat16".
        evict_strategy: what scores mean: "lru" (clock, ns), "lfu" (sum of the given increments),
            "customized" (the given scores); "epoch_lru" and "epoch_lfu": behind the epoch of
            ``set_global_epoch``, newer epochs first.
        device: "cuda", "cuda:N" or "cpu".
        init_capacity: rows at the start; the table doubles when it would be fuller than
            ``max_load_factor``, up to ``capacity``. None: ``capacity``, or 65,536 where that is
            None. Only a table that can still grow waits for the device when it inserts.
        hbm_bytes: GPU memory for rows; the other rows live in pinned host memory, which the kernels
            reach directly. None: all rows in GPU memory.
        num_threads: of the host table; 0: one per core.
        passes_from: on the native GPU engine, batches of at least so many keys (a sixteenth of it
            with rows in host memory) are written in passes, smaller ones by one kernel. The first
            such batch takes 36 MB of GPU memory for good, and 15 MB more with rows in host memory.
            From a 64th of it on, equal keys of a batch are told apart, which takes 21 MB for good;
            in smaller batches they wait for one another, some two microseconds each.
        api_lock: order the calls that come on several CUDA streams (on the device; the host never
            waits). Calls captured into CUDA graphs are not ordered and must not run beside others.
            Without the order every batch takes one kernel in which equal keys wait for one another;
            so does a captured one, unless a call of its size was made before the capture.
        allocator: where a GPU table's memory comes from: None is CUDA itself, "torch" PyTorch's
            caching allocator, or an object with ``allocate(size, kind)`` and
            ``free(address, size, kind)`` (``hkv.Allocator``).
        score_policy: how calls that do not say a ``policy`` make scores: "constant" (present keys
            keep theirs, new ones get the given), "assign" (the given), "accumulate" (new keys get
            the given, present ones add it), "clock" (the table's). None or "default": as
            ``evict_strategy`` says.
        newcomers: what becomes of a new key whose score is below every score of its full buckets:
            "by_score" refuses it, so that the greatest scores stay whatever order they come in;
            "always" lets the smallest score leave all the same, as HierarchicalKV does under "lfu".
        evict_from: "both": the smaller of the smallest scores of a key's two buckets leaves; 99.5 %
            of the rows that stay are then of the greatest scores. "home": that of its home bucket
            (96.5 %), which takes a GPU less time.

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
        self, capacity: int | None, dim: int, *, key_dtype: str = "int64",
        value_dtype: str = "float32", evict_strategy: str = "lru", device: str | int = "cuda",
        init_capacity: int | None = None, max_load_factor: float = 0.5,
        hbm_bytes: int | None = None, num_threads: int = 0, passes_from: int = 1 << 18,
        api_lock: bool = True, allocator: Allocator | str | None = None,
        score_policy: str | None = None, newcomers: str = "by_score",
        evict_from: str = "both",
    ) -> None:  # fmt: skip
        ordinal = _checks.device(device)
        key_dtype = _checks.dtype("key_dtype", key_dtype, _KEYS)
        value_dtype = _checks.dtype("value_dtype", value_dtype, _VALUES)
        _checks.choice("evict_strategy", evict_strategy, _STRATEGIES)
        options = _hkv.Options()
        if capacity is None:
            options.max_capacity, options.init_capacity = _MAX_CAPACITY, 1 << 16
        else:
            options.max_capacity = _checks.integer("capacity", capacity, 1)
        options.dim = _checks.integer("dim", dim, 1, 2**16)
        if init_capacity is not None:
            options.init_capacity = _checks.integer("init_capacity", init_capacity, 1)
        options.max_load_factor = _checks.fraction("max_load_factor", max_load_factor)
        if hbm_bytes is not None:
            options.max_hbm_for_vectors = _checks.integer("hbm_bytes", hbm_bytes)
        threads = _checks.integer("num_threads", num_threads, 0, 2**31 - 1)
        options.passes_from = _checks.integer("passes_from", passes_from, 1)
        options.api_lock = _checks.flag("api_lock", api_lock)
        if score_policy is not None:
            _checks.choice("score_policy", score_policy, _calls.POLICIES)
            options.score_policy = _calls.POLICIES.index(score_policy)
        options.newcomers = _calls.NEWCOMERS.index(
            _checks.choice("newcomers", newcomers, _calls.NEWCOMERS)
        )
        options.evict_from = _calls.EVICT_FROM.index(
            _checks.choice("evict_from", evict_from, _calls.EVICT_FROM)
        )
        if allocator is not None:
            _check_allocator(allocator, ordinal)
        if ordinal >= 0 and _hkv.device_count() <= ordinal:
            raise RuntimeError(
                f"hkv: device is {device!r}, but this machine has {_hkv.device_count()} usable "
                "CUDA devices; device='cpu' needs none"
            )
        options.device_id = ordinal
        kind = (ordinal >= 0, key_dtype, value_dtype, evict_strategy)
        if allocator is None:
            self._native = _hkv.create(*kind, options, threads)
        else:
            self._native = _create_with(allocator, kind, options, threads)
        self._place = Place(ordinal, options.dim, key_dtype, value_dtype)

    # -- properties

    @property
    def dim(self) -> int:
        return self._place.dim

    @property
    def device(self) -> str:
        return self._place.name

    @property
    def key_dtype(self) -> str:
        return self._place.key_dtype

    @property
    def value_dtype(self) -> str:
        return self._place.value_dtype

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

    # -- the whole table

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

    def __repr__(self) -> str:
        return (
            f"HashTable(capacity={self.max_capacity}, dim={self.dim}, key_dtype={self.key_dtype!r},"
            f" value_dtype={self.value_dtype!r}, evict_strategy={self.evict_strategy!r},"
            f" device={self.device!r})"
        )
