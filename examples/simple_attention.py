"""One step of HSTU attention over a batch of users with histories of different lengths.

Runs on a GPU when PyTorch sees one that is served, else on the CPU with the reference:

    python examples/simple_attention.py
"""

from __future__ import annotations

import torch
from hstu_attn import hstu_attn_varlen_func

HEADS, DIM = 4, 64
HISTORIES = [120, 37, 300]  # items each user has seen
TARGETS = [8, 8, 8]  # candidates to score for each user


def main() -> None:
    gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    device = "cuda" if gpu else "cpu"
    torch.manual_seed(0)

    # The sequences lie one behind the other, each one [history | targets].
    lengths = torch.tensor(HISTORIES) + torch.tensor(TARGETS)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
    num_targets = torch.tensor(TARGETS, dtype=torch.int32, device=device)
    total, longest = int(lengths.sum()), int(lengths.max())
    q, k, v = (
        torch.randn(total, HEADS, DIM, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )

    # Causal: an item sees what came before it; a target sees the history and itself.
    out = hstu_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        num_targets=num_targets,
        window_size=(-1, 0),
        alpha=DIM**-0.5,
    )
    out.float().square().mean().backward()

    print(f"device: {device}")
    print(f"q, k, v: {tuple(q.shape)} for {len(HISTORIES)} users -> out: {tuple(out.shape)}")
    print(f"mean |out| = {out.float().abs().mean().item():.5f}")
    for name, x in (("dq", q), ("dk", k), ("dv", v)):
        assert x.grad is not None and torch.isfinite(x.grad).all()
        print(f"max |{name}| = {x.grad.abs().max().item():.3e}")


if __name__ == "__main__":
    main()
