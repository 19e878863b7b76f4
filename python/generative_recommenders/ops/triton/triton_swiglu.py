"""``silu(x w_gateᵀ) * (x w_upᵀ)`` in Triton: both products of a tile in one kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from generative_recommenders.common import cdiv, switch_to_contiguous_if_needed
from generative_recommenders.ops.triton import _launch
from generative_recommenders.ops.triton._op import kernel_op
from generative_recommenders.ops.triton._tile import dot


@triton.jit
def _swiglu(
    X, G, U, Out, M, N, K, stride_x, stride_g, stride_u, stride_o, UPCAST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inner = (k < K)[None, :]
        at_x = m[:, None].to(tl.int64) * stride_x + k[None, :]
        x = tl.load(X + at_x, mask=(m < M)[:, None] & inner, other=0.0)
        at = n[:, None].to(tl.int64)
        g = tl.load(G + at * stride_g + k[None, :], mask=(n < N)[:, None] & inner, other=0.0)
        u = tl.load(U + at * stride_u + k[None, :], mask=(n < N)[:, None] & inner, other=0.0)
        gate += dot(x, tl.trans(g), UPCAST, PRECISION)
        up += dot(x, tl.trans(u), UPCAST, PRECISION)
    out = Out + m[:, None].to(tl.int64) * stride_o + n[None, :]
    y = (gate * tl.sigmoid(gate) * up).to(Out.dtype.element_ty)
    tl.store(out, y, mask=(m < M)[:, None] & (n < N)[None, :])


@kernel_op("triton_swiglu")
def _op(x: Tensor, w_gate: Tensor, w_up: Tensor) -> Tensor:
    _launch.on_gpu(x, "x")
    x, w_gate, w_up = (switch_to_contiguous_if_needed(t) for t in (x, w_gate, w_up))
    (m, k), n = x.shape, w_gate.shape[0]
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if out.numel():
        block = 32 if _launch.INTERPRETED else 64
        _swiglu[(cdiv(m, block), cdiv(n, block))](
            x, w_gate, w_up, out, m, n, k, x.stride(0), w_gate.stride(0), w_up.stride(0),
            out.stride(0), UPCAST=_launch.upcast(x), PRECISION=_launch.precision(x),
            BLOCK_M=block, BLOCK_N=block, BLOCK_K=32,
        )  # fmt: skip
    return out


@_op.register_fake
def _(x: Tensor, w_gate: Tensor, w_up: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], w_gate.shape[0]))


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w_gate: Tensor, w_up: Tensor) -> Tensor:
        ctx.save_for_backward(x, w_gate, w_up)
        result: Tensor = _op(x, w_gate, w_up)
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, w_gate, w_up = ctx.saved_tensors
        gate, up = torch.mm(x, w_gate.t()).float(), torch.mm(x, w_up.t()).float()
        s = torch.sigmoid(gate)
        d_gate = (dy * up * s * (1.0 + gate * (1.0 - s))).to(x.dtype)
        d_up = (dy * gate * s).to(x.dtype)
        dx = torch.mm(d_gate, w_gate) + torch.mm(d_up, w_up)
        return dx, torch.mm(d_gate.t(), x), torch.mm(d_up.t(), x)


def triton_swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor) -> Tensor:
    """``silu(x w_gateᵀ) * (x w_upᵀ)``: (rows, k) and twice (n, k) -> (rows, n); its gradients are
    products by PyTorch."""
    result: Tensor = _Swiglu.apply(x, w_gate, w_up)
    return result
