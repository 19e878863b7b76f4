"""The Python front of the GPU tables and of the host table."""

from __future__ import annotations

from typing import Any

from hkv import _calls, _checks, _hkv
from hkv._allocator import Allocator, TorchAllocator, lend, take_back
from hkv._batch import Place
from hkv._by_key import KeyCalls
from hkv._rows import RowCalls
from hkv._whole import WholeCalls

_KEYS = ("int64", "uint64")
_VALUES = ("float32", "float16", "bfloat16")
_STRATEGIES = ("lru", "lfu", "epoch_lru", "epoch_lfu", "customized")
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


class HashTable(KeyCalls, RowCalls, WholeCalls):
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
            (96.5 %), which takes a GPU less time in a full table, 11 % at most.

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

    def __repr__(self) -> str:
        return (
            f"HashTable(capacity={self.max_capacity}, dim={self.dim}, key_dtype={self.key_dtype!r},"
            f" value_dtype={self.value_dtype!r}, evict_strategy={self.evict_strategy!r},"
            f" device={self.device!r})"
        )
