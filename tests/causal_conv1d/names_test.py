"""The names of others: what mamba_ssm and users of the HIP backend import and call."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function
from causal_conv1d_hip_interface import (
    CausalConv1dHIPFn,
    causal_conv1d_hip_fn,
    causal_conv1d_hip_ref,
    test_causal_conv1d_hip,
)

from tests.causal_conv1d.cases import Case, make

# module -> function -> its first parameters in the causal-conv1d package, in order
NAMES = {
    "causal_conv1d": {
        "causal_conv1d_fn": "x weight bias seq_idx initial_states return_final_states "
        "final_states_out activation",
        "causal_conv1d_update": "x conv_state weight bias activation cache_seqlens "
        "conv_state_indices",
    },
    "causal_conv1d.causal_conv1d_interface": {
        "causal_conv1d_fn": "x weight bias seq_idx initial_states return_final_states "
        "final_states_out activation",
        "causal_conv1d_ref": "x weight bias initial_states return_final_states final_states_out "
        "activation seq_idx",
        "causal_conv1d_update": "x conv_state weight bias activation cache_seqlens "
        "conv_state_indices",
        "causal_conv1d_update_ref": "x conv_state weight bias activation cache_seqlens",
    },
    "causal_conv1d.causal_conv1d_varlen": {
        "causal_conv1d_varlen_states": "x cu_seqlens state_len",
        "causal_conv1d_varlen_states_ref": "x cu_seqlens state_len",
    },
    "causal_conv1d.cpp_functions": {
        "causal_conv1d_fwd_function": "x weight bias seq_idx initial_states final_states_out "
        "silu_activation",
        "causal_conv1d_bwd_function": "x weight bias dout seq_idx initial_states dfinal_states dx "
        "return_dinitial_states silu_activation",
        "causal_conv1d_update_function": "x conv_state weight bias silu_activation cache_seqlens "
        "conv_state_indices",
    },
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_of_the_peer_have_its_parameters(module: str) -> None:
    for name, parameters in NAMES[module].items():
        function = getattr(importlib.import_module(module), name)
        positional = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        assert positional == parameters.split(), name


def test_the_calls_of_mamba_ssm(device: str) -> None:
    case = Case(dim=16, tokens=20, last=True, dtype=torch.bfloat16, device=device)
    i = make(case)
    x, w, b = i.x, i.weight, i.bias
    # ops/selective_scan_interface.py, ops/triton/ssd_combined.py
    out = causal_conv1d_fwd_function(x, w, b, None, None, None, True)
    assert torch.equal(out, causal_conv1d_fn(x, w, b, activation="silu"))
    dx_given = torch.empty(2, 20, 40, dtype=x.dtype, device=device)[:, :, 8:24].transpose(1, 2)
    dx, dw, db, *rest = causal_conv1d_bwd_function(
        x, w, b, i.dout, None, None, None, dx_given, False, True
    )
    assert dx is dx_given and rest == [None]
    for t in (x, w, b):
        t.requires_grad_()
    right = torch.autograd.grad(causal_conv1d_fn(x, w, b, activation="silu"), (x, w, b), i.dout)
    for got, grad in zip((dx, dw, db), right, strict=True):
        assert torch.equal(got, grad)
    x, w, b = x.detach(), w.detach(), b.detach()
    # modules/mamba2.py
    ids = torch.zeros(2, 20, dtype=torch.int32, device=device)
    assert torch.equal(out, causal_conv1d_fn(x, w, bias=b, activation="swish", seq_idx=ids))
    state = torch.zeros(2, 4, 16, dtype=x.dtype, device=device).transpose(1, 2)
    for t in range(20):
        step = causal_conv1d_update(x[:, :, t], state, w, b, "silu")
        assert torch.equal(step, out[:, :, t])
    assert torch.equal(state, x[:, :, 16:])
    packed = x.transpose(1, 2).reshape(40, 16)
    starts = torch.tensor([0, 20, 40], dtype=torch.int32, device=device)
    assert torch.equal(causal_conv1d_varlen_states(packed, starts, state_len=4), state)
    # modules/mamba_simple.py, mha.py
    assert torch.equal(out, causal_conv1d_fn(x=x, weight=w, bias=b, activation="silu"))
    assert causal_conv1d_update(x[:, :, 0], state, w, b).shape == (2, 16)


def test_the_final_states_are_written_where_the_caller_says(device: str) -> None:
    i = make(Case(device=device))
    place = torch.full((2, 24, 3), torch.nan, device=device)
    out = causal_conv1d_fwd_function(i.x, i.weight, i.bias, None, None, place, False)
    assert torch.equal(place, i.x[:, :, -3:]) and out.shape == i.x.shape
    done, states = causal_conv1d_fn(i.x, i.weight, i.bias, None, None, True, place)
    assert states is place and torch.equal(done, out)


def test_the_ops_of_the_peer_are_there(device: str) -> None:
    i = make(Case(device=device))
    ops = torch.ops.DaoAILab
    out = torch.empty_like(i.x)
    ops._causal_conv1d_fwd_cpp(i.x, i.weight, i.bias, None, None, out, None, True)
    assert torch.equal(out, causal_conv1d_fn(i.x, i.weight, i.bias, activation="silu"))
    state = torch.randn(2, 24, 4, device=device)
    expected = state.clone()
    step = torch.empty(2, 24, device=device)
    ops._causal_conv1d_update_cpp(i.x[:, :, 0], state, i.weight, None, step, False, None, None)
    assert torch.equal(step, causal_conv1d_update(i.x[:, :, 0], expected, i.weight))
    dx, dw, db = (torch.empty_like(t) for t in (i.x, i.weight, i.bias))
    ops._causal_conv1d_bwd_cpp(
        i.x, i.weight, i.bias, i.dout, None, None, None, dx, dw, db, None, True
    )
    right: Any = causal_conv1d_bwd_function(
        i.x, i.weight, i.bias, i.dout, None, None, None, None, False, True
    )
    for got, grad in zip((dx, dw, db), right, strict=False):
        assert torch.equal(got, grad)


def test_the_names_of_the_hip_backend(device: str) -> None:
    i = make(Case(device=device))
    out = causal_conv1d_hip_fn(i.x, i.weight, i.bias, activation="silu")
    assert torch.equal(out, CausalConv1dHIPFn.apply(i.x, i.weight, i.bias, "silu"))
    right = causal_conv1d_hip_ref(i.x, i.weight, i.bias, activation="silu")
    assert (out - right).abs().max().item() < 1e-3
    assert inspect.signature(causal_conv1d_hip_fn) == inspect.signature(causal_conv1d_fn)
    assert test_causal_conv1d_hip() is True
