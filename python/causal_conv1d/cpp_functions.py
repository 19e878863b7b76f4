"""The functions that programs such as mamba_ssm import from the causal-conv1d package (1.7.0).

Its torch ops ``DaoAILab::_causal_conv1d_{fwd,bwd,update}_cpp`` are defined here where no other
package has defined them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causal_conv1d import checks, ops
from causal_conv1d.causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_update


def _activation(silu_activation: bool) -> str | None:
    checks.boolean(silu_activation, "silu_activation")
    return "silu" if silu_activation else None


def causal_conv1d_fwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    final_states_out: Tensor | None,
    silu_activation: bool,
) -> Tensor:
    """``causal_conv1d_fn`` without a gradient; final states are written where they are wanted."""
    with torch.no_grad():
        activation, wanted = _activation(silu_activation), final_states_out is not None
        done = causal_conv1d_fn(
            x, weight, bias, seq_idx, initial_states, wanted, final_states_out, activation
        )
    out: Tensor = done[0] if wanted else done
    return out


def causal_conv1d_bwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    dx: Tensor | None,
    return_dinitial_states: bool,
    silu_activation: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients (dx, dweight, dbias, dinitial_states) of ``causal_conv1d_fwd_function``.

    Args:
        dout: (batch, dim, seqlen), dtype of x.
        dfinal_states: (batch, dim, width - 1) or None.
        dx: where to write the gradient of x, which is then returned, or None.
        return_dinitial_states: whether that of ``initial_states`` is wanted, else None is returned.

    The others as there.
    """
    checks.silu(_activation(silu_activation))
    checks.forward(x, weight, bias, seq_idx, initial_states, False, None, None)
    checks.backward(x, weight, dout, dfinal_states, dx)
    wanted = bool(return_dinitial_states) and initial_states is not None
    with torch.no_grad():
        found, dweight, dbias, dinitial = ops.bwd(
            dout,
            x,
            weight,
            bias,
            seq_idx,
            initial_states,
            None,
            dfinal_states,
            wanted,
            silu_activation,
        )
    found = found if dx is None else dx.copy_(found)
    return found, dweight, None if bias is None else dbias, dinitial if wanted else None


def causal_conv1d_update_function(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu_activation: bool,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    """``causal_conv1d_update``."""
    activation = _activation(silu_activation)
    return causal_conv1d_update(
        x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices
    )


# ---- The ops of the peer

_LIBRARY = "DaoAILab"
_X = "Tensor x, Tensor weight, Tensor? bias, "
_SCHEMAS = {
    "fwd": _X + "Tensor? seq_idx, Tensor? initial_states, Tensor(a!) out, "
    "Tensor(b!)? final_states_out, bool silu_activation",
    "bwd": _X + "Tensor dout, Tensor? seq_idx, Tensor? initial_states, "
    "Tensor(a!)? dfinal_states, Tensor(b!) dx, Tensor(c!) dweight, Tensor(d!)? dbias, "
    "Tensor(e!)? dinitial_states, bool silu_activation",
    "update": "Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, Tensor(b!) out, "
    "bool silu_activation, Tensor? cache_seqlens, Tensor? conv_state_indices",
}


def _fwd(*a: Any) -> None:
    *inputs, out, final_states_out, silu = a
    out.copy_(causal_conv1d_fwd_function(*(*inputs, final_states_out, silu)))


def _bwd(*a: Any) -> None:
    *inputs, dx, dweight, dbias, dinitial_states, silu = a
    found = causal_conv1d_bwd_function(*(*inputs, dx, dinitial_states is not None, silu))
    for to, grad in zip((dweight, dbias, dinitial_states), found[1:], strict=True):
        if to is not None:
            to.copy_(grad)


def _update(*a: Any) -> None:
    *inputs, out, silu, cache_seqlens, conv_state_indices = a
    rest = (silu, cache_seqlens, conv_state_indices)
    out.copy_(causal_conv1d_update_function(*(*inputs, *rest)))


def _define() -> Any:
    names = {kind: f"_causal_conv1d_{kind}_cpp" for kind in _SCHEMAS}
    if any(hasattr(getattr(torch.ops, _LIBRARY), name) for name in names.values()):
        return None
    library: Any = torch.library.Library
    made = library(_LIBRARY, "FRAGMENT")
    functions = {"fwd": _fwd, "bwd": _bwd, "update": _update}
    for kind, name in names.items():
        made.define(f"{name}({_SCHEMAS[kind]}) -> ()")
        made.impl(name, functions[kind], "CompositeExplicitAutograd")
        torch.library.register_fake(f"{_LIBRARY}::{name}", lambda *a: None, lib=made)
    return made


_DEFINED = _define()
