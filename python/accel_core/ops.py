"""What completes a torch op that a C++ library defines for CUDA: CPU, fake kernel, autograd.

The functions of an op take one value whose fields are the arguments of its schema, by name; no
position is written down anywhere.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

Rule: TypeAlias = Callable[..., Mapping[str, Tensor | None]]
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # what torch.library's own kernels use


def _transformed() -> bool:
    """Whether a transform of torch.func or forward-mode AD must see the call."""
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None


class Op:
    """One op with autograd: call it with the arguments of its schema, in their order.

    Args:
        op: the overload.
        rule: its gradient, see ``op`` below.
        gradients: the arguments that it may give a gradient to.
    """

    def __init__(self, op: Any, rule: Rule, gradients: tuple[str, ...]) -> None:
        schema = op._schema
        self.op, self.rule = op, rule
        self.arguments = _arguments(op)
        names = self.arguments._fields
        self.gradients = {name: names.index(name) for name in gradients}
        self.tensors = [i for i, a in enumerate(schema.arguments) if "Tensor" in str(a.type)]

    def save(self, ctx: Any, inputs: tuple[Any, ...]) -> None:
        rest = list(inputs)
        ctx.save_for_backward(*[inputs[i] for i in self.tensors])
        for i in self.tensors:
            rest[i] = None
        ctx.rest = rest

    def gradient(self, ctx: Any, needed: Sequence[bool], *grads: Tensor) -> list[Tensor | None]:
        """What ``rule`` gives to each of ``gradients``; ``needed``: which of them want one."""
        inputs = list(ctx.rest)
        for i, tensor in zip(self.tensors, ctx.saved_tensors, strict=True):
            inputs[i] = tensor
        wanted = {name for name, need in zip(self.gradients, needed, strict=True) if need}
        found = self.rule(self.arguments(*inputs), wanted, *grads)
        return [found.get(name) for name in self.gradients]

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self.save(ctx, inputs)

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        places = self.gradients.values()
        result: list[Tensor | None] = [None] * len(ctx.rest)
        needed = [ctx.needs_input_grad[i] for i in places]
        for i, grad in zip(places, self.gradient(ctx, needed, *grads), strict=True):
            result[i] = grad
        return tuple(result)

    def __call__(self, *inputs: Any) -> Any:
        """Calls the op; in eager mode by way of _Eager where something requires a gradient, else
        past the autograd that register_autograd wrote in Python."""
        if torch.compiler.is_compiling():
            if forward_ad._current_level >= 0:
                _refuse_forward_mode(self)
            return self.op(*inputs)
        if _transformed():
            return _Transformed.apply(*inputs, self)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            leaves = [inputs[i] for i in self.gradients.values()]
            for x in leaves:
                if x is not None and x.requires_grad:
                    return _apply(*leaves, self, inputs)
        with _BelowAutograd():
            return self.op(*inputs)


class _Eager(torch.autograd.Function):
    """What register_autograd makes of setup_context and backward, for a quarter of the host time:
    that fills in defaults of the schema at every call, quadratic in the number of arguments. Here
    autograd sees the tensors that may have a gradient; the op's inputs come as one value."""

    @staticmethod
    def forward(ctx: Any, *leaves: Any) -> Any:
        *_, ctx.op, inputs = leaves
        with _BelowAutograd():
            output = ctx.op.op(*inputs)
        ctx.op.save(ctx, inputs)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*ctx.op.gradient(ctx, ctx.needs_input_grad[:-2], *grads), None, None)


# Function.apply without what it does for transforms, which do not come here.
_apply: Any = super(torch.autograd.Function, _Eager).apply


class _Transformed(torch.autograd.Function):
    """The same in the form that torch.func asks for, which costs more host time."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        *arguments, op = inputs
        return op.op(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *arguments, op = inputs
        op.setup_context(ctx, arguments, output)
        ctx.op = op

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*ctx.op.backward(ctx, *grads), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode(ctx.op)


def _refuse_forward_mode(op: Op) -> NoReturn:
    """torch.library has no rule for it, and would take the derivative for zero."""
    raise NotImplementedError(
        f"{op.op.namespace}: {op.op._opname} has no forward-mode derivative (torch.func.jvp, "
        "jacfwd, forward_ad); use torch.func.vjp, grad or jacrev"
    )


def _arguments(op: Any) -> Any:
    """The type of an op's arguments as one value."""
    return namedtuple(op._schema.name.split("::")[1], [a.name for a in op._schema.arguments])


def op(
    package: str,
    name: str,
    *,
    cpu: Callable[[Any], Any],
    fake: Callable[[Any], Any],
    backward: Rule,
    gradients: tuple[str, ...],
) -> Op:
    """Completes ``torch.ops.<package>.<name>``, which a library has defined.

    Args:
        package: its namespace.
        name: of the op.
        cpu: the result on CPU tensors, from the arguments as one value.
        fake: the result's shapes, dtypes and strides, for torch.compile and torch.export.
        backward: ``(arguments, wanted, *gradients of the results) -> {argument: gradient}``;
            ``wanted`` are the names in ``gradients`` that need one.
        gradients: the arguments that may have one.
    """
    overload = getattr(getattr(torch.ops, package), name).default
    made = Op(overload, backward, gradients)
    qualified = f"{package}::{name}"

    def on_cpu(*inputs: Any) -> Any:
        # The op is not autocast's: what it is made of here is not either.
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return cpu(made.arguments(*inputs))
        return cpu(made.arguments(*inputs))

    torch.library.impl(qualified, "cpu", on_cpu)

    def without_data(*inputs: Any) -> Any:
        # One meta tensor among real ones brings a call here, which would return no result.
        for x in inputs:
            if type(x) is Tensor and not x.is_meta:
                raise RuntimeError(f"{package}: {name}: a tensor on {x.device} and one on meta")
        return fake(made.arguments(*inputs))

    torch.library.register_fake(qualified, without_data)
    torch.library.register_autograd(qualified, made.backward, setup_context=made.setup_context)
    return made


def no_gradient(message: str) -> Rule:
    """The ``backward`` of an op that has none."""

    def refuse(arguments: Any, wanted: set[str], *grads: Tensor) -> Mapping[str, Tensor | None]:
        raise NotImplementedError(message)

    return refuse
