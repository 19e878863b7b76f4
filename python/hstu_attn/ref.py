"""HSTU attention in plain PyTorch: the definition of what this package computes.

Every function works on one device and in any floating dtype, loops over the sequences of the
batch and builds whole (heads, rows, columns) matrices, so it is for reading, for tests and for
CPU tensors, not for speed. Per sequence and head, with absolute row ``i`` and column ``j``::

    S[i,j] = alpha * (q_i . k_j + rab[i,j])
    P[i,j] = visible[i,j] * silu(S[i,j]) / N
    o_i    = sum_j P[i,j] * v_j

and backwards, from ``do``::

    dP[i,j] = (do_i . v_j) / N
    dS[i,j] = visible[i,j] * dP[i,j] * sigmoid(S) * (1 + S * (1 - sigmoid(S)))
    dv_j    = sum_i P[i,j] * do_i           dq_i     = alpha * sum_j dS[i,j] * k_j
    dk_j    = alpha * sum_i dS[i,j] * q_i   drab[i,j] = alpha * dS[i,j]

What is not visible adds nothing, whatever it holds: 0 is not multiplied with NaN.

Formula: J. Zhai et al., "Actions Speak Louder than Words" (2024), with the conventions of NVIDIA
recsys-examples: the bias is added before ``alpha``, and N is one number for the whole call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hstu_attn.problem import Mask, Pages, Problem


def visible(
    q_len: int,
    k_len: int,
    *,
    window: tuple[int, int] = (-1, -1),
    contexts: int = 0,
    targets: int = 0,
    group_size: int = 1,
    func: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Which columns each row of one sequence sees, as a (q_len, k_len) bool tensor.

    The rows are the last ``q_len`` of the ``k_len`` positions [contexts | history | targets].

    Args:
        q_len: rows, at most ``k_len`` (any number with ``func``).
        k_len: columns.
        window: (left, right) columns beside the diagonal; a negative side is unbounded, so
            (-1, -1) is no mask and (-1, 0) is causal.
        contexts: the first ``contexts`` positions also see the whole history (causal only).
        targets: the last ``targets`` positions see the history and, of their own group only, the
            positions up to themselves (causal only).
        group_size: targets per group.
        func: (n_func, q_len) interval ends, n_func odd: row r sees
            [0, f0) + [f1, f2) + [f3, f4) + ...; it replaces everything above.
        device: where the result lies.
    """
    j = torch.arange(k_len, device=device)[None, :]  # (1, k_len)
    if func is not None:
        seen = j < func[0, :, None]
        for n in range(1, func.shape[0], 2):
            seen = seen | ((j >= func[n, :, None]) & (j < func[n + 1, :, None]))
        return seen

    i = torch.arange(k_len - q_len, k_len, device=device)[:, None]  # (q_len, 1)
    left, right = window
    if right >= 0:
        seen = j <= i + right
    else:
        seen = torch.ones(q_len, k_len, dtype=torch.bool, device=device)
    if left >= 0:
        seen = seen & (j >= i - left)
    history_end = k_len - targets
    if contexts > 0:
        seen = seen | ((i < contexts) & (j < history_end))
    if targets > 0:
        group_start = history_end + (i - history_end) // group_size * group_size
        other_group = (i >= history_end) & (j >= history_end) & (j < group_start)
        seen = seen & ~other_group
    return seen


@dataclass(frozen=True)
class Sequence:
    """One sequence of a batch: where its rows lie and what they see."""

    index: int
    q_rows: slice  # in q, dout, dq
    k_rows: slice  # in k, v, dk, dv; with paged KV: the targets alone
    offset: int  # absolute row of the first row of q
    k_len: int
    page_ids: Tensor | None  # the pages of its history, with paged KV
    mask: Tensor  # (q_len, k_len) bool


def sequences(p: Problem) -> Iterator[Sequence]:
    """The sequences of a batch that have rows and columns."""
    starts_q, starts_k = p.cu_seqlens_q.tolist(), p.cu_seqlens_k.tolist()
    batch = len(starts_q) - 1
    m, pages = p.mask, p.pages
    contexts = m.num_contexts.tolist() if m.num_contexts is not None else [0] * batch
    targets = m.num_targets.tolist() if m.num_targets is not None else [0] * batch
    first_page = pages.page_offsets.tolist() if pages.page_offsets is not None else None
    for b in range(batch):
        q_rows = slice(starts_q[b], starts_q[b + 1])
        k_rows = slice(starts_k[b], starts_k[b + 1])
        q_len, k_len = q_rows.stop - q_rows.start, k_rows.stop - k_rows.start
        if q_len == 0 or k_len == 0:
            continue
        ids = None
        if first_page is not None and pages.page_ids is not None:
            ids = pages.page_ids[first_page[b] : first_page[b + 1]].long()
            k_rows = slice(q_rows.stop - targets[b], q_rows.stop)
        mask = visible(
            q_len,
            k_len,
            window=m.window_size,
            contexts=contexts[b],
            targets=targets[b],
            group_size=m.target_group_size,
            func=None if m.func is None else m.func[0, :, q_rows],
            device=p.q.device,
        )
        yield Sequence(b, q_rows, k_rows, k_len - q_len, k_len, ids, mask)


def _columns(x: Tensor, s: Sequence, kv_cache: Tensor | None, which: int) -> Tensor:
    """The (k_len, H_k, D) keys (which=0) or values (1) of a sequence, pages first."""
    if kv_cache is None or s.page_ids is None:
        return x[s.k_rows]
    fresh = x[s.k_rows]
    history = kv_cache[s.page_ids, which].flatten(0, 1)[: s.k_len - fresh.shape[0]]
    return torch.cat([history, fresh])


def _per_q_head(x: Tensor, heads: int) -> Tensor:
    """(L, H_k, D) -> (H, L, D): each head of k or v serves H / H_k heads of q."""
    if x.shape[1] != heads:
        x = x.repeat_interleave(heads // x.shape[1], dim=1)
    return x.transpose(0, 1)


def _scores(
    q: Tensor, k: Tensor, rab: Tensor | None, s: Sequence, alpha: float
) -> tuple[Tensor, Tensor]:
    """S of one sequence, (H, q_len, k_len), from q (H, q_len, D) and k (H, k_len, D), and which of
    the pairs are visible, (H or 1, q_len, k_len): the mask, without those whose rab is -inf."""
    scores, seen = q @ k.transpose(1, 2), s.mask[None]
    if rab is not None:
        bias = rab[s.index, :, s.offset : s.k_len, : s.k_len].to(scores.dtype)
        hidden = bias == -torch.inf
        scores, seen = scores + bias.masked_fill(hidden, 0), seen & ~hidden
    return scores * alpha, seen


def _product(weights: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """weights @ values, (.., M, N) and (.., N, D), of which pairs that are not ``seen``, whose
    weight is 0, add nothing even where the value is infinite or NaN."""
    product = weights @ values
    if math.isfinite(product.sum().item()):
        return product
    wild = ~values.isfinite()
    met = (seen.to(weights.dtype) @ wild.to(weights.dtype)) > 0
    hidden = ((~seen).to(weights.dtype) @ wild.to(weights.dtype)) > 0
    clean = (weights @ values.masked_fill(wild, 0)).masked_fill(met, torch.nan)
    return torch.where(hidden, clean, product)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the reference computes: half precisions in float32."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def forward(p: Problem, *, upcast: bool = True) -> Tensor:
    """The output (total_q, H, D), in q's dtype; differentiable by autograd.

    ``upcast=False`` computes in q's own dtype throughout, which is what a straightforward
    half-precision program would do. Rows that belong to no sequence are zero.
    """
    q, cache = p.q, p.pages.kv_cache
    dtype = compute_dtype(q.dtype) if upcast else q.dtype
    heads = q.shape[1]
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    for s in sequences(p):
        q_b = q[s.q_rows].to(dtype).transpose(0, 1)
        k_b = _per_q_head(_columns(p.k, s, cache, 0).to(dtype), heads)
        v_b = _per_q_head(_columns(p.v, s, cache, 1).to(dtype), heads)
        scores, seen = _scores(q_b, k_b, p.rab, s, p.alpha)
        weights = torch.where(seen, torch.nn.functional.silu(scores) / p.scaling_seqlen, 0)
        out[s.q_rows] = _product(weights, v_b, seen).transpose(0, 1)
    return out.to(q.dtype)


def backward(p: Problem, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv and drab (None without rab), each in the dtype and shape of its tensor."""
    q, k, v, rab, n = p.q, p.k, p.v, p.rab, p.scaling_seqlen
    dtype = compute_dtype(q.dtype)
    heads, heads_k = q.shape[1], k.shape[1]
    dq, dk, dv = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (q, k, v))
    drab = None if rab is None else torch.zeros(rab.shape, dtype=dtype, device=rab.device)

    def per_k_head(x: Tensor) -> Tensor:  # (H, L, D) -> (L, H_k, D)
        if heads != heads_k:
            x = x.reshape(heads_k, heads // heads_k, *x.shape[1:]).sum(1)
        return x.transpose(0, 1)

    for s in sequences(p):
        q_b = q[s.q_rows].to(dtype).transpose(0, 1)
        do_b = dout[s.q_rows].to(dtype).transpose(0, 1)
        k_b = _per_q_head(k[s.k_rows].to(dtype), heads)
        v_b = _per_q_head(v[s.k_rows].to(dtype), heads)
        scores, seen = _scores(q_b, k_b, rab, s, p.alpha)
        sigma = torch.sigmoid(scores)
        weights = torch.where(seen, scores * sigma / n, 0)
        dp = do_b @ v_b.transpose(1, 2) / n
        ds = torch.where(seen, dp * sigma * (1 + scores * (1 - sigma)), 0)
        seen_by = seen.transpose(1, 2)
        dq[s.q_rows] = p.alpha * _product(ds, k_b, seen).transpose(0, 1)
        dk[s.k_rows] = p.alpha * per_k_head(_product(ds.transpose(1, 2), q_b, seen_by))
        dv[s.k_rows] = per_k_head(_product(weights.transpose(1, 2), do_b, seen_by))
        if drab is not None:
            dbias = p.alpha * (ds if drab.shape[1] == heads else ds.sum(0, keepdim=True))
            drab[s.index, :, s.offset : s.k_len, : s.k_len] = dbias
    return (
        dq.to(q.dtype),
        dk.to(k.dtype),
        dv.to(v.dtype),
        None if drab is None or rab is None else drab.to(rab.dtype),
    )


def _problem(*required: Any, window: tuple[int, int] = (-1, -1), **named: Any) -> Problem:
    """From q, k, v, cu_seqlens_q, cu_seqlens_k, scaling_seqlen and what the mask and pages need."""

    def part(kind: Any) -> Any:
        return kind(**{name: named.pop(name) for name in kind._fields if name in named})

    mask, pages = part(Mask)._replace(window_size=window), part(Pages)
    every = dict(zip(Problem._fields, required[:5], strict=False))
    lengths = {"max_seqlen_q": 0, "max_seqlen_k": 0, "scaling_seqlen": required[5]}
    return Problem(**every, **lengths, mask=mask, pages=pages, **named)


def varlen_fwd(*required: Any, upcast: bool = True, **named: Any) -> Tensor:
    """``forward`` of single arguments: q, k, v, cu_seqlens_q, cu_seqlens_k, scaling_seqlen, and by
    name ``window`` and the others of ``hstu_attn.hstu_attn_varlen_func``, with its defaults."""
    return forward(_problem(*required, **named), upcast=upcast)


def varlen_bwd(
    dout: Tensor, *required: Any, **named: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``backward`` of single arguments, as ``varlen_fwd``."""
    return backward(_problem(*required, **named), dout)
