"""HSTU attention in Triton: forward, backward, and the last rows of each sequence alone.

``ops.hstu_attention`` describes the mathematics and the arguments. Nothing but the inputs is saved
for the backward, which computes the gradient of q by rows and those of k and v by columns: two
runs give equal bits.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import triton
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerKernel, cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.kinds import Kinds, attention
from generative_recommenders.ops.problem import Mask, Problem
from generative_recommenders.ops.table import rounded
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._attention_configs import Config, configuration
from generative_recommenders.ops.triton._attention_kernels import (
    _hstu_attn_bwd,
    _hstu_attn_bwd_one_block,
    _hstu_attn_bwd_one_col_block,
    _hstu_attn_fwd,
    _hstu_attn_fwd_compute,
    _hstu_attn_fwd_one_block,
)
from generative_recommenders.ops.triton._launch import Call
from generative_recommenders.ops.triton._mask import FAR
from generative_recommenders.ops.triton._op import kernel_op

__all__ = [
    "_hstu_attn_bwd_one_block",
    "_hstu_attn_bwd_one_col_block",
    "_hstu_attn_fwd_compute",
    "_hstu_attn_fwd_one_block",
    "triton_cached_hstu_mha",
    "triton_hstu_attention_bwd",
    "triton_hstu_attention_fwd",
    "triton_hstu_mha",
]

_warned = False


def _descriptors(enable_tma: bool, k: Tensor, v: Tensor) -> bool:
    """Whether k and v are read by tensor descriptors: asked for, possible, and allowed by their
    strides. What a GPU before Hopper lacks is said once."""
    global _warned
    if not enable_tma:
        return False
    if not _launch.INTERPRETED and _launch.capability(k)[0] < 9:
        if not _warned:
            _warned = True
            warnings.warn(
                "generative_recommenders: enable_tma needs compute capability 9.0 or newer; "
                "pointers are used, results are the same",
                stacklevel=4,
            )
        return False
    return _launch.descriptors(k, v)


def _rules(
    seq_offsets: Tensor,
    q: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    min_full_attn_seq_len: int,
    order: Tensor | None,
    attn_scale: Tensor | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int, int], bool]:
    """The optional tensors, of which one that is absent is not read; window, full, contextual and
    present; whether there is any rule beside the causal one."""
    window = max_attn_len > 0
    full = window and min_full_attn_seq_len > 0
    bits = (num_targets is not None, order is not None, attn_scale is not None)
    present = sum(bit << i for i, bit in enumerate(bits))
    tensors = (
        seq_offsets if num_targets is None else num_targets,
        seq_offsets if order is None else order,
        q if attn_scale is None else attn_scale,
    )
    numbers = (
        max_attn_len if window else FAR,
        min_full_attn_seq_len if full else -FAR,
        contextual_seq_len,
        present,
    )
    return tensors, numbers, bool(present or window or contextual_seq_len)


def _dim_arguments(q: Tensor, v: Tensor) -> dict[str, Any]:
    return {
        "D": q.shape[2],
        "DV": v.shape[2],
        "BLOCK_D": max(16, triton.next_power_of_2(q.shape[2])),
        "BLOCK_DV": max(16, triton.next_power_of_2(v.shape[2])),
        "FAST": _launch.fast_tanh(q),
        "UPCAST": _launch.upcast(q),
        "PRECISION": _launch.precision(q),
    }


def _blocks(c: Config) -> dict[str, int]:
    return {
        "BLOCK_M": c.block_m,
        "BLOCK_N": c.block_n,
        "LOOP": c.loop,
        "num_warps": c.num_warps,
        "num_stages": c.num_stages,
    }


def _strides(*tensors: Tensor) -> list[int]:
    return [t.stride(0) for t in tensors] + [t.stride(1) for t in tensors]


def _forward_call(p: Problem, out: Tensor, delta: int) -> Call:
    """``delta``: of how many last rows q is, 0 for all."""
    q, k, v, offsets = p.q, p.k, p.v, p.seq_offsets
    batch, heads = offsets.shape[0] - 1, q.shape[1]
    rows = min(delta or p.max_seq_len, p.max_seq_len)
    dim = max(q.shape[2], v.shape[2])
    sizes = (q.element_size(), _launch.capability(q)[0], rows, _launch.INTERPRETED)
    optional, rules, general = _rules(offsets, q, *p.mask, p.order, p.attn_scale)
    c = configuration("forward", dim, *sizes, _launch.gpu_name(q), general)
    # A block of the last rows begins where they do, in the worst case before the first of them.
    grid = (batch * heads, cdiv(delta or p.max_seq_len, c.block_m))
    arguments = (
        q, k, v, offsets, *optional, out, *_strides(q, k, v, out), p.alpha, 1.0 / p.max_seq_len,
        heads, batch, out.shape[0], p.max_seq_len, delta, *rules,
    )  # fmt: skip
    constants = {
        **_dim_arguments(q, v),
        **_blocks(c),
        "GENERAL": general,
        "IS_DELTA": delta > 0,
        "USE_TMA": _descriptors(p.enable_tma, k, v),
    }
    return Call(_hstu_attn_fwd, grid, arguments, constants)


def _forward(p: Problem, delta: int = 0) -> Tensor:
    _launch.on_gpu(p.k, "k")
    v = p.v
    out = torch.empty((*p.q.shape[:2], v.shape[2]), dtype=v.dtype, device=v.device)
    if p.seq_offsets.shape[0] == 1 or out.numel() == 0:
        return out.zero_()
    _forward_call(p, out, delta).launch()
    return out


@kernel_op("triton_hstu_attention_fwd")
def triton_hstu_attention_fwd(
    N: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    sort_by_length_indices: Tensor | None,
    enable_tma: bool,
    num_softmax_heads: int,
    attn_scale: Tensor | None = None,
    min_full_attn_seq_len: int = 0,
) -> Tensor:
    """The forward as an op. ``sort_by_length_indices``: int (batch,), the order of the sequences;
    ``num_softmax_heads`` must be 0; the others as in ``hstu_mha``."""
    _no_softmax(num_softmax_heads)
    mask = Mask(num_targets, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
    given = (mask, attn_scale, sort_by_length_indices, enable_tma)
    return _forward(Problem(N, alpha, q, k, v, seq_offsets, *given))


@triton_hstu_attention_fwd.register_fake
def _(N: int, alpha: float, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return v.new_empty((q.shape[0], q.shape[1], v.shape[2]))


def _no_softmax(num_softmax_heads: int) -> None:
    if num_softmax_heads != 0:
        CHECKS.fail(f"num_softmax_heads must be 0, got {num_softmax_heads}")


def _backward_calls(p: Problem, dout: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> list[Call]:
    """Of columns, and of rows."""
    q, k, v, offsets = p.q, p.k, p.v, p.seq_offsets
    heads, batch = q.shape[1], offsets.shape[0] - 1
    dim = max(q.shape[2], v.shape[2])
    sizes = (q.element_size(), _launch.capability(q)[0], p.max_seq_len, _launch.INTERPRETED)
    optional, rules, general = _rules(offsets, q, *p.mask, p.order, p.attn_scale)
    arguments = (
        q, k, v, offsets, *optional, dout, dq, dk, dv, *_strides(q, k, v, dout, dq, dk, dv),
        p.alpha, 1.0 / p.max_seq_len, heads, batch, q.shape[0], p.max_seq_len, *rules,
    )  # fmt: skip
    calls = []
    for of_rows in (False, True):
        op = "rows" if of_rows else "columns"
        c = configuration(op, dim, *sizes, _launch.gpu_name(q), general)
        grid = (batch * heads, cdiv(p.max_seq_len, c.block_m if of_rows else c.block_n))
        constants = {
            **_dim_arguments(q, v),
            **_blocks(c),
            "GENERAL": general,
            "OF_ROWS": of_rows,
        }
        calls.append(Call(_hstu_attn_bwd, grid, arguments, constants))
    return calls


def calls_of(p: Problem, forward: bool) -> list[Call]:
    """What a backward of ``p`` launches, and its forward, with tensors of no memory for those that
    it will make."""
    shapes = ((*p.q.shape[:2], p.v.shape[2]), p.q.shape, p.k.shape, p.v.shape)
    out, dq, dk, dv = (torch.empty(s, dtype=p.q.dtype, device="meta") for s in shapes)
    calls = _backward_calls(p, out, dq, dk, dv)
    if forward:
        calls.append(_forward_call(p, out, 0))
    return calls


def compile_ahead(p: Problem, forward: bool) -> None:
    """Compiles what ``calls_of`` says in the time of the slowest, where nothing has been."""
    if p.q.is_cuda and p.q.numel() and p.seq_offsets.shape[0] > 1:
        dims = (*p.q.shape[1:], p.v.shape[2], rounded(p.max_seq_len))
        key = (p.q.device, p.q.dtype, dims, p.general, p.enable_tma, forward)
        _launch.compile_at_once(key, lambda: calls_of(p, forward))


@kernel_op("triton_hstu_attention_bwd", written=("dq", "dk", "dv"))
def triton_hstu_attention_bwd(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    N: int,
    alpha: float,
    max_attn_len: int,
    contextual_seq_len: int,
    sort_by_length_indices: Tensor | None,
    enable_tma: bool,
    num_softmax_heads: int,
    attn_scale: Tensor | None = None,
    min_full_attn_seq_len: int = 0,
) -> None:
    """The gradients as an op: written into dq, dk, dv, which may be views of one buffer. The
    gradient is read by pointers; ``enable_tma`` changes nothing."""
    _no_softmax(num_softmax_heads)
    _launch.on_gpu(q, "q")
    if seq_offsets.shape[0] == 1 or q.shape[0] == 0 or q.shape[1] == 0:
        for t in (dq, dk, dv):
            t.zero_()
        return
    mask = Mask(num_targets, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
    order = sort_by_length_indices
    problem = Problem(N, alpha, q, k, v, seq_offsets, mask, attn_scale, order)
    for call in _backward_calls(problem, switch_to_contiguous_if_needed(dout), dq, dk, dv):
        call.launch()


@triton_hstu_attention_bwd.register_fake
def _(*arguments: Any) -> None:
    return None


def longest_first(seq_offsets: Tensor) -> Tensor:
    """The order of sequences by their lengths, int64 (batch,)."""
    return torch.sort(seq_offsets[1:] - seq_offsets[:-1], descending=True, stable=True)[1]


def triton_hstu_mha(
    N: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    sort_by_length: bool = False,
    enable_tma: bool = False,
    attn_scale: Tensor | None = None,
    min_full_attn_seq_len: int = 0,
) -> Tensor:
    """``ops.hstu_attention.hstu_mha`` by Triton, ``N`` being its ``max_seq_len``; the arguments are
    described there. A gradient for ``attn_scale`` is refused: PYTORCH has it."""
    if attn_scale is not None:
        if attn_scale.requires_grad:
            CHECKS.fail("attn_scale must not require a gradient with TRITON; PYTORCH has it")
        attn_scale = attn_scale.to(torch.float32).expand(q.shape[0]).contiguous()
    q, k, v = (switch_to_contiguous_if_needed(t) for t in (q, k, v))
    targets = None if num_targets is None else num_targets.contiguous()
    mask = Mask(targets, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
    order = longest_first(seq_offsets) if sort_by_length else None
    problem = Problem(N, alpha, q, k, v, seq_offsets.contiguous(), mask, attn_scale, order)
    triton_kernel = HammerKernel.TRITON
    return attention(problem, Kinds(triton_kernel, triton_kernel, enable_tma))


@kernel_op("triton_cached_hstu_attention")
def _cached(
    N: int,
    alpha: float,
    delta_q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    max_attn_len: int,
    contextual_seq_len: int,
    enable_tma: bool,
) -> Tensor:
    batch = seq_offsets.shape[0] - 1
    delta = delta_q.shape[0] // batch if batch else 0
    if delta == 0:
        return v.new_empty((delta_q.shape[0], v.shape[1], v.shape[2]))
    mask = Mask(num_targets, max_attn_len, contextual_seq_len)
    problem = Problem(N, alpha, delta_q, k, v, seq_offsets, mask, enable_tma=enable_tma)
    return _forward(problem, delta)


@_cached.register_fake
def _(N: int, alpha: float, delta_q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return v.new_empty((delta_q.shape[0], v.shape[1], v.shape[2]))


def triton_cached_hstu_mha(
    N: int,
    alpha: float,
    delta_q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    enable_tma: bool = False,
) -> Tensor:
    """``ops.hstu_attention.delta_hstu_mha`` by Triton; the arguments are described there."""
    delta_q, k, v = (switch_to_contiguous_if_needed(t) for t in (delta_q, k, v))
    targets = None if num_targets is None else num_targets.contiguous()
    result: Tensor = _cached(
        N, alpha, delta_q, k, v, seq_offsets.contiguous(), targets, max_attn_len,
        contextual_seq_len, enable_tma,
    )  # fmt: skip
    return result
