"""Ops whose kernels are Triton's, as torch knows them.

``torch.library.custom_op`` makes the same; but its first call imports PyTorch's compiler, which
takes longer than Triton does to compile the kernels of attention.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

PACKAGE = "generative_recommenders"
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # what torch.library's own kernels use


def _undisturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which torch.compile, where it is in use, leaves alone."""
    left_alone = None

    def run(*inputs: Any) -> Any:
        nonlocal left_alone
        if left_alone is None:
            if "torch._dynamo" not in sys.modules:
                return function(*inputs)
            import torch._dynamo

            left_alone = torch._dynamo.disable(function)
        return left_alone(*inputs)

    return run


class _Underivable(torch.autograd.Function):
    """An op of which nobody has said what its gradient is."""

    @staticmethod
    def forward(ctx: Any, op: KernelOp, *inputs: Any) -> Any:
        ctx.op = op
        return op.below_autograd(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{PACKAGE}: {ctx.op.name} has no gradient of its own")


class KernelOp:
    """One op; call it as the function that it is made of.

    Args:
        name: ``torch.ops.generative_recommenders.<name>``.
        function: computes it; its annotations are the schema.
        written: the arguments that it writes to.
    """

    def __init__(self, name: str, function: Callable[..., Any], written: Iterable[str]) -> None:
        self.name, self.qualified = name, f"{PACKAGE}::{name}"
        self.__doc__ = function.__doc__
        schema = torch.library.infer_schema(function, mutates_args=written)
        torch.library.define(self.qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(self.qualified, "CompositeExplicitAutograd", _undisturbed(function))
        torch.library.impl(self.qualified, "Autograd", self.on_autograd)
        self.op = getattr(getattr(torch.ops, PACKAGE), name).default
        arguments = enumerate(self.op._schema.arguments)
        self.written = [i for i, a in arguments if a.alias_info and a.alias_info.is_write]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.op(*inputs, **named)

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Shapes, dtypes and strides of the results, for torch.compile and torch.export."""
        torch.library.register_fake(self.qualified, fake)
        return fake

    def on_autograd(self, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return _Underivable.apply(self, *inputs)
        return self.below_autograd(inputs)

    def below_autograd(self, inputs: tuple[Any, ...]) -> Any:
        for i in self.written:
            torch.autograd.graph.increment_version(inputs[i])
        with _BelowAutograd():
            return self.op(*inputs)


def kernel_op(name: str, written: Iterable[str] = ()) -> Callable[[Callable[..., Any]], KernelOp]:
    """Makes a function an op, see ``KernelOp``."""
    return lambda function: KernelOp(name, function, written)
