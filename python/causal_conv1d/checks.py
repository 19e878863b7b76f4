"""Argument checks: every bad argument is named, with its value and what is allowed.

``activation`` gives NotImplementedError, as in the causal-conv1d package, everything else
ValueError. The functions ``*_values`` look into integer tensors, which on a GPU waits for the
device: they run on CPU tensors always, and on a GPU when a caller says ``check=True``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causal_conv1d._core.tensor_checks import TensorChecks, shape_text

GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CPU_DTYPES = (*GPU_DTYPES, torch.float64)
WIDTHS = range(2, 9)
ACTIVATIONS = (None, "silu", "swish")

_CHECKS = TensorChecks("causal_conv1d")
_fail = _CHECKS.fail


def silu(activation: object) -> bool:
    if activation not in ACTIVATIONS:
        _fail(
            f"activation must be None, 'silu' or 'swish', got {activation!r}", NotImplementedError
        )
    return activation is not None


def boolean(value: object, name: str) -> None:
    _CHECKS.boolean(value, name)


def _values(t: Tensor, name: str) -> None:
    _CHECKS.tensor(t, name)
    allowed = GPU_DTYPES if t.device.type == "cuda" else CPU_DTYPES
    if t.dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        _fail(f"{name} must be one of {names} on {t.device.type}, got {t.dtype}")


def _shape(t: Tensor, name: str, shape: tuple[int, ...], meaning: str) -> None:
    if t.shape != shape:
        _fail(f"{name} must have shape {meaning} = {shape}, got {shape_text(t)}")


def weights(x: Tensor, weight: Tensor, bias: Tensor | None, dim: int) -> None:
    """``weight`` (dim, 2 to 8) and ``bias`` (dim,) of one dtype, whatever that of x is."""
    _values(weight, "weight")
    _CHECKS.device(weight, "weight", x, "x")
    if weight.dim() != 2 or weight.shape[0] != dim:
        _fail(f"weight must have shape (dim, width) = ({dim}, width), got {shape_text(weight)}")
    if weight.shape[1] not in WIDTHS:
        _fail(f"the width of weight (last dimension) must be 2 to 8, got {weight.shape[1]}")
    if bias is not None:
        _CHECKS.like(bias, "bias", weight, "weight")
        _shape(bias, "bias", (dim,), "(dim,)")


def batch(x: Tensor) -> None:
    _values(x, "x")
    if x.dim() != 3:
        _fail(f"x must have shape (batch, dim, seqlen), got {shape_text(x)}")


def _states(t: Tensor, name: str, x: Tensor, sequences: int, width: int, meaning: str) -> None:
    _CHECKS.like(t, name, x, "x")
    _shape(t, name, (sequences, x.shape[1], width - 1), f"({meaning}, dim, width - 1)")


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    return_final_states: bool,
    final_states_out: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Everything about the arguments of ``causal_conv1d_fn`` that needs no tensor's values."""
    batch(x)
    weights(x, weight, bias, x.shape[1])
    boolean(return_final_states, "return_final_states")
    sequences, meaning = x.shape[0], "batch"
    if cu_seqlens is not None:
        _CHECKS.index(cu_seqlens, "cu_seqlens", None, "(sequences + 1,)", x, "x")
        if cu_seqlens.shape[0] < 1:
            _fail(f"cu_seqlens must have shape (sequences + 1,), got {shape_text(cu_seqlens)}")
        if x.shape[0] != 1:
            _fail(f"with cu_seqlens x must have shape (1, dim, total), got {shape_text(x)}")
        if seq_idx is not None:
            _fail("seq_idx and cu_seqlens exclude each other: both say where sequences begin")
        sequences, meaning = cu_seqlens.shape[0] - 1, "sequences"
    if seq_idx is not None:
        _CHECKS.int32(seq_idx, "seq_idx", x, "x")
        _shape(seq_idx, "seq_idx", (x.shape[0], x.shape[2]), "(batch, seqlen)")
        if x.shape[2] > 1 and seq_idx.stride(1) != 1:
            _fail(f"seq_idx must have last stride 1, got strides {seq_idx.stride()}")
        if return_final_states:
            _fail(
                "return_final_states=True is not possible with seq_idx: pass the fragments one "
                "behind the other in a batch of one, causal_conv1d_fn(..., cu_seqlens=), which "
                "returns the states of each"
            )
    if initial_states is not None:
        _states(initial_states, "initial_states", x, sequences, weight.shape[1], meaning)
    if final_states_out is not None:
        if not return_final_states:
            _fail("final_states_out needs return_final_states=True, got False")
        _states(final_states_out, "final_states_out", x, sequences, weight.shape[1], meaning)
        written(final_states_out, "final_states_out", x)


def starts_values(cu_seqlens: Tensor, name: str, total: int) -> None:
    _CHECKS.prefix_sums(cu_seqlens.tolist(), name, total, "tokens of x")


def values_wanted(x: Tensor, check: bool) -> bool:
    if torch.compiler.is_compiling():
        return False
    _CHECKS.boolean(check, "check")
    return x.device.type == "cpu" or check


def _end(t: Tensor) -> int:
    """The address behind a tensor's last byte."""
    values = 1
    for size, stride in zip(t.shape, t.stride(), strict=True):
        values += (size - 1) * stride
    return t.data_ptr() + values * t.element_size()


def written(t: Tensor, name: str, x: Tensor) -> None:
    """A tensor that is written into: each value has its own place, and none of x's."""
    for size, stride in zip(t.shape, t.stride(), strict=True):
        if size > 1 and stride == 0:
            _fail(f"{name} must have a place for each value, got strides {tuple(t.stride())}")
    if torch.compiler.is_compiling() or type(t) is not Tensor or type(x) is not Tensor:
        return
    if t.is_meta or t.numel() == 0 or x.numel() == 0 or t.device != x.device:
        return
    if t.data_ptr() < _end(x) and x.data_ptr() < _end(t):
        _fail(f"{name} is written and must not share memory with x, but their addresses overlap")


def _lines(states: Tensor, name: str, x: Tensor, dim: int, width: int) -> None:
    _CHECKS.like(states, name, x, "x")
    if states.dim() != 3 or states.shape[1] != dim or states.shape[2] < width - 1:
        _fail(
            f"{name} must have shape (lines, dim, >= width - 1) = (lines, {dim}, >= {width - 1}), "
            f"got {shape_text(states)}"
        )
    written(states, name, x)


def update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> None:
    """Everything about the arguments of ``causal_conv1d_update`` that needs no tensor's values."""
    _values(x, "x")
    if x.dim() not in (2, 3):
        _fail(f"x must have shape (batch, dim) or (batch, dim, seqlen), got {shape_text(x)}")
    weights(x, weight, bias, x.shape[1])
    _lines(conv_state, "conv_state", x, x.shape[1], weight.shape[1])
    size = x.shape[0]
    if conv_state_indices is None and conv_state.shape[0] != size:
        _fail(
            f"conv_state must have the {size} lines of the batch, or conv_state_indices must say "
            f"which are meant; got {shape_text(conv_state)}"
        )
    for t, name in (
        (cache_seqlens, "cache_seqlens"),
        (conv_state_indices, "conv_state_indices"),
    ):
        if t is not None:
            _CHECKS.index(t, name, size, "(batch,)", x, "x")


def lines_values(indices: Tensor | None, name: str, lines: int, pad: int | None = None) -> None:
    """Each index is that of a line, negative (``pad`` None) or ``pad``, and no line comes twice."""
    seen: set[int] = set()
    for b, line in enumerate([] if indices is None else indices.tolist()):
        if line < 0 if pad is None else line == pad:
            continue
        if not 0 <= line < lines:
            _fail(f"{name}[{b}] = {line} is outside of the {lines} state lines")
        if line in seen:
            _fail(f"{name}[{b}] = {line} comes twice: a state line belongs to one sequence")
        seen.add(line)


def packed(a: Any) -> None:
    """Everything about the arguments of ``causal_conv1d_packed`` that needs no tensor's values."""
    x, starts = a.x, a.query_start_loc
    _values(x, "x")
    if x.dim() != 2:
        _fail(f"x must have shape (dim, total), got {shape_text(x)}")
    weights(x, a.weight, a.bias, x.shape[0])
    _lines(a.conv_states, "conv_states", x, x.shape[0], a.weight.shape[1])
    _CHECKS.index(starts, "query_start_loc", None, "(sequences + 1,)", x, "x")
    if starts.shape[0] < 1:
        _fail(f"query_start_loc must have shape (sequences + 1,), got {shape_text(starts)}")
    size = starts.shape[0] - 1
    for name in ("cache_indices", "num_accepted_tokens"):
        if (t := getattr(a, name)) is not None:
            _CHECKS.index(t, name, size, "(sequences,)", x, "x")
    if a.cache_indices is None and a.conv_states.shape[0] < size:
        _fail(
            f"conv_states must have a line for each of the {size} sequences, or cache_indices must "
            f"say which are meant; got {shape_text(a.conv_states)}"
        )
    if (has := a.has_initial_state) is not None:
        _CHECKS.tensor(has, "has_initial_state")
        if has.dtype != torch.bool:
            _fail(f"has_initial_state must be bool, got {has.dtype}")
        _CHECKS.device(has, "has_initial_state", x, "x")
        _shape(has, "has_initial_state", (size,), "(sequences,)")
    _CHECKS.integer(a.pad_slot_id, "pad_slot_id", -(2**31))


def packed_values(a: Any) -> None:
    """What the values of the index tensors must be."""
    starts_values(a.query_start_loc, "query_start_loc", a.x.shape[1])
    lines_values(a.cache_indices, "cache_indices", a.conv_states.shape[0], a.pad_slot_id)
    if a.num_accepted_tokens is None:
        return
    most = a.conv_states.shape[2] - a.weight.shape[1] + 2
    lengths = a.query_start_loc.diff().tolist()
    for n, (accepted, length) in enumerate(
        zip(a.num_accepted_tokens.tolist(), lengths, strict=True)
    ):
        if not 0 <= accepted <= most:
            _fail(
                f"num_accepted_tokens[{n}] must be 0 (nothing to verify) to {most}, the drafts "
                f"that conv_states has columns for, got {accepted}"
            )
        if accepted >= 1 and length > most:
            _fail(
                f"sequence {n} has {length} tokens to verify, but conv_states has columns for "
                f"{most}: its last dimension must be >= width - 2 + tokens"
            )


def varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> None:
    _CHECKS.tensor(x, "x")
    if x.dim() != 2:
        _fail(f"x must have shape (total, dim), got {shape_text(x)}")
    _CHECKS.tensor(cu_seqlens, "cu_seqlens")
    if cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.dim() != 1:
        _fail(
            f"cu_seqlens must be int32 or int64 of shape (batch + 1,), got {cu_seqlens.dtype} "
            f"{shape_text(cu_seqlens)}"
        )
    if cu_seqlens.shape[0] < 1:
        _fail(f"cu_seqlens must have shape (batch + 1,), got {shape_text(cu_seqlens)}")
    _CHECKS.device(cu_seqlens, "cu_seqlens", x, "x")
    _CHECKS.integer(state_len, "state_len", 0)
    if values_wanted(x, False):
        starts_values(cu_seqlens, "cu_seqlens", x.shape[0])


def backward(
    x: Tensor, weight: Tensor, dout: Tensor, dfinal_states: Tensor | None, dx: Tensor | None
) -> None:
    """What a call of the backward has beside the arguments of the forward."""
    for t, name in ((dout, "dout"), (dx, "dx")):
        if t is not None:
            _CHECKS.like(t, name, x, "x")
            _shape(t, name, tuple(x.shape), "(batch, dim, seqlen)")
    if dfinal_states is not None:
        _states(dfinal_states, "dfinal_states", x, x.shape[0], weight.shape[1], "batch")
