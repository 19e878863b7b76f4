"""What an eager call of the attention costs the host: ``hstu_attention.py --host``."""

from __future__ import annotations

import torch
from harness import Call, Ceilings, Table, call_us
from hstu_attn import hstu_attn_varlen_func

LENGTH, HEADS, HEAD_DIM = 2048, 4, 64  # a sequence whose kernels end before the host does
COLUMNS = {"call": "<48", "host us": ">8.1f", "us": ">8.1f"}
TITLE = (
    f"B1 L{LENGTH} H{HEADS} D{HEAD_DIM} bf16 causal, eager; host us: until 100 calls return, "
    "us: until 500 calls in a row are done, both a call"
)


def calls() -> dict[str, Call]:
    """By name: first the floors, what PyTorch takes for a call that does nothing."""
    shape = (LENGTH, HEADS, HEAD_DIM)
    q, k, v, grad = (
        torch.empty(shape, device="cuda", dtype=torch.bfloat16).uniform_(-1, 1) for _ in range(4)
    )
    cu_seqlens = torch.tensor([0, LENGTH], device="cuda", dtype=torch.int32)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    empty_op = torch.ops.hstu_attn.mask_rows.default

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return hstu_attn_varlen_func(
            q, k, v, cu_seqlens, cu_seqlens, LENGTH, LENGTH, window_size=(-1, 0)
        )

    def without_gradients() -> torch.Tensor:
        with torch.no_grad():
            return attention(q, k, v)

    return {
        "floor: an op that does nothing": lambda: empty_op(0, -1, 0, 0, 0, 1),
        "floor: a kernel of PyTorch, x.neg()": q.neg,
        "floor: forward + backward of x.neg()": lambda: torch.autograd.grad(
            leaves[0].neg(), leaves[:1], grad
        ),
        "forward under no_grad": without_gradients,
        "forward + backward": lambda: torch.autograd.grad(attention(*leaves), leaves, grad),
    }


def measure(ceilings: Ceilings, files: dict[str, str]) -> None:
    table = Table(ceilings, TITLE, COLUMNS, files)
    for name, call in calls().items():
        table.row(name, call_us(call, 100, wait=False), call_us(call, 500, wait=True))
