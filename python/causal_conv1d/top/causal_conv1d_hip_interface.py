"""The names of the HIP backend of causal-conv1d, with all arguments of ``causal_conv1d_fn``.

They run on whatever GPU the installed PyTorch has, and on the CPU.
"""

from __future__ import annotations

import torch
from causal_conv1d.causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_ref
from torch import Tensor

__all__ = [
    "CausalConv1dHIPFn",
    "causal_conv1d_hip_fn",
    "causal_conv1d_hip_ref",
    "test_causal_conv1d_hip",
]

causal_conv1d_hip_fn = causal_conv1d_fn
causal_conv1d_hip_ref = causal_conv1d_ref


class CausalConv1dHIPFn:
    """``apply(x, weight, bias, activation)``, differentiable."""

    @staticmethod
    def apply(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        out: Tensor = causal_conv1d_fn(x, weight, bias, activation=activation)
        return out


def test_causal_conv1d_hip() -> bool:
    """Compares forward and backward with the reference, for every width, on the GPU or the CPU.

    Returns:
        True. Prints a line a case.

    Raises:
        AssertionError: a result is wrong.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    for width in range(2, 9):
        for activation in (None, "silu"):
            tensors = random(2, 64, 259), random(64, width), random(64)
            out = causal_conv1d_hip_fn(*tensors, activation=activation)
            x, weight, bias = (t.detach().double().requires_grad_() for t in tensors)
            expected = causal_conv1d_hip_ref(x, weight, bias, activation=activation)
            worst = (out - expected).abs().max().item()
            torch.testing.assert_close(out.double(), expected, rtol=3e-4, atol=1e-3)
            grads = torch.autograd.grad(out.square().sum(), tensors)
            wanted = torch.autograd.grad(expected.square().sum(), (x, weight, bias))
            for grad, right in zip(grads, wanted, strict=True):
                torch.testing.assert_close(grad.double(), right, rtol=1e-3, atol=1e-3)
            print(f"width {width}, {activation}, {device}: largest difference {worst:.1e}, right")
    return True


test_causal_conv1d_hip.__test__ = False  # type: ignore[attr-defined]  # not pytest's to collect
