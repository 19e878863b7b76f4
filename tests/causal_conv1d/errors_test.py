"""Every bad argument is refused by name, with its value, and nothing was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_packed, causal_conv1d_update
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
from causal_conv1d.cpp_functions import causal_conv1d_bwd_function
from torch import Tensor

Change = Callable[[dict[str, Any]], Any]


def arguments(device: str) -> dict[str, Any]:
    return {
        "x": torch.randn(2, 8, 16, device=device),
        "weight": torch.randn(8, 4, device=device),
        "bias": torch.randn(8, device=device),
    }


def states(a: dict[str, Any], *shape: int) -> Tensor:
    return torch.randn(*shape, device=a["x"].device)


def ints(a: dict[str, Any], *values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=a["x"].device)


FORWARD: dict[str, Change] = {
    "x must be a tensor, got list": lambda a: {"x": [1.0]},
    "x must be one of torch.float32, torch.float16, torch.bfloat16": lambda a: {"x": a["x"].long()},
    "x must have shape (batch, dim, seqlen), got (8, 16)": lambda a: {"x": a["x"][0]},
    "weight must have shape (dim, width) = (8, width), got (7, 4)": lambda a: {
        "weight": a["weight"][:7]
    },
    "the width of weight (last dimension) must be 2 to 8, got 1": lambda a: {
        "weight": a["weight"][:, :1]
    },
    "the width of weight (last dimension) must be 2 to 8, got 9": lambda a: {
        "weight": states(a, 8, 9)
    },
    "bias is torch.float16, but weight is torch.float32": lambda a: {"bias": a["bias"].half()},
    "bias must have shape (dim,) = (8,), got (2, 4)": lambda a: {"bias": a["bias"].view(2, 4)},
    "seq_idx must be int32, got torch.int64": lambda a: {
        "seq_idx": torch.zeros(2, 16, dtype=torch.long, device=a["x"].device)
    },
    "seq_idx must have shape (batch, seqlen) = (2, 16), got (16,)": lambda a: {
        "seq_idx": ints(a, *range(16))
    },
    "seq_idx must have last stride 1, got strides (1, 2)": lambda a: {
        "seq_idx": ints(a, *range(32)).view(16, 2).T
    },
    "initial_states must have shape (batch, dim, width - 1) = (2, 8, 3), got (2, 8, 4)": (
        lambda a: {"initial_states": states(a, 2, 8, 4)}
    ),
    "initial_states is torch.float16, but x is torch.float32": lambda a: {
        "initial_states": states(a, 2, 8, 3).half()
    },
    "return_final_states must be True or False, got 1": lambda a: {"return_final_states": 1},
    "return_final_states=True is not possible with seq_idx: pass the fragments one behind the "
    "other in a batch of one, causal_conv1d_fn(..., cu_seqlens=)": lambda a: {
        "seq_idx": ints(a, *range(32)).view(2, 16),
        "return_final_states": True,
    },
    "final_states_out needs return_final_states=True, got False": lambda a: {
        "final_states_out": states(a, 2, 8, 3)
    },
    "final_states_out must have shape (batch, dim, width - 1) = (2, 8, 3), got (2, 8, 2)": (
        lambda a: {"final_states_out": states(a, 2, 8, 2), "return_final_states": True}
    ),
    "final_states_out must have a place for each value, got strides (0, 3, 1)": lambda a: {
        "final_states_out": states(a, 8, 3).expand(2, 8, 3),
        "return_final_states": True,
    },
    "final_states_out is written and must not share memory with x": lambda a: {
        "final_states_out": a["x"][:, :, :3],
        "return_final_states": True,
    },
    "with cu_seqlens x must have shape (1, dim, total), got (2, 8, 16)": lambda a: {
        "cu_seqlens": ints(a, 0, 16)
    },
    "cu_seqlens must have shape (sequences + 1,), got (0,)": lambda a: {
        "x": a["x"][:1],
        "cu_seqlens": ints(a),
    },
    "seq_idx and cu_seqlens exclude each other": lambda a: {
        "x": a["x"][:1],
        "cu_seqlens": ints(a, 0, 16),
        "seq_idx": ints(a, *range(16))[None],
    },
    "cu_seqlens must not decrease, got cu_seqlens[1] = 9 > cu_seqlens[2] = 5": lambda a: {
        "x": a["x"][:1],
        "cu_seqlens": ints(a, 0, 9, 5),
        "check": True,
    },
}


@pytest.mark.parametrize("message", FORWARD)
def test_a_bad_argument_of_the_convolution_is_named(device: str, message: str) -> None:
    a = arguments(device)
    with pytest.raises(ValueError, match=re.escape(f"causal_conv1d: {message}")):
        causal_conv1d_fn(**{**a, **FORWARD[message](a)})


@pytest.mark.parametrize("activation", ["relu", "", True, 1])
def test_an_unknown_activation_is_not_implemented(device: str, activation: Any) -> None:
    with pytest.raises(NotImplementedError, match=re.escape(f"got {activation!r}")):
        causal_conv1d_fn(**arguments(device), activation=activation)


@pytest.mark.gpu
def test_tensors_on_two_devices_are_refused(gpu: str) -> None:
    a = arguments(gpu)
    with pytest.raises(ValueError, match="weight is on cpu, but x is on cuda:0"):
        causal_conv1d_fn(a["x"], a["weight"].cpu())


UPDATE: dict[str, Change] = {
    "x must have shape (batch, dim) or (batch, dim, seqlen), got (8,)": lambda a: {"x": a["x"][0]},
    "conv_state must have shape (lines, dim, >= width - 1) = (lines, 8, >= 3), got (2, 8, 2)": (
        lambda a: {"conv_state": states(a, 2, 8, 2)}
    ),
    "conv_state is torch.float16, but x is torch.float32": lambda a: {
        "conv_state": states(a, 2, 8, 4).half()
    },
    "conv_state must have the 2 lines of the batch": lambda a: {"conv_state": states(a, 3, 8, 4)},
    "conv_state must have a place for each value": lambda a: {
        "conv_state": states(a, 1, 8, 4).expand(2, 8, 4)
    },
    "cache_seqlens must be int32, got torch.int64": lambda a: {
        "cache_seqlens": ints(a, 0, 1).long()
    },
    "conv_state_indices must have shape (batch,) = (2,), got (3,)": lambda a: {
        "conv_state_indices": ints(a, 0, 1, 2)
    },
    "conv_state_indices[1] = 2 is outside of the 2 state lines": lambda a: {
        "conv_state_indices": ints(a, 0, 2),
        "check": True,
    },
    "conv_state_indices[1] = 1 comes twice": lambda a: {
        "conv_state_indices": ints(a, 1, 1),
        "check": True,
    },
}


@pytest.mark.parametrize("message", UPDATE)
def test_a_bad_argument_of_the_update_is_named_and_no_state_written(
    device: str, message: str
) -> None:
    a = arguments(device)
    a["x"], a["conv_state"] = a["x"][:, :, 0], states(a, 2, 8, 4)
    a |= UPDATE[message](a)
    before = a["conv_state"].clone()
    with pytest.raises(ValueError, match=re.escape(f"causal_conv1d: {message}")):
        causal_conv1d_update(**a)
    assert torch.equal(a["conv_state"], before)


PACKED: dict[str, Change] = {
    "x must have shape (dim, total), got (1, 8, 16)": lambda a: {"x": a["x"][None]},
    "conv_states must have shape (lines, dim, >= width - 1) = (lines, 8, >= 3), got (3, 8, 1)": (
        lambda a: {"conv_states": states(a, 3, 8, 1)}
    ),
    "query_start_loc must be int32, got torch.int64": lambda a: {
        "query_start_loc": ints(a, 0, 16).long()
    },
    "query_start_loc must have shape (sequences + 1,), got (0,)": lambda a: {
        "query_start_loc": ints(a)
    },
    "query_start_loc must not decrease, got query_start_loc[1] = 9 > query_start_loc[2] = 5": (
        lambda a: {"query_start_loc": ints(a, 0, 9, 5)}
    ),
    "query_start_loc must start at 0, got 1": lambda a: {"query_start_loc": ints(a, 1, 9, 15)},
    "query_start_loc must end within the 16 tokens of x, got query_start_loc[-1] = 17": (
        lambda a: {"query_start_loc": ints(a, 0, 9, 17)}
    ),
    "conv_states must have a line for each of the 4 sequences": lambda a: {
        "query_start_loc": ints(a, 0, 1, 2, 3, 4)
    },
    "cache_indices[0] = 3 is outside of the 3 state lines": lambda a: {
        "cache_indices": ints(a, 3, 1)
    },
    "cache_indices[1] = 1 comes twice": lambda a: {"cache_indices": ints(a, 1, 1)},
    "cache_indices[1] = -1 is outside of the 3 state lines": lambda a: {
        "cache_indices": ints(a, 1, -1),
        "pad_slot_id": -2,
    },
    "has_initial_state must be bool, got torch.int32": lambda a: {
        "has_initial_state": ints(a, 1, 1)
    },
    "has_initial_state must have shape (sequences,) = (2,), got (1,)": lambda a: {
        "has_initial_state": ints(a, 1).bool()
    },
    "num_accepted_tokens[1] must be 0 (nothing to verify) to 1": lambda a: {
        "num_accepted_tokens": ints(a, 0, 2)
    },
    "sequence 1 has 7 tokens to verify, but conv_states has columns for 1": lambda a: {
        "num_accepted_tokens": ints(a, 0, 1)
    },
    "pad_slot_id must be an int, got str": lambda a: {"pad_slot_id": "-1"},
}


@pytest.mark.parametrize("message", PACKED)
def test_a_bad_argument_of_the_packed_call_is_named_and_no_state_written(
    device: str, message: str
) -> None:
    a = arguments(device)
    a["x"], a["conv_states"] = a["x"][0], states(a, 3, 8, 3)
    a["query_start_loc"] = ints(a, 0, 9, 16)
    a |= PACKED[message](a)
    before = a["conv_states"].clone()
    with pytest.raises(ValueError, match=re.escape(f"causal_conv1d: {message}")):
        causal_conv1d_packed(**{"check": True, **a})
    assert torch.equal(a["conv_states"], before)


def test_bad_arguments_of_the_other_functions_are_named(device: str) -> None:
    a = arguments(device)
    rows = a["x"][0].T
    with pytest.raises(ValueError, match="state_len must be >= 0, got -1"):
        causal_conv1d_varlen_states(rows, ints(a, 0, 16), -1)
    with pytest.raises(ValueError, match=re.escape("cu_seqlens must be int32 or int64 of shape")):
        causal_conv1d_varlen_states(rows, ints(a, 0, 16).float(), 3)
    x, weight = a["x"], a["weight"]
    with pytest.raises(ValueError, match=re.escape("dout must have shape (batch, dim, seqlen)")):
        causal_conv1d_bwd_function(
            x, weight, None, x[:, :, 1:], None, None, None, None, False, True
        )


@pytest.mark.gpu
def test_the_ops_themselves_refuse_what_kernels_cannot_take(gpu: str) -> None:
    x, weight = torch.randn(2, 8, 16, device=gpu), torch.randn(8, 4, device=gpu)
    fwd = torch.ops.causal_conv1d.fwd
    nothing = (None, None, None, None, False, False)
    with pytest.raises(RuntimeError, match=r"weight must be \(8, 2 to 8\)"):
        fwd(x, weight[:7], *nothing)
    with pytest.raises(RuntimeError, match="x must be float32, float16 or bfloat16 on a GPU"):
        fwd(x.double(), weight, *nothing)
    with pytest.raises(RuntimeError, match=r"initial_states must have shape \(2, 8, 3\)"):
        fwd(x, weight, None, None, x[:, :, :2], None, False, False)
    with pytest.raises(RuntimeError, match="conv_state has 3 lines for a batch of 2"):
        torch.ops.causal_conv1d.update(x, x.new_zeros(3, 8, 4), weight, *[None] * 3, False)


@pytest.mark.gpu
def test_indices_out_of_range_touch_no_memory(gpu: str) -> None:
    a = arguments(gpu)
    state = states(a, 2, 8, 4)
    before = state.clone()
    out = causal_conv1d_update(
        a["x"][:, :, 0], state, a["weight"], conv_state_indices=ints(a, 2, 1 << 30)
    )
    assert not out.any() and torch.equal(state, before)
    starts = ints(a, 5, -3, 1 << 30)
    out = causal_conv1d_packed(a["x"][0], a["weight"], None, state, starts, ints(a, 9, 9))
    assert torch.equal(state, before)
    torch.cuda.synchronize()
