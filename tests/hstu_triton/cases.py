"""What the tests of these ops share: where kernels run, random jagged inputs, comparisons."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.common import gpus
from tests.common.poison import poison

# Without a GPU kernels run in Triton's interpreter; this must be set before Triton is imported.
INTERPRETED = bool(gpus.why_none()) or os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")

from generative_recommenders.common import HammerKernel  # noqa: E402

# What a result may differ from the same in PyTorch: rounding to the type, in a few steps.
TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3e-2, 3e-2),
}


def starts_of(lengths: list[int], device: str = DEVICE) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)


def results(
    call: Callable[..., Any], inputs: list[Tensor], differentiable: bool = True
) -> list[Tensor]:
    """The outputs of ``call`` and the gradients of its inputs, for one random gradient."""
    poison(DEVICE)
    leaves = [t.detach().clone().requires_grad_(differentiable) for t in inputs]
    out = call(*leaves)
    outputs = [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]
    if not differentiable:
        return outputs
    grads = [drawn(*t.shape, dtype=t.dtype, seed=7) for t in outputs]
    torch.autograd.backward(outputs, grads)
    return [t.detach() for t in outputs] + [t.grad for t in leaves if t.grad is not None]


def assert_equal_results(
    call: Callable[..., Any],
    inputs: list[Tensor],
    kernel: HammerKernel = HammerKernel.TRITON,
    differentiable: bool = True,
    scale: float = 1.0,
) -> None:
    """``call(kernel, *inputs)`` gives with ``kernel`` what it gives with PYTORCH, gradients too."""

    def of(taken: HammerKernel) -> list[Tensor]:
        return results(lambda *leaves: call(taken, *leaves), inputs, differentiable)

    expected, got = of(HammerKernel.PYTORCH), of(kernel)
    assert len(expected) == len(got)
    for i, (e, g) in enumerate(zip(expected, got, strict=True)):
        assert e.shape == g.shape and e.dtype == g.dtype, i
        rtol, atol = TOLERANCE[e.dtype]
        size = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(
            g, e, rtol=rtol * scale, atol=atol * scale * size, msg=lambda m, i=i: f"{i}: {m}"
        )
