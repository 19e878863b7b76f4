"""HSTU attention by the CUDA kernels of ``hstu_attn``, if that package is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import sequence_of_row
from generative_recommenders.ops.problem import Mask, Problem

DIMS = (32, 64, 128, 256)
INSTALLED = importlib.util.find_spec("hstu_attn") is not None  # torch.compile cannot ask
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def lengths_of(starts: Tensor) -> Tensor:
    return starts[1:] - starts[:-1]


def visible_columns(rows: int, starts: Tensor, mask: Mask, most: int) -> Tensor:
    """The mask of ``hstu_mha`` as ``hstu_attn`` takes it in ``func``: for each packed row the
    columns [low, high) and the row itself, int32 (1, 5, rows); nothing from place ``most`` on."""
    batch, num_targets = starts.shape[0] - 1, mask.num_targets
    sequence, place = sequence_of_row(starts, rows)
    lengths = torch.cat([lengths_of(starts).long(), starts.new_zeros(1).long()])
    history = lengths[sequence]
    if num_targets is not None:
        history = history - torch.cat([num_targets.long(), history.new_zeros(1)])[sequence]
    # Places beside the first that have the id 0.
    before = max(mask.contextual_seq_len - 1, 0)
    end = history - before
    own = (place - before).clamp(min=0) if mask.contextual_seq_len > 0 else place
    if num_targets is not None:
        own = torch.minimum(own, end)
    high = torch.where(own > 0, own + before, 0)
    low = torch.zeros_like(high)
    if mask.max_attn_len > 0:
        far = own - mask.max_attn_len
        low = torch.where(far > 0, far + before, 0)
        if mask.min_full_attn_seq_len > 0:
            low = torch.where(own >= end - mask.min_full_attn_seq_len, 0, low)
    if mask.contextual_seq_len > 0:
        high = torch.where((own == 0) & (end > 0), history, high)
    high = high.clamp(max=most)
    itself = torch.where((low <= place) & (place < high), place, place + 1)
    there = (sequence < batch) & (place < most)
    columns = [torch.zeros_like(low), low, high, place, itself]
    return torch.where(there, torch.stack(columns), 0).to(torch.int32)[None]


def cut_at(starts: Tensor, most: int) -> Tensor:
    """int32 (2 batch + 1): where each sequence begins, and what it has beyond ``most`` rows. In as
    few kernels as there may be: short sequences' attention takes no longer than ten of these."""
    cut = torch.empty((2 * starts.shape[0] - 1,), dtype=torch.int32, device=starts.device)
    cut[::2] = starts
    beyond = starts[:-1] + most
    if torch.compiler.is_compiling():  # it knows no out= of a view
        cut[1::2] = torch.minimum(beyond, starts[1:])
    else:
        torch.minimum(beyond, starts[1:], out=cut[1::2])
    return cut


def cut_targets(targets: Tensor, cut: Tensor) -> Tensor:
    """int32 (2 batch): how many rows of each sequence within the length are targets; of those
    beyond it none is."""
    inside = torch.zeros((cut.shape[0] - 1,), dtype=torch.int32, device=cut.device)
    beyond = cut[2::2] - cut[1::2]
    if torch.compiler.is_compiling():
        inside[::2] = targets - beyond
    else:
        torch.sub(targets, beyond, out=inside[::2])
    return inside.clamp_(min=0)


def prepared(p: Problem) -> Problem:
    """With what its forward and its backward by ``hstu_attn`` share."""
    cut, targets = cut_at(p.seq_offsets, p.max_seq_len), None
    if p.mask.num_targets is not None:
        targets = cut_targets(p.mask.num_targets, cut)
    return p._replace(cut=cut, cut_targets=targets)


def _theirs(p: Problem) -> Any:
    """The same call as ``hstu_attn`` has it. What a sequence has beyond ``max_seq_len`` is a
    sequence of its own there, and its rows are cleared."""
    from hstu_attn.problem import Mask as TheirMask
    from hstu_attn.problem import Problem as TheirProblem

    p = prepared(p) if p.cut is None else p
    cut: Any = p.cut
    starts, most = p.seq_offsets, p.max_seq_len
    longest = most
    if starts.device.type == "cpu" and not torch.compiler.is_compiling() and starts.shape[0] > 1:
        longest = max(most, int(lengths_of(starts).max()))  # the CPU looks at lengths
    targets, func, window = p.cut_targets, None, (-1, 0)
    if p.mask.max_attn_len or p.mask.contextual_seq_len:
        func, targets, window = visible_columns(p.q.shape[0], starts, p.mask, most), None, (-1, -1)
    return TheirProblem(
        p.q.contiguous(),
        p.k.contiguous(),
        p.v.contiguous(),
        cut,
        cut,
        longest,
        longest,
        most,
        TheirMask(num_targets=targets, window_size=window, func=func),
        alpha=float(p.alpha),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _cleared(t: Tensor, p: Problem) -> Tensor:
    """``t`` with zeros for rows beyond ``max_seq_len``, which are few or none."""
    if t.is_cuda and _HAS_TRITON:
        from generative_recommenders.ops.triton.triton_tails import triton_clear_tails

        triton_clear_tails(t, p.seq_offsets, p.max_seq_len)
        return t
    _, place = sequence_of_row(p.seq_offsets, t.shape[0])
    return t.masked_fill((place >= p.max_seq_len)[:, None, None], 0.0)


def forward(p: Problem) -> Tensor:
    """(rows, heads, dim_v)."""
    theirs = _theirs(p)
    no_pages = (None,) * 4
    return _cleared(torch.ops.hstu_attn.varlen_fwd(*theirs.schema(), *no_pages), p)


def backward(p: Problem, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    theirs = _theirs(p)
    grads = torch.ops.hstu_attn.varlen_bwd(dout.contiguous(), *theirs.schema())[:3]
    dq, dk, dv = (_cleared(t, p) for t in grads)
    return dq, dk, dv


def why_not(p: Problem) -> str | None:
    """Why ``hstu_attn`` cannot compute this; None: it can."""
    if p.attn_scale is not None:
        return "attn_scale must be None with CUDA; TRITON and PYTORCH have it"
    if p.v.shape[2] != p.q.shape[2]:
        return f"v must have the head dim of q with CUDA, got {p.v.shape[2]} and {p.q.shape[2]}"
    if p.q.shape[2] not in DIMS:
        return f"q must have one of the head dims {DIMS} with CUDA, got {p.q.shape[2]}"
    if p.q.is_cuda and p.q.dtype not in (torch.bfloat16, torch.float16):
        return f"q must be bfloat16 or float16 with CUDA, got {p.q.dtype}"
    return None


def check(p: Problem) -> None:
    """
    Raises:
        ValueError: what ``hstu_attn`` cannot compute.
        ImportError: it is not installed.
    """
    try:
        import hstu_attn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "generative_recommenders: hstu_mha: CUDA needs hstu_attn: pip install hstu-attn"
        ) from error
    why = why_not(p)
    if why is not None:
        CHECKS.fail(why)
