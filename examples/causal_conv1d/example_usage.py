"""Four examples of the causal convolution: basic use, precision, speed, and every width.

Runs on an NVIDIA or AMD GPU when PyTorch sees one, else on the CPU with the reference:

    python examples/causal_conv1d/example_usage.py
"""

from __future__ import annotations

import time

import torch
from causal_conv1d_hip_interface import causal_conv1d_hip_fn, causal_conv1d_hip_ref

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensors(width: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    x = torch.randn(2, 64, 512, device=DEVICE, dtype=dtype)
    return x, torch.randn(64, width, device=DEVICE), torch.randn(64, device=DEVICE)


def basic_use() -> None:
    x, weight, bias = tensors(4)
    out = causal_conv1d_hip_fn(x, weight, bias, activation="silu")
    print(f"1. x {tuple(x.shape)} on {DEVICE} -> out {tuple(out.shape)}, {out.dtype}")


def precision() -> None:
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 5e-2)):
        x, weight, bias = tensors(4, dtype)
        out = causal_conv1d_hip_fn(x, weight, bias, activation="silu").double()
        right = causal_conv1d_hip_ref(x.double(), weight, bias, activation="silu")
        error = (out - right).abs().max().item()
        assert error < allowed
        print(f"2. {dtype}: largest difference from float64 {error:.1e}")


def seconds(call: object, repeats: int = 20) -> float:
    def run() -> None:
        for _ in range(repeats):
            call()  # type: ignore[operator]
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    run()
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) / repeats


def speed() -> None:
    x, weight, bias = tensors(4)
    ours = seconds(lambda: causal_conv1d_hip_fn(x, weight, bias, activation="silu"))
    plain = seconds(lambda: causal_conv1d_hip_ref(x, weight, bias, activation="silu"))
    print(f"3. {ours * 1e6:.0f} us a call, the reference {plain * 1e6:.0f} us")


def every_width() -> None:
    for width in range(2, 9):
        leaves = [t.requires_grad_() for t in tensors(width)]
        causal_conv1d_hip_fn(*leaves, activation="silu").square().mean().backward()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)
    print("4. widths 2 to 8, forward and backward")


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"device: {DEVICE}")
    basic_use()
    precision()
    speed()
    every_width()
