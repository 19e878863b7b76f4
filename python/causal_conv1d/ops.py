"""Loads libcausal_conv1d.so and completes its torch ops in Python.

The library defines ``torch.ops.causal_conv1d.{fwd, bwd, update, packed}`` and implements them for
GPUs. Here they get their CPU implementation (ref.py), fake kernels and autograd. ``fwd`` and
``bwd`` mutate nothing; ``update`` and ``packed`` write state lines and have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causal_conv1d import layout, ref
from causal_conv1d._core import library
from causal_conv1d._core.ops import no_gradient, op

PACKAGE = "causal_conv1d"
LIBRARY = Path(__file__).with_name("libcausal_conv1d.so")
MINIMUM_TORCH = (2, 10)

library.load(PACKAGE, LIBRARY, MINIMUM_TORCH, wheel="causal-conv1d-hip")


def build_info() -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda."""
    return library.build_info(PACKAGE)


def _last(a: Any) -> bool:
    return a.cu_seqlens is not None or layout.channel_last(a.x)


def _sequences(a: Any) -> int:
    return int(a.x.shape[0]) if a.cu_seqlens is None else a.cu_seqlens.shape[0] - 1


def _forward(a: Any) -> tuple[Tensor, Tensor]:
    out, states = ref.forward(*(*a[:6], a.silu))
    final = layout.laid_out(states, True) if a.return_final_states else a.x.new_empty(0)
    return layout.laid_out(out, _last(a)), final


def _fake_states(a: Any, wanted: bool) -> Tensor:
    if not wanted:
        return a.x.new_empty(0)  # type: ignore[no-any-return]
    return layout.empty(a.x, (_sequences(a), a.x.shape[1], a.weight.shape[1] - 1), True)


def _fake_forward(a: Any) -> tuple[Tensor, Tensor]:
    return layout.empty(a.x, tuple(a.x.shape), _last(a)), _fake_states(a, a.return_final_states)


def _backward(a: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dinitial = ref.backward(*(a.dout, a.dfinal_states, *a[1:7], a.silu))
    return (
        layout.laid_out(dx, _last(a)),
        dweight.contiguous(),
        dbias.new_empty(0) if a.bias is None else dbias.contiguous(),
        layout.laid_out(dinitial, True) if a.return_dinitial_states else a.x.new_empty(0),
    )


def _fake_backward(a: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        layout.empty(a.x, tuple(a.x.shape), _last(a)),
        a.weight.new_empty(a.weight.shape),
        a.weight.new_empty(0 if a.bias is None else a.x.shape[1]),
        _fake_states(a, a.return_dinitial_states),
    )


def _gradients(
    a: Any, needed: tuple[bool, ...], dout: Tensor, dfinal: Tensor
) -> tuple[Tensor | None, ...]:
    dfinal_states = dfinal if a.return_final_states else None
    dx, dweight, dbias, dinitial = bwd(dout, *a[:6], dfinal_states, needed[3], a.silu)
    return dx, dweight, None if a.bias is None else dbias, dinitial if needed[3] else None


_TENSORS = ("x", "weight", "bias", "initial_states")

fwd = op(PACKAGE, "fwd", cpu=_forward, fake=_fake_forward, backward=_gradients, gradients=_TENSORS)
bwd = op(
    PACKAGE,
    "bwd",
    cpu=_backward,
    fake=_fake_backward,
    backward=no_gradient("causal_conv1d: the convolution has no second derivative"),
    gradients=("dout", *_TENSORS, "dfinal_states"),
)


# ---- Ops that write state lines

_FRAGMENT: Any = torch.library.Library(PACKAGE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _writing(name: str, cpu: Callable[..., Tensor], last: Callable[[Tensor], bool]) -> Any:
    """An op whose one result is laid out as ``last`` says of x; gradients end at it."""
    overload = getattr(getattr(torch.ops, PACKAGE), name).default
    place = [a.name for a in overload._schema.arguments].index("x")

    def on_cpu(*inputs: Any) -> Tensor:
        return layout.laid_out(cpu(*inputs), last(inputs[place]))

    def without_data(*inputs: Any) -> Tensor:
        x = inputs[place]
        return layout.empty(x, tuple(x.shape), last(x))

    torch.library.impl(f"{PACKAGE}::{name}", "cpu", on_cpu)
    torch.library.register_fake(f"{PACKAGE}::{name}", without_data)
    _FRAGMENT.impl(name, torch.library.fallthrough_kernel, "Autograd")
    return overload


update = _writing("update", ref.update, layout.channel_last)
packed = _writing("packed", ref.packed, lambda x: True)
