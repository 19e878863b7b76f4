"""HSTU attention, and the fused layer around it, by the kernel of one's choice.

    python examples/triton_attention.py [--kernel TRITON_CC]

Without --kernel: TRITON where there is a GPU and Triton, else PYTORCH. TRITON_CC needs a GPU and no
Triton: its kernels were compiled when the wheel was built.
"""

from __future__ import annotations

import argparse
import importlib.util

import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from generative_recommenders.ops.hstu_compute import hstu_preprocess_and_attention

HEADS, SEQ_LEN, DIM, EMBEDDING = 8, 128, 64, 512


def attention(kernel: HammerKernel, device: str, dtype: torch.dtype) -> torch.Tensor:
    q, k, v = torch.randn(3, SEQ_LEN, HEADS, DIM, device=device, dtype=dtype)
    return hstu_mha(
        max_seq_len=SEQ_LEN,
        alpha=1.0 / DIM**0.5,
        q=q,
        k=k,
        v=v,
        seq_offsets=torch.tensor([0, SEQ_LEN], device=device),
        kernel=kernel,
        enable_tma=True,  # where the GPU has descriptors; results do not change
    )


def fused(kernel: HammerKernel, device: str, dtype: torch.dtype) -> torch.Tensor:
    columns = 4 * HEADS * DIM  # u, v, q, k
    _, out, _, _ = hstu_preprocess_and_attention(
        x=torch.randn(SEQ_LEN, EMBEDDING, device=device, dtype=dtype),
        norm_weight=torch.ones(EMBEDDING, device=device, dtype=dtype),
        norm_bias=torch.zeros(EMBEDDING, device=device, dtype=dtype),
        norm_eps=1e-6,
        num_heads=HEADS,
        attn_dim=DIM,
        hidden_dim=DIM,
        uvqk_weight=torch.randn(EMBEDDING, columns, device=device, dtype=dtype) / EMBEDDING**0.5,
        uvqk_bias=torch.zeros(columns, device=device, dtype=dtype),
        max_seq_len=SEQ_LEN,
        seq_offsets=torch.tensor([0, SEQ_LEN], device=device),
        attn_alpha=1.0 / DIM**0.5,
        causal=True,
        num_targets=None,
        max_attn_len=0,
        contextual_seq_len=0,
        recompute_uvqk_in_backward=False,
        recompute_normed_x_in_backward=False,
        sort_by_length=False,
        kernel=kernel,
    )
    return out


def main() -> None:
    gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    triton = gpu and importlib.util.find_spec("triton") is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = HammerKernel.TRITON if triton else HammerKernel.PYTORCH
    parser.add_argument("--kernel", choices=[k.name for k in HammerKernel], default=usual.name)
    kernel = HammerKernel[parser.parse_args().kernel]
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    print("device:", device)
    for function in (attention, fused):
        out = function(kernel, device, dtype)
        print(f"{function.__name__} by {kernel.name} on {device}: {tuple(out.shape)}")


if __name__ == "__main__":
    main()
