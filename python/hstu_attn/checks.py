"""Argument checks: every bad argument is named, with its value and what is allowed.

All errors are ValueError. ``check_arguments`` looks at dtypes, shapes, strides and devices: it
costs nothing and is traceable by torch.compile. ``check_values`` looks into the integer tensors,
which on a GPU waits for the device: it is run on CPU tensors always, and on CUDA tensors in eager
mode when the environment variable HSTU_CHECK is 1.
"""

from __future__ import annotations

import itertools
import os
from typing import NoReturn

import torch
from torch import Tensor

HEAD_DIMS = (32, 64, 128, 256)
PAGE_SIZES = range(16, 257)
GPU_DTYPES = (torch.bfloat16, torch.float16)
CPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def _fail(message: str) -> NoReturn:
    raise ValueError(f"hstu_attn: {message}")


def _shape(t: Tensor) -> str:
    return str(tuple(t.shape))


def _check_tensor(t: object, name: str) -> None:
    if not isinstance(t, Tensor):
        _fail(f"{name} must be a tensor, got {type(t).__name__}")


def check_integer(value: object, name: str, at_least: int) -> None:
    """``value`` must be an int (or a symbolic one) that is not below ``at_least``."""
    if not isinstance(value, (int, torch.SymInt)):
        hint = "; call .item() on it" if isinstance(value, Tensor) else ""
        _fail(f"{name} must be an int, got {type(value).__name__}{hint}")
    if value < at_least:
        _fail(f"{name} must be >= {at_least}, got {value}")


def _check_index_tensor(t: Tensor, name: str, size: int | None, meaning: str, q: Tensor) -> None:
    """A 1-D contiguous int32 tensor on q's device, of ``size`` elements (None: any).

    Messages are put together only on failure: a size in an f-string would become a constant of
    compiled code.
    """
    _check_tensor(t, name)
    if t.dtype != torch.int32:
        _fail(f"{name} must be int32, got {t.dtype}")
    if t.device != q.device:
        _fail(f"{name} is on {t.device}, but q is on {q.device}: they must be on one device")
    if t.dim() != 1 or (size is not None and t.shape[0] != size):
        needed = "" if size is None else f" = ({size},)"
        _fail(f"{name} must have shape {meaning}{needed}, got {_shape(t)}")
    if not t.is_contiguous():
        _fail(f"{name} must be contiguous, got strides {t.stride()}")


def _check_heads_tensor(t: Tensor, name: str, q: Tensor) -> None:
    """A (rows, heads, D) tensor with the dtype and device of q and last stride 1."""
    _check_tensor(t, name)
    if t.dim() != 3:
        _fail(f"{name} must have shape (rows, heads, head_dim), got {_shape(t)}")
    if t.dtype != q.dtype:
        _fail(f"{name} is {t.dtype}, but q is {q.dtype}: they must agree")
    if t.device != q.device:
        _fail(f"{name} is on {t.device}, but q is on {q.device}: they must be on one device")
    if t.stride(2) != 1:
        _fail(
            f"{name} must have last stride 1, got strides {tuple(t.stride())}; "
            f"pass {name}.contiguous()"
        )


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    _check_tensor(q, "q")
    allowed = GPU_DTYPES if q.device.type == "cuda" else CPU_DTYPES
    if q.dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        _fail(f"q must be one of {names} on {q.device.type}, got {q.dtype}")
    for t, name in ((q, "q"), (k, "k"), (v, "v")):
        _check_heads_tensor(t, name, q)
    if q.shape[2] not in HEAD_DIMS:
        _fail(f"the head dim of q (last dimension) must be one of {HEAD_DIMS}, got {q.shape[2]}")
    if k.shape[2] != q.shape[2] or v.shape[2] != q.shape[2]:
        _fail(f"q, k and v must have one head dim, got q {_shape(q)}, k {_shape(k)}, v {_shape(v)}")
    if k.shape[0] != v.shape[0] or k.shape[1] != v.shape[1]:
        _fail(f"k and v must have one shape, got k {_shape(k)}, v {_shape(v)}")
    if q.shape[1] < 1 or k.shape[1] < 1 or q.shape[1] % k.shape[1] != 0:
        _fail(
            f"the heads of q must be a multiple of the heads of k, got {q.shape[1]} and "
            f"{k.shape[1]}"
        )


def check_packed(qkv: Tensor) -> None:
    """The shape of ``qkv``; the rest is checked on its three parts."""
    _check_tensor(qkv, "qkv")
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        _fail(f"qkv must have shape (total, 3, heads, head_dim), got {_shape(qkv)}")


def _check_rab(rab: Tensor | None, has_drab: bool, batch: int, max_k: int, q: Tensor) -> None:
    if rab is None:
        if has_drab:
            _fail("has_drab=True needs rab, got rab=None")
        return
    _check_tensor(rab, "rab")
    if rab.dtype != q.dtype:
        _fail(f"rab is {rab.dtype}, but q is {q.dtype}: they must agree")
    if rab.device != q.device:
        _fail(f"rab is on {rab.device}, but q is on {q.device}: they must be on one device")
    if (
        rab.dim() != 4
        or rab.shape[0] != batch
        or rab.shape[1] not in (1, q.shape[1])
        or rab.shape[2] != max_k
        or rab.shape[3] != max_k
    ):
        _fail(
            f"rab must have shape (batch, 1 or heads, max_seqlen_k, max_seqlen_k) = "
            f"({batch}, 1 or {q.shape[1]}, {max_k}, {max_k}), got {_shape(rab)}"
        )
    if rab.stride(3) != 1:
        _fail(f"rab must have last stride 1, got strides {tuple(rab.stride())}")


def _check_func(func: Tensor, q: Tensor) -> None:
    _check_tensor(func, "func")
    if func.dtype != torch.int32:
        _fail(f"func must be int32, got {func.dtype}")
    if func.device != q.device:
        _fail(f"func is on {func.device}, but q is on {q.device}: they must be on one device")
    if func.dim() != 3 or func.shape[0] != 1 or func.shape[1] % 2 != 1:
        _fail(f"func must have shape (1, n_func, >= total_q) with odd n_func, got {_shape(func)}")
    if func.stride(2) != 1:
        _fail(f"func must have last stride 1, got strides {tuple(func.stride())}")
    # Compiled code checks this in the op: here it would tie two free sizes together.
    if not torch.compiler.is_compiling() and func.shape[2] < q.shape[0]:
        _fail(f"func must cover the {q.shape[0]} rows of q, got shape {_shape(func)}")


def _check_paged(
    q: Tensor,
    k: Tensor,
    batch: int,
    kv_cache: Tensor | None,
    page_offsets: Tensor | None,
    page_ids: Tensor | None,
    last_page_lens: Tensor | None,
    cu_seqlens_t: Tensor | None,
    has_drab: bool,
) -> None:
    table = {
        "page_offsets": page_offsets,
        "page_ids": page_ids,
        "last_page_lens": last_page_lens,
    }
    if kv_cache is None:
        for name, t in (*table.items(), ("cu_seqlens_t", cu_seqlens_t)):
            if t is not None:
                _fail(f"{name} needs kv_cache (paged keys and values), got kv_cache=None")
        return
    for name, t in table.items():
        if t is None:
            _fail(f"kv_cache needs {name}, got {name}=None")
    if has_drab:
        _fail("has_drab=True is not possible with kv_cache: paged attention has no backward")
    _check_tensor(kv_cache, "kv_cache")
    if kv_cache.dtype != q.dtype:
        _fail(f"kv_cache is {kv_cache.dtype}, but q is {q.dtype}: they must agree")
    if kv_cache.device != q.device:
        _fail(f"kv_cache is on {kv_cache.device}, but q is on {q.device}: one device is needed")
    if (
        kv_cache.dim() != 5
        or kv_cache.shape[1] != 2
        or kv_cache.shape[3] != k.shape[1]
        or kv_cache.shape[4] != q.shape[2]
    ):
        _fail(
            f"kv_cache must have shape (pages, 2, page_size, heads of k, head_dim) = "
            f"(pages, 2, page_size, {k.shape[1]}, {q.shape[2]}), got {_shape(kv_cache)}"
        )
    if kv_cache.shape[2] not in PAGE_SIZES:
        _fail(f"the page size of kv_cache must be between 16 and 256, got {kv_cache.shape[2]}")
    if kv_cache.stride(4) != 1:
        _fail(f"kv_cache must have last stride 1, got strides {tuple(kv_cache.stride())}")
    if k.shape[0] != q.shape[0]:
        _fail(
            f"with kv_cache, q, k and v must have the same rows (new history and targets), got q "
            f"{_shape(q)}, k {_shape(k)}"
        )
    assert page_offsets is not None and page_ids is not None and last_page_lens is not None
    _check_index_tensor(page_offsets, "page_offsets", batch + 1, "(batch + 1,)", q)
    _check_index_tensor(page_ids, "page_ids", None, "(pages of all sequences,)", q)
    _check_index_tensor(last_page_lens, "last_page_lens", batch, "(batch,)", q)
    if cu_seqlens_t is not None:
        _check_index_tensor(cu_seqlens_t, "cu_seqlens_t", batch + 1, "(batch + 1,)", q)


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_contexts: Tensor | None,
    num_targets: Tensor | None,
    target_group_size: int,
    window_size: tuple[int, int],
    rab: Tensor | None,
    has_drab: bool,
    kv_cache: Tensor | None,
    page_offsets: Tensor | None,
    page_ids: Tensor | None,
    last_page_lens: Tensor | None,
    cu_seqlens_t: Tensor | None,
    func: Tensor | None,
    scaling_seqlen: int,
) -> None:
    """Everything about the arguments of ``hstu_attn_varlen_func`` that needs no tensor's values.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    _check_qkv(q, k, v)
    _check_index_tensor(cu_seqlens_q, "cu_seqlens_q", None, "(batch + 1,)", q)
    if cu_seqlens_q.shape[0] < 1:
        _fail(f"cu_seqlens_q must have shape (batch + 1,), got {_shape(cu_seqlens_q)}")
    batch = cu_seqlens_q.shape[0] - 1
    _check_index_tensor(cu_seqlens_k, "cu_seqlens_k", batch + 1, "(batch + 1,)", q)
    check_integer(max_seqlen_q, "max_seqlen_q", 0)
    check_integer(max_seqlen_k, "max_seqlen_k", 0)
    if max_seqlen_q > max_seqlen_k:
        _fail(f"max_seqlen_q must be <= max_seqlen_k, got {max_seqlen_q} > {max_seqlen_k}")
    check_integer(scaling_seqlen, "scaling_seqlen", -1)
    if scaling_seqlen == 0:
        _fail("scaling_seqlen must be positive, or -1 for max_seqlen_q, got 0")
    check_integer(target_group_size, "target_group_size", 1)

    if len(window_size) != 2:
        _fail(f"window_size must be (left, right), got {window_size}")
    window = (window_size[0], window_size[1])
    check_integer(window[0], "window_size[0]", -(2**31))
    check_integer(window[1], "window_size[1]", -(2**31))
    for t, name in ((num_contexts, "num_contexts"), (num_targets, "num_targets")):
        if t is None:
            continue
        if window != (-1, 0):
            _fail(f"{name} needs the causal window_size (-1, 0), got {window}")
        _check_index_tensor(t, name, batch, "(batch,)", q)
    if num_targets is None and cu_seqlens_t is None and target_group_size != 1:
        _fail(f"target_group_size={target_group_size} needs num_targets, got num_targets=None")
    if cu_seqlens_t is not None and kv_cache is not None and window != (-1, 0):
        _fail(f"cu_seqlens_t needs the causal window_size (-1, 0), got {window}")
    if func is not None:
        if window != (-1, -1):
            _fail(f"func replaces the window: window_size must be (-1, -1), got {window}")
        _check_func(func, q)
    _check_rab(rab, has_drab, batch, max_seqlen_k, q)
    _check_paged(
        q,
        k,
        batch,
        kv_cache,
        page_offsets,
        page_ids,
        last_page_lens,
        cu_seqlens_t,
        has_drab,
    )


def values_wanted(q: Tensor) -> bool:
    """Whether the eager call looks into CUDA index tensors (HSTU_CHECK=1; not during capture)."""
    if torch.compiler.is_compiling() or q.device.type != "cuda":
        return False
    return os.environ.get("HSTU_CHECK") == "1" and not torch.cuda.is_current_stream_capturing()


def _check_prefix_sums(starts: list[int], name: str, total: int, of: str) -> list[int]:
    """The lengths behind prefix sums that start at 0, do not fall and end within ``total``."""
    if starts[0] != 0:
        _fail(f"{name} must start at 0, got {starts[0]}")
    lengths = [b - a for a, b in itertools.pairwise(starts)]
    for b, length in enumerate(lengths):
        if length < 0:
            _fail(
                f"{name} must not decrease, got {name}[{b}] = {starts[b]} > "
                f"{name}[{b + 1}] = {starts[b + 1]}"
            )
    if starts[-1] > total:
        _fail(f"{name} must end within the {total} {of}, got {name}[-1] = {starts[-1]}")
    return lengths


def check_values(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_contexts: Tensor | None,
    num_targets: Tensor | None,
    func: Tensor | None = None,
    kv_cache: Tensor | None = None,
    page_offsets: Tensor | None = None,
    page_ids: Tensor | None = None,
    last_page_lens: Tensor | None = None,
) -> None:
    """Everything that needs the values of the index tensors (a device synchronisation on CUDA).

    Raises:
        ValueError: naming the argument, its value, the sequence and what is allowed.
    """
    q_lens = _check_prefix_sums(cu_seqlens_q.tolist(), "cu_seqlens_q", q.shape[0], "rows of q")
    paged = kv_cache is not None
    total_k = 2**31 - 1 if paged else k.shape[0]
    k_lens = _check_prefix_sums(cu_seqlens_k.tolist(), "cu_seqlens_k", total_k, "rows of k")
    if func is not None and func.shape[2] < q.shape[0]:
        _fail(f"func must cover the {q.shape[0]} rows of q, got shape {_shape(func)}")
    targets = num_targets.tolist() if num_targets is not None else [0] * len(k_lens)
    contexts = num_contexts.tolist() if num_contexts is not None else [0] * len(k_lens)
    for b, (q_len, k_len) in enumerate(zip(q_lens, k_lens, strict=True)):
        if q_len > max_seqlen_q:
            _fail(f"max_seqlen_q={max_seqlen_q} is below the length {q_len} of sequence {b} of q")
        if k_len > max_seqlen_k:
            _fail(f"max_seqlen_k={max_seqlen_k} is below the length {k_len} of sequence {b} of k")
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
    if kv_cache is None:
        return
    assert page_offsets is not None and page_ids is not None and last_page_lens is not None
    page_counts = _check_prefix_sums(
        page_offsets.tolist(), "page_offsets", page_ids.shape[0], "elements of page_ids"
    )
    pages, page_size = kv_cache.shape[0], kv_cache.shape[2]
    for position, page in enumerate(page_ids.tolist()[: sum(page_counts)]):
        if not 0 <= page < pages:
            _fail(f"page_ids[{position}] = {page} is outside of the {pages} pages of kv_cache")
    for b, last in enumerate(last_page_lens.tolist()):
        history = k_lens[b] - targets[b]
        if page_counts[b] > 0 and not 0 < last <= page_size:
            _fail(f"last_page_lens[{b}] = {last} is outside of 1..{page_size} (the page size)")
        paged_tokens = (page_counts[b] - 1) * page_size + last if page_counts[b] > 0 else 0
        if paged_tokens != history:
            _fail(
                f"sequence {b} has {history} history columns by cu_seqlens_k and num_targets, but "
                f"its {page_counts[b]} pages with last_page_lens[{b}] = {last} hold {paged_tokens}"
            )


def check_targets_agree(cu_seqlens_t: Tensor, num_targets: Tensor) -> None:
    """Both forms of the same thing were passed: they must say the same (synchronises on CUDA)."""
    lengths = _check_prefix_sums(cu_seqlens_t.tolist(), "cu_seqlens_t", 2**31 - 1, "targets")
    if lengths != num_targets.tolist():
        _fail(
            f"cu_seqlens_t and num_targets must agree, got differences {lengths} and "
            f"num_targets {num_targets.tolist()}"
        )
