"""Argument checks: every bad argument is named, with its value and what is allowed.

All errors are ValueError. ``check_arguments`` looks at dtypes, shapes, strides and devices: it
costs nothing and is traceable by torch.compile. ``check_values`` looks into the integer tensors,
which on a GPU waits for the device: it is run on CPU tensors always, and on CUDA tensors in eager
mode when the environment variable HSTU_CHECK is 1.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from hstu_attn._core.tensor_checks import TensorChecks, shape_text
from hstu_attn.problem import Mask, Pages, Problem

HEAD_DIMS = (32, 64, 128, 256)
PAGE_SIZES = range(16, 257)
GPU_DTYPES = (torch.bfloat16, torch.float16)
CPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
CAUSAL = (-1, 0)

# os.environ answers by an exception where a variable is unset, a microsecond of every eager call.
_getenv = ctypes.PyDLL(None).getenv
_getenv.restype = ctypes.c_char_p

_CHECKS = TensorChecks("hstu_attn")
_fail, _integer = _CHECKS.fail, _CHECKS.integer


def _check_index(t: Tensor, name: str, size: int | None, meaning: str, q: Tensor) -> None:
    _CHECKS.index(t, name, size, meaning, q, "q")


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    _CHECKS.tensor(q, "q")
    allowed = GPU_DTYPES if q.device.type == "cuda" else CPU_DTYPES
    if q.dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        _fail(f"q must be one of {names} on {q.device.type}, got {q.dtype}")
    for t, name in ((q, "q"), (k, "k"), (v, "v")):
        _CHECKS.tensor(t, name)
        if t.dim() != 3:
            _fail(f"{name} must have shape (rows, heads, head_dim), got {shape_text(t)}")
        if t is not q:
            _CHECKS.like(t, name, q, "q")
        _CHECKS.last_stride(t, name, f"; pass {name}.contiguous()")
    if q.shape[2] not in HEAD_DIMS:
        _fail(f"the head dim of q (last dimension) must be one of {HEAD_DIMS}, got {q.shape[2]}")
    if k.shape[2] != q.shape[2] or v.shape[2] != q.shape[2]:
        shapes = f"q {shape_text(q)}, k {shape_text(k)}, v {shape_text(v)}"
        _fail(f"q, k and v must have one head dim, got {shapes}")
    if k.shape[0] != v.shape[0] or k.shape[1] != v.shape[1]:
        _fail(f"k and v must have one shape, got k {shape_text(k)}, v {shape_text(v)}")
    if q.shape[1] < 1 or k.shape[1] < 1 or q.shape[1] % k.shape[1] != 0:
        _fail(
            f"the heads of q must be a multiple of the heads of k, got {q.shape[1]} and "
            f"{k.shape[1]}"
        )


def check_packed(qkv: Tensor) -> None:
    """The shape of ``qkv``; the rest is checked on its three parts."""
    _CHECKS.tensor(qkv, "qkv")
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        _fail(f"qkv must have shape (total, 3, heads, head_dim), got {shape_text(qkv)}")


def causal_window(causal: bool, window_size: tuple[int, int]) -> tuple[int, int]:
    """What ``causal``, which is not False, makes of the window: it says the whole of it."""
    _CHECKS.boolean(causal, "causal")
    if not isinstance(window_size, (tuple, list)) or tuple(window_size) not in ((-1, -1), CAUSAL):
        _fail(f"causal=True is window_size={CAUSAL}: it must not be another, got {window_size!r}")
    return CAUSAL


def _check_mask(mask: Mask, batch: int, q: Tensor) -> None:
    if not isinstance(mask.window_size, (tuple, list)) or len(mask.window_size) != 2:
        _fail(f"window_size must be (left, right), got {mask.window_size!r}")
    window = (mask.window_size[0], mask.window_size[1])
    _integer(window[0], "window_size[0]", -(2**31), 2**63 - 1)
    _integer(window[1], "window_size[1]", -(2**31), 2**63 - 1)
    for t, name in ((mask.num_contexts, "num_contexts"), (mask.num_targets, "num_targets")):
        if t is None:
            continue
        if window != CAUSAL:
            _fail(f"{name} needs the causal window_size {CAUSAL}, got {window}")
        _check_index(t, name, batch, "(batch,)", q)
    func = mask.func
    if func is None:
        return
    if window != (-1, -1):
        _fail(f"func replaces the window: window_size must be (-1, -1), got {window}")
    _CHECKS.int32(func, "func", q, "q")
    if func.dim() != 3 or func.shape[0] != 1 or func.shape[1] % 2 != 1:
        _fail(
            f"func must have shape (1, n_func, >= total_q) with odd n_func, got {shape_text(func)}"
        )
    _CHECKS.last_stride(func, "func")
    # Compiled code checks this in the op: here it would tie two free sizes together.
    if not torch.compiler.is_compiling() and func.shape[2] < q.shape[0]:
        _fail(f"func must cover the {q.shape[0]} rows of q, got shape {shape_text(func)}")


def _check_rab(p: Problem, batch: int) -> None:
    q, rab, max_k = p.q, p.rab, p.max_seqlen_k
    if rab is None:
        if p.has_drab:
            _fail("has_drab=True needs rab, got rab=None")
        return
    _CHECKS.like(rab, "rab", q, "q")
    if (
        rab.dim() != 4
        or rab.shape[0] != batch
        or rab.shape[1] not in (1, q.shape[1])
        or rab.shape[2] != max_k
        or rab.shape[3] != max_k
    ):
        _fail(
            f"rab must have shape (batch, 1 or heads, max_seqlen_k, max_seqlen_k) = "
            f"({batch}, 1 or {q.shape[1]}, {max_k}, {max_k}), got {shape_text(rab)}"
        )
    _CHECKS.last_stride(rab, "rab")


def _check_pages(pages: Pages, p: Problem, batch: int, cu_seqlens_t: Tensor | None) -> None:
    q, k, cache = p.q, p.k, pages.kv_cache
    tables = dict(zip(pages._fields[1:], pages[1:], strict=True))
    if cache is None:
        for name, t in (*tables.items(), ("cu_seqlens_t", cu_seqlens_t)):
            if t is not None:
                _fail(f"{name} needs kv_cache (paged keys and values), got kv_cache=None")
        return
    for name, t in tables.items():
        if t is None:
            _fail(f"kv_cache needs {name}, got {name}=None")
    if p.has_drab:
        _fail("has_drab=True is not possible with kv_cache: paged attention has no backward")
    _CHECKS.like(cache, "kv_cache", q, "q")
    if (
        cache.dim() != 5
        or cache.shape[1] != 2
        or cache.shape[3] != k.shape[1]
        or cache.shape[4] != q.shape[2]
    ):
        _fail(
            f"kv_cache must have shape (pages, 2, page_size, heads of k, head_dim) = "
            f"(pages, 2, page_size, {k.shape[1]}, {q.shape[2]}), got {shape_text(cache)}"
        )
    if cache.shape[2] not in PAGE_SIZES:
        _fail(f"the page size of kv_cache must be between 16 and 256, got {cache.shape[2]}")
    _CHECKS.last_stride(cache, "kv_cache")
    if k.shape[0] != q.shape[0]:
        _fail(
            f"with kv_cache, q, k and v must have the same rows (new history and targets), got q "
            f"{shape_text(q)}, k {shape_text(k)}"
        )
    assert pages.page_offsets is not None and pages.page_ids is not None
    assert pages.last_page_lens is not None
    _check_index(pages.page_offsets, "page_offsets", batch + 1, "(batch + 1,)", q)
    _check_index(pages.page_ids, "page_ids", None, "(pages of all sequences,)", q)
    _check_index(pages.last_page_lens, "last_page_lens", batch, "(batch,)", q)
    if cu_seqlens_t is not None:
        _check_index(cu_seqlens_t, "cu_seqlens_t", batch + 1, "(batch + 1,)", q)


def check_arguments(p: Problem, cu_seqlens_t: Tensor | None = None) -> None:
    """Everything about the arguments of ``hstu_attn_varlen_func`` that needs no tensor's values.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    mask = p.mask
    _check_qkv(p.q, p.k, p.v)
    _check_index(p.cu_seqlens_q, "cu_seqlens_q", None, "(batch + 1,)", p.q)
    if p.cu_seqlens_q.shape[0] < 1:
        _fail(f"cu_seqlens_q must have shape (batch + 1,), got {shape_text(p.cu_seqlens_q)}")
    batch = p.cu_seqlens_q.shape[0] - 1
    _check_index(p.cu_seqlens_k, "cu_seqlens_k", batch + 1, "(batch + 1,)", p.q)
    _integer(p.max_seqlen_q, "max_seqlen_q", 0)
    _integer(p.max_seqlen_k, "max_seqlen_k", 0)
    if p.max_seqlen_q > p.max_seqlen_k:
        _fail(f"max_seqlen_q must be <= max_seqlen_k, got {p.max_seqlen_q} > {p.max_seqlen_k}")
    _integer(p.scaling_seqlen, "scaling_seqlen", -1, 2**63 - 1)
    if p.scaling_seqlen == 0:
        _fail("scaling_seqlen must be positive, or -1 for max_seqlen_q, got 0")
    size = mask.target_group_size
    _integer(size, "target_group_size", 1)
    if mask.num_targets is None and cu_seqlens_t is None and size != 1:
        _fail(f"target_group_size={size} needs num_targets, got num_targets=None")
    _CHECKS.number(p.alpha, "alpha")
    _CHECKS.boolean(p.has_drab, "has_drab")
    _CHECKS.boolean(p.deterministic, "deterministic")
    _check_mask(mask, batch, p.q)
    paged = p.pages.kv_cache is not None
    if cu_seqlens_t is not None and paged and tuple(mask.window_size) != CAUSAL:
        _fail(f"cu_seqlens_t needs the causal window_size {CAUSAL}, got {mask.window_size}")
    _check_rab(p, batch)
    _check_pages(p.pages, p, batch, cu_seqlens_t)


def values_wanted(q: Tensor) -> bool:
    """Whether the eager call looks into CUDA index tensors (HSTU_CHECK=1; not during capture)."""
    if torch.compiler.is_compiling() or not q.is_cuda:
        return False
    return _getenv(b"HSTU_CHECK") == b"1" and not torch.cuda.is_current_stream_capturing()


def check_values(p: Problem) -> None:
    """Everything that needs the values of the index tensors (a device synchronisation on CUDA).

    Raises:
        ValueError: naming the argument, its value, the sequence and what is allowed.
    """
    q, k, func = p.q, p.k, p.mask.func
    lengths = _CHECKS.prefix_sums
    q_lens = lengths(p.cu_seqlens_q.tolist(), "cu_seqlens_q", q.shape[0], "rows of q")
    paged = p.pages.kv_cache is not None
    total_k = 2**31 - 1 if paged else k.shape[0]
    k_lens = lengths(p.cu_seqlens_k.tolist(), "cu_seqlens_k", total_k, "rows of k")
    if func is not None and func.shape[2] < q.shape[0]:
        _fail(f"func must cover the {q.shape[0]} rows of q, got shape {shape_text(func)}")
    none = [0] * len(k_lens)
    targets = none if p.mask.num_targets is None else p.mask.num_targets.tolist()
    contexts = none if p.mask.num_contexts is None else p.mask.num_contexts.tolist()
    for b, (q_len, k_len) in enumerate(zip(q_lens, k_lens, strict=True)):
        if q_len > p.max_seqlen_q:
            _fail(f"max_seqlen_q={p.max_seqlen_q} is below the length {q_len} of sequence {b} of q")
        if k_len > p.max_seqlen_k:
            _fail(f"max_seqlen_k={p.max_seqlen_k} is below the length {k_len} of sequence {b} of k")
        if q_len > k_len:
            _fail(f"sequence {b} has {q_len} rows in q but only {k_len} in k: q may not be longer")
        if contexts[b] < 0:
            _fail(f"num_contexts must be >= 0, got num_contexts[{b}] = {contexts[b]}")
        limit = min(q_len, k_len) if paged else k_len
        if not 0 <= targets[b] <= limit:
            _fail(
                f"num_targets must be between 0 and the length of the sequence, got "
                f"num_targets[{b}] = {targets[b]} for length {limit}"
            )
    if paged:
        _check_page_values(p.pages, [k_len - t for k_len, t in zip(k_lens, targets, strict=True)])


def _check_page_values(pages: Pages, histories: list[int]) -> None:
    cache, offsets, ids, last_lens = pages
    assert cache is not None and offsets is not None and ids is not None and last_lens is not None
    page_counts = _CHECKS.prefix_sums(
        offsets.tolist(), "page_offsets", ids.shape[0], "elements of page_ids"
    )
    count, page_size = cache.shape[0], cache.shape[2]
    for position, page in enumerate(ids.tolist()[: sum(page_counts)]):
        if not 0 <= page < count:
            _fail(f"page_ids[{position}] = {page} is outside of the {count} pages of kv_cache")
    for b, last in enumerate(last_lens.tolist()):
        if page_counts[b] > 0 and not 0 < last <= page_size:
            _fail(f"last_page_lens[{b}] = {last} is outside of 1..{page_size} (the page size)")
        paged_tokens = (page_counts[b] - 1) * page_size + last if page_counts[b] > 0 else 0
        if paged_tokens != histories[b]:
            _fail(
                f"sequence {b} has {histories[b]} history columns by cu_seqlens_k and num_targets, "
                f"but its {page_counts[b]} pages with last_page_lens[{b}] = {last} hold "
                f"{paged_tokens}"
            )


def check_targets(cu_seqlens_t: Tensor, num_targets: Tensor | None) -> None:
    """Prefix sums, which say what ``num_targets`` says beside them (synchronises on CUDA)."""
    lengths = _CHECKS.prefix_sums(cu_seqlens_t.tolist(), "cu_seqlens_t", 2**31 - 1, "targets")
    if num_targets is not None and lengths != num_targets.tolist():
        _fail(
            f"cu_seqlens_t and num_targets must agree, got differences {lengths} and "
            f"num_targets {num_targets.tolist()}"
        )
