"""What completes a torch op that a C++ library defines for CUDA: CPU, fake kernel, autograd.

The functions of an op take one value whose fields are the arguments of its schema, by name; no
position is written down anywhere.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

Gradients: TypeAlias = tuple[Tensor | None, ...]
Rule: TypeAlias = Callable[..., Gradients]
_unpack_dual: Any = forward_ad.unpack_dual
_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # what torch.library's own kernels use


def _pick(places: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What stands at these places, as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[i] for i in places)


class Op:
    """One op with autograd: call it with the arguments of its schema, in their order.

    Args:
        op: the overload.
        rule: its gradient, see ``op`` below.
        gradients: the arguments that it may give a gradient to.
    """

    def __init__(self, op: Any, rule: Rule, gradients: tuple[str, ...]) -> None:
        self.op, self.rule = op, rule
        self.in_eager = op._op  # without a frame of Python
        arguments = op._schema.arguments
        names = [a.name for a in arguments]
        self.arguments: Any = namedtuple(op._opname, names)  # type: ignore[misc]
        tensors = [i for i, a in enumerate(arguments) if "Tensor" in str(a.type)]
        others = [i for i in range(len(names)) if i not in tensors]
        self.tensors, self.others = _pick(tensors), _pick(others)
        self.in_order = _pick([(tensors + others).index(i) for i in range(len(names))])
        self.leaves = _pick([names.index(name) for name in gradients])

    def save(self, ctx: Any, inputs: Sequence[Any]) -> None:
        ctx.op, ctx.others = self, self.others(inputs)
        ctx.save_for_backward(*self.tensors(inputs))

    def gradient(self, ctx: Any, needed: tuple[bool, ...], grads: tuple[Tensor, ...]) -> Gradients:
        inputs = self.arguments._make(self.in_order(ctx.saved_tensors + ctx.others))
        return self.rule(inputs, needed, *grads)

    def __call__(self, *inputs: Any) -> Any:
        compiled, forward_mode = _is_compiling(), forward_ad._current_level >= 0
        if compiled and forward_mode:
            self.refuse_forward_mode()
        if compiled or forward_mode or peek_interpreter_stack() is not None:
            return self.op(*inputs)  # which PyTorch brings to on_autograd, if it must
        return self.eager(inputs)

    def on_autograd(self, *inputs: Any) -> Any:
        """The op's kernel for autograd, at every level of torch.func's transforms."""
        if forward_ad._current_level >= 0:
            for x in self.tensors(inputs):
                if x is not None and _unpack_dual(x).tangent is not None:
                    self.refuse_forward_mode()
        with enable_single_level_autograd_function():
            return self.eager(inputs)

    def eager(self, inputs: tuple[Any, ...]) -> Any:
        """The op and its autograd, which is not entered where nothing requires a gradient."""
        if _is_grad_enabled():
            leaves = self.leaves(inputs)
            for x in leaves:
                if x is not None and x.requires_grad:
                    return _apply(*leaves, self, inputs)
        with _BelowAutograd():
            return self.in_eager(*inputs)

    def refuse_forward_mode(self) -> NoReturn:
        """PyTorch would take the derivative, for which there is no rule, for zero."""
        raise NotImplementedError(
            f"{self.op.namespace}: {self.op._opname} has no forward-mode derivative "
            "(torch.func.jvp, jacfwd, forward_ad); use torch.func.vjp, grad or jacrev"
        )


class _Eager(torch.autograd.Function):
    """Autograd sees the tensors that may have a gradient; the op's inputs come as one value.
    torch.library.register_autograd takes four times the host time: it fills in defaults of the
    schema at every call, quadratic in the number of arguments."""

    @staticmethod
    def forward(ctx: Any, *leaves: Any) -> Any:
        *_, op, inputs = leaves
        op.save(ctx, inputs)
        with _BelowAutograd():
            return op.op(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Gradients:
        return (*ctx.op.gradient(ctx, ctx.needs_input_grad, grads), None, None)


# Function.apply without what it does for transforms, which end in Op.on_autograd.
_apply: Any = super(torch.autograd.Function, _Eager).apply


def op(
    package: str,
    name: str,
    *,
    cpu: Callable[[Any], Any] | None = None,
    fake: Callable[[Any], Any],
    backward: Rule,
    gradients: tuple[str, ...],
) -> Op:
    """Completes ``torch.ops.<package>.<name>``, which a library has defined.

    Args:
        package: its namespace.
        name: of the op.
        cpu: the result on CPU tensors, from the arguments as one value; None: the library has it.
        fake: the result's shapes, dtypes and strides, for torch.compile and torch.export.
        backward: ``(arguments, needed, *gradients of the results) -> gradients``, one for each
            name in ``gradients``, as ``needed`` says of each whether it needs one.
        gradients: the arguments that may have one.
    """
    overload = getattr(getattr(torch.ops, package), name).default
    made = Op(overload, backward, gradients)
    qualified = f"{package}::{name}"

    if cpu is not None:
        of_cpu = cpu

        def on_cpu(*inputs: Any) -> Any:
            # The op is not autocast's: what it is made of here is not either.
            if torch.is_autocast_enabled("cpu"):
                with torch.autocast("cpu", enabled=False):
                    return of_cpu(made.arguments(*inputs))
            return of_cpu(made.arguments(*inputs))

        torch.library.impl(qualified, "cpu", on_cpu)

    def without_data(*inputs: Any) -> Any:
        # One meta tensor among real ones brings a call here, which would return no result.
        for x in inputs:
            if type(x) is Tensor and not x.is_meta:
                raise RuntimeError(f"{package}: {name}: a tensor on {x.device} and one on meta")
        return fake(made.arguments(*inputs))

    torch.library.register_fake(qualified, without_data)
    torch.library.impl(qualified, "Autograd", made.on_autograd)
    return made


def no_gradient(message: str) -> Rule:
    """The ``backward`` of an op that has none."""

    def refuse(arguments: Any, needed: tuple[bool, ...], *grads: Tensor) -> Gradients:
        raise NotImplementedError(message)

    return refuse
