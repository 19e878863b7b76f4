"""The operations in plain PyTorch, for any device and dtype; what CPU tensors are computed by.

Sums are made in float64 and rounded once. The three functions
``causal_conv1d_*_ref`` have the names, the arguments and the meaning of those in the causal-conv1d
package (1.7.0).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor


def _silu(activation: str | None) -> bool:
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(
            f"causal_conv1d: activation must be None, 'silu' or 'swish', got {activation!r}"
        )
    return activation is not None


class _Taps:
    """x (batch, channels, tokens) with ``before``, width - 1 columns (None: zeros), in front of it.

    Taps on a token of another ``seq_idx`` do not count, those before the first token count as of
    its sequence; a negative one makes the output 0.
    """

    def __init__(
        self, x: Tensor, weight: Tensor, before: Tensor | None, seq_idx: Tensor | None
    ) -> None:
        self.history, self.tokens = weight.shape[1] - 1, x.shape[2]
        self.dtype = torch.float64
        if before is None:
            before = x.new_zeros(x.shape[0], x.shape[1], self.history)
        self.columns, self.weight = torch.cat([before, x], 2).to(self.dtype), weight.to(self.dtype)
        self.seq_idx = seq_idx if self.tokens > 0 else None
        if self.seq_idx is not None:
            seq_idx = self.seq_idx
            ids = torch.cat([seq_idx[:, :1].expand(-1, self.history), seq_idx], 1)
            self.ids = ids[:, : self.history + self.tokens]

    def counted(self, k: int, value: Tensor) -> Tensor:
        """``value`` at the outputs for which tap k counts, 0 at the others."""
        if self.seq_idx is None:
            return value
        same = self.ids[:, k : k + self.tokens] == self.seq_idx
        return torch.where(same[:, None], value, 0.0)

    def sums(self, bias: Tensor | None) -> Tensor:
        total = torch.zeros_like(self.columns[:, :, : self.tokens])
        if bias is not None:
            total = total + bias.to(self.dtype)[:, None]
        for k in range(self.history + 1):
            under = self.columns[:, :, k : k + self.tokens]
            total = total + self.counted(k, under * self.weight[:, k, None])
        return total

    def unpadded(self, out: Tensor) -> Tensor:
        if self.seq_idx is None:
            return out
        return torch.where((self.seq_idx >= 0)[:, None], out, 0.0)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None,
    silu: bool,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """The outputs of one batch, see ``_Taps``."""
    taps = _Taps(x, weight, before, seq_idx)
    sums = taps.sums(bias)
    out = torch.nn.functional.silu(sums) if silu else sums
    return taps.unpadded(out).to(x.dtype)


def convolve_backward(
    dout: Tensor,
    dstates: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None,
    silu: bool,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and ``before`` from those of the outputs and of the states
    behind the last token, all of them in the dtype of the sums."""
    taps = _Taps(x, weight, before, seq_idx)
    ds = taps.unpadded(dout.to(taps.dtype))
    if silu:
        sums = taps.sums(bias)
        sigmoid = torch.sigmoid(sums)
        ds = ds * sigmoid * (1 + sums * (1 - sigmoid))
    dcolumns, dweight = torch.zeros_like(taps.columns), []
    for k in range(taps.history + 1):
        counted, under = taps.counted(k, ds), slice(k, k + taps.tokens)
        dcolumns[:, :, under] += counted * taps.weight[:, k, None]
        dweight.append((counted * taps.columns[:, :, under]).sum((0, 2)))
    if dstates is not None:
        dcolumns[:, :, taps.tokens :] += dstates
    dx, dbefore = dcolumns[:, :, taps.history :], dcolumns[:, :, : taps.history]
    return dx, torch.stack(dweight, 1), ds.sum((0, 2)), dbefore


def states_behind(x: Tensor, before: Tensor | None, history: int) -> Tensor:
    """The last ``history`` columns of ``before`` (None: zeros) and x."""
    if before is None:
        before = x.new_zeros(x.shape[0], x.shape[1], history)
    columns = torch.cat([before, x], 2)
    return columns[:, :, columns.shape[2] - history :]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """The outputs and the states behind the last tokens; of every sequence with ``cu_seqlens``."""
    history = weight.shape[1] - 1
    if cu_seqlens is None:
        out = convolve(x, weight, bias, initial_states, silu, seq_idx)
        return out, states_behind(x, initial_states, history)
    starts = cu_seqlens.tolist()
    outs, states = [x.new_zeros(1, x.shape[1], 0)], [x.new_zeros(0, x.shape[1], history)]
    for n, (start, end) in enumerate(itertools.pairwise(starts)):
        before = None if initial_states is None else initial_states[n : n + 1]
        piece = x[:, :, start:end]
        outs.append(convolve(piece, weight, bias, before, silu))
        states.append(states_behind(piece, before, history))
    outs.append(torch.zeros_like(x[:, :, starts[-1] :]))  # behind the last sequence
    return torch.cat(outs, 2), torch.cat(states)


def backward(
    dout: Tensor,
    dfinal_states: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and initial_states, in the dtypes of x and weight."""
    if cu_seqlens is None:
        found = convolve_backward(
            dout, dfinal_states, x, weight, bias, initial_states, silu, seq_idx
        )
    else:
        starts = cu_seqlens.tolist()
        pieces = []
        for n, (start, end) in enumerate(itertools.pairwise(starts)):
            at, row = slice(start, end), slice(n, n + 1)
            before = None if initial_states is None else initial_states[row]
            dstates = None if dfinal_states is None else dfinal_states[row]
            pieces.append(
                convolve_backward(dout[:, :, at], dstates, x[:, :, at], weight, bias, before, silu)
            )
        rest = x[:, :, starts[-1] :]  # behind the last sequence
        nothing = convolve_backward(
            torch.zeros_like(rest), None, torch.zeros_like(rest), weight, bias, None, silu
        )
        dxs, dweights, dbiases, dbefores = zip(*pieces, nothing, strict=True)
        dbefore = torch.cat(dbefores[:-1]) if pieces else nothing[3][:0]
        found = torch.cat(dxs, 2), sum(dweights), sum(dbiases), dbefore
    dx, dweight, dbias, dbefore = found
    return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype), dbefore.to(x.dtype)


def update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    """x (batch, channels, tokens) behind what ``conv_state`` remembers, brought up to date.

    Lines outside of ``conv_state`` give zeros.
    """
    history, columns, tokens = weight.shape[1] - 1, conv_state.shape[2], x.shape[2]
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        line = b if conv_state_indices is None else int(conv_state_indices[b])
        if not 0 <= line < conv_state.shape[0]:
            continue
        state = conv_state[line]
        if cache_seqlens is None:
            before = state[:, columns - history :].clone()
        else:
            first = int(cache_seqlens[b])
            before = state[:, [(first - history + k) % columns for k in range(history)]]
        out[b] = convolve(x[b : b + 1], weight, bias, before[None], silu)[0]
        if cache_seqlens is None:
            state.copy_(torch.cat([state, x[b]], 1)[:, tokens:])
        else:
            for t in range(tokens):
                state[:, (first + t) % columns] = x[b, :, t]
    return out


def packed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv_states: Tensor,
    query_start_loc: Tensor,
    cache_indices: Tensor | None,
    has_initial_state: Tensor | None,
    num_accepted_tokens: Tensor | None,
    silu: bool,
    pad_slot_id: int,
) -> Tensor:
    """x (1, channels, tokens): see ``causal_conv1d.packed``. State lines are written in place."""
    history, columns = weight.shape[1] - 1, conv_states.shape[2]
    out = torch.zeros_like(x)
    for n, (start, end) in enumerate(itertools.pairwise(query_start_loc.tolist())):
        line = n if cache_indices is None else int(cache_indices[n])
        if line == pad_slot_id or not 0 <= line < conv_states.shape[0]:
            continue
        accepted = 0 if num_accepted_tokens is None else int(num_accepted_tokens[n])
        has = accepted >= 1 or (has_initial_state is not None and bool(has_initial_state[n]))
        skipped = min(max(accepted - 1, 0), columns - history)
        state, piece = conv_states[line], x[:, :, start:end]
        before = state[None, :, skipped : skipped + history].clone()
        if not has:
            before = torch.zeros_like(before)
        out[:, :, start:end] = convolve(piece, weight, bias, before, silu)
        if accepted >= 1 and history - 1 + end - start <= columns:
            drafts = torch.cat([before[:, :, 1:], piece], 2)[0]
            state[:, : drafts.shape[1]] = drafts
        else:
            state[:, :history] = states_behind(piece, before, history)[0]
    return out


# ---- The names of the causal-conv1d package


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    seq_idx: Tensor | None = None,
) -> Any:
    """What ``causal_conv1d_fn`` computes: x (batch, dim, seqlen), weight (dim, width), bias (dim,),
    states (batch, dim, width - 1), seq_idx (batch, seqlen) int32. Differentiable."""
    out = convolve(x, weight, bias, initial_states, _silu(activation), seq_idx)
    if not return_final_states:
        return out
    states = states_behind(x, initial_states, weight.shape[1] - 1)
    return out, states if final_states_out is None else final_states_out.copy_(states)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """What ``causal_conv1d_update`` computes: x (batch, dim) or (batch, dim, seqlen), conv_state
    (batch, dim, state_len), written in place."""
    tokens = x if x.dim() == 3 else x[:, :, None]
    out = update(tokens, conv_state, weight, bias, cache_seqlens, None, _silu(activation))
    return out if x.dim() == 3 else out[:, :, 0]


def causal_conv1d_varlen_states_ref(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """What ``causal_conv1d_varlen_states`` computes: x (total, dim) -> (batch, dim, state_len)."""
    states = x.new_zeros(cu_seqlens.shape[0] - 1, state_len, x.shape[1])
    for n, (start, end) in enumerate(itertools.pairwise(cu_seqlens.tolist())):
        kept = min(end - start, state_len)
        states[n, state_len - kept :] = x[end - kept : end]
    return states.transpose(1, 2)
