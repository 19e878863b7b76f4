"""HSTU attention whose forward and backward may be kernels of different kinds: nothing but the
inputs is saved between them."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import cuda
from generative_recommenders.ops.problem import Problem
from generative_recommenders.ops.table import nearest, rounded

_HAS_TRITON = importlib.util.find_spec("triton") is not None


class Kinds(NamedTuple):
    """Which kernels compute the attention, and whether the forward reads by descriptors."""

    forward: HammerKernel
    backward: HammerKernel
    enable_tma: bool = False


def _forward(kernel: HammerKernel, p: Problem) -> Tensor:
    if kernel is HammerKernel.CUDA:
        return cuda.forward(p)
    if kernel is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled

        return compiled.forward(p)
    from generative_recommenders.ops.triton.triton_hstu_attention import triton_hstu_attention_fwd

    out: Tensor = triton_hstu_attention_fwd(*p.forward_schema())
    return out


def _backward(kernel: HammerKernel, p: Problem, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if kernel is HammerKernel.CUDA:
        return cuda.backward(p, dout)
    if kernel is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled

        return compiled.backward(p, dout)
    from generative_recommenders.ops.triton.triton_hstu_attention import triton_hstu_attention_bwd

    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (p.q, p.k, p.v))
    triton_hstu_attention_bwd(*p.backward_schema(dout, dq, dk, dv))
    return dq, dk, dv


def _compile_ahead(ctx: Any, p: Problem, forward: bool) -> None:
    """Kernels that this process has not run are compiled at once, not each when it is launched."""
    if any(ctx.needs_input_grad):
        from generative_recommenders.ops.triton.triton_hstu_attention import compile_ahead

        compile_ahead(p, forward)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, problem: Problem, kinds: Kinds
    ) -> Tensor:
        problem = problem._replace(q=q, k=k, v=v)
        if HammerKernel.CUDA in kinds[:2]:
            problem = cuda.prepared(problem)
        ctx.save_for_backward(*problem.tensors())
        none = (None,) * 9
        ctx.problem, ctx.kernel = problem.with_tensors(none), kinds.backward
        if kinds.backward is HammerKernel.TRITON and not torch.compiler.is_compiling():
            _compile_ahead(ctx, problem, kinds.forward is HammerKernel.TRITON)
        return _forward(kinds.forward, problem)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        problem = ctx.problem.with_tensors(ctx.saved_tensors)
        return (*_backward(ctx.kernel, problem, dout), None, None)


def attention(problem: Problem, kinds: Kinds) -> Tensor:
    """(rows, heads, dim_v), with gradients for q, k and v."""
    problem = problem._replace(enable_tma=kinds.enable_tma)
    apply: Any = _Attention.apply
    out: Tensor = apply(problem.q, problem.k, problem.v, problem, kinds)
    return out


def _share(values: dict[str, Any], p: Problem, compiled: bool) -> dict[str, Any]:
    """Of the kinds that can compute this here."""
    if not _HAS_TRITON:
        without = ("TMA",) if compiled else ("TRITON", "TMA")
        values = {name: share for name, share in values.items() if name not in without}
    # A window and contextual rows are no masks of hstu_attn's own: it asks of every pair of blocks
    # what is seen there.
    asks = bool(p.mask.max_attn_len or p.mask.contextual_seq_len) and (_HAS_TRITON or compiled)
    if not cuda.INSTALLED or asks or cuda.why_not(p) is not None:
        values = {name: share for name, share in values.items() if name != "CUDA"}
    return values


def choose(p: Problem, gpu: str, major: int, compiled: bool = False) -> Kinds:
    """For each direction the kind that the table measured fastest for this GPU and shape, of those
    that are installed and can compute it. What TRITON would compile is TRITON_CC where the wheel
    has it (``compiled``), but for descriptors."""
    dim = rounded(max(p.q.shape[2], p.v.shape[2]))
    taken = []
    for op in ("kind forward", "kind backward"):
        row = nearest(op, gpu, major, dim, rounded(p.max_seq_len), p.general)
        shares = _share(row.values, p, compiled)
        taken.append(max(shares, key=shares.__getitem__) if shares else "TRITON")
    of_name = {"CUDA": HammerKernel.CUDA, "TMA": HammerKernel.TRITON}
    triton = HammerKernel.TRITON_CC if compiled else HammerKernel.TRITON
    kernels = [of_name.get(name, triton) for name in taken]
    return Kinds(kernels[0], kernels[1], taken[0] == "TMA")


def fastest(p: Problem, compiled: bool) -> Kinds:
    """What AUTO takes on the GPU of ``p``; ``compiled``: TRITON_CC has its kernels."""
    index = p.q.device.index
    major, _ = torch.cuda.get_device_capability(index)
    return choose(p, torch.cuda.get_device_name(index), major, compiled)
