"""State lines: the update step, packed batches, and the states of packed sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_packed, causal_conv1d_update, ref
from causal_conv1d.causal_conv1d_varlen import (
    causal_conv1d_varlen_states,
    causal_conv1d_varlen_states_ref,
)
from torch import Tensor

from tests.causal_conv1d.cases import TOLERANCE, near
from tests.common.poison import poison

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Draw:
    """Random tensors of one case."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(*shape, generator=self.generator)
        return values.to(self.device, dtype or self.dtype)

    def ints(self, *values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def lines(self, count: int, dim: int, columns: int, last: bool) -> Tensor:
        if last:
            return self(count, columns, dim).transpose(1, 2)
        return self(count, dim, columns)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["columns_dense", "channels_dense"])
@pytest.mark.parametrize("circle", [False, True], ids=["shifted", "circle"])
@pytest.mark.parametrize("indices", [False, True], ids=["all_lines", "by_index"])
def test_an_update_is_right_and_its_state_exact(
    device: str, dtype: torch.dtype, last: bool, circle: bool, indices: bool
) -> None:
    poison(device)
    draw = Draw(device, dtype)
    for width in range(2, 9):
        for tokens in (None, 1, 3, 6):
            for extra in (0, 1, 5):
                dim, batch = 37 if extra else 40, 5
                state = draw.lines(9 if indices else batch, dim, width - 1 + extra, last)
                x = draw(batch, dim) if tokens is None else draw(batch, dim, tokens)
                weight, bias = draw(dim, width, dtype=torch.float32), draw(dim, dtype=torch.float32)
                at = draw.ints(7, -1, 0, 3, 8) if indices else None
                so_far = draw.ints(0, 1, 2, 13, 1000) if circle else None
                if circle and tokens is not None and tokens > state.shape[2]:
                    continue  # the peer does not say which token stays
                expected_state = state.double()
                batch_x = x if x.dim() == 3 else x[:, :, None]
                right = ref.update(
                    batch_x.double(),
                    expected_state,
                    weight.double(),
                    bias.double(),
                    so_far,
                    at,
                    True,
                )
                out = causal_conv1d_update(x, state, weight, bias, "silu", so_far, at)
                assert out.shape == x.shape
                near("out", out, right.reshape(x.shape), TOLERANCE)
                assert torch.equal(state.double(), expected_state)


def test_updates_one_by_one_are_the_whole_sequence(device: str) -> None:
    for width in (2, 4, 8):
        for dtype in DTYPES:
            draw = Draw(device, dtype)
            x, weight, bias = draw(3, 20, 30), draw(20, width), draw(20)
            state = torch.zeros(3, 20, width, device=device, dtype=dtype)
            steps = [
                causal_conv1d_update(x[:, :, t], state, weight, bias, "silu") for t in range(30)
            ]
            whole = causal_conv1d_fn(x, weight, bias, activation="silu")
            assert torch.equal(torch.stack(steps, 2), whole)


def packed_inputs(draw: Draw, lengths: tuple[int, ...], width: int, **options: Any) -> Any:
    dim, lines = options.get("dim", 24), len(lengths) + 3
    columns = width - 1 + options.get("extra", 0)
    total = sum(lengths) + options.get("behind", 0)
    x = draw(total, dim).T if options.get("last", True) else draw(dim, total)
    states = draw.lines(lines, dim, columns, options.get("last", True))
    starts = torch.tensor([0, *lengths]).cumsum(0).to(draw.device, torch.int32)
    return x, draw(dim, width), draw(dim), states, starts


def assert_packed(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    x, weight, bias, states, starts = arguments
    expected = states.double()
    right = ref.packed(
        x.double()[None],
        weight.double(),
        bias.double(),
        expected,
        starts,
        options.get("cache_indices"),
        options.get("has_initial_state"),
        options.get("num_accepted_tokens"),
        True,
        -1,
    )[0]
    out = causal_conv1d_packed(x, weight, bias, states, starts, activation="silu", **options)
    near("out", out, right, TOLERANCE)
    assert torch.equal(states.double(), expected)


@pytest.mark.parametrize("last", [False, True], ids=["tokens_dense", "channels_dense"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mixed_batch_is_right_and_its_lines_exact(
    device: str, dtype: torch.dtype, last: bool
) -> None:
    poison(device)
    lengths = (1, 40, 2, 0, 1, 3, 150, 1, 7)
    for width in range(2, 9):
        for extra in (0, 4):
            draw = Draw(device, dtype, width)
            arguments = packed_inputs(draw, lengths, width, last=last, extra=extra, behind=3)
            has = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1], dtype=torch.bool, device=device)
            indices = draw.ints(4, 0, 7, 5, 11, 2, 9, -1, 1)
            assert_packed(arguments, {"cache_indices": indices, "has_initial_state": has})
            assert_packed(packed_inputs(draw, lengths, width, dim=21), {})


def test_drafts_are_verified_as_if_the_right_ones_had_come_one_by_one(device: str) -> None:
    """Speculative decoding: each round verifies drafts, and a part of them is right."""
    for width in (2, 3, 4, 6):
        for dtype in (torch.float32, torch.bfloat16):
            draw = Draw(device, dtype, width)
            dim, drafts = 12, 4
            weight, bias = draw(dim, width), draw(dim)
            truth = draw(40, dim)  # the tokens that turn out right
            states = torch.zeros(1, width - 2 + drafts, dim, device=device, dtype=dtype)
            states = states.transpose(1, 2)
            whole = causal_conv1d_fn(truth.T[None], weight, bias, activation="silu")[0]
            starts = draw.ints(0, 5)
            out = causal_conv1d_packed(truth[:5].T, weight, bias, states, starts, activation="silu")
            assert torch.equal(out, whole[:, :5])
            done, accepted = 5, 1
            for right in (1, 4, 2, 3, 4, 1):
                batch = torch.cat([truth[done : done + right], draw(drafts - right, dim)])
                out = causal_conv1d_packed(
                    batch.T,
                    weight,
                    bias,
                    states,
                    draw.ints(0, drafts),
                    num_accepted_tokens=draw.ints(accepted),
                    activation="silu",
                )
                assert torch.equal(out[:, :right], whole[:, done : done + right])
                done, accepted = done + right, right


@pytest.mark.parametrize("width", [2, 4, 7])
def test_a_prefill_in_chunks_is_one_pass_bit_for_bit(device: str, width: int) -> None:
    """At every split point, final chunks shorter than width - 1 included."""
    draw = Draw(device, torch.bfloat16)
    tokens, dim = 21, 16
    x, weight, bias = draw(tokens, dim), draw(dim, width), draw(dim)
    whole_state = torch.zeros(1, dim, width - 1, device=device, dtype=x.dtype)
    whole = causal_conv1d_packed(
        x.T, weight, bias, whole_state, draw.ints(0, tokens), activation="silu"
    )
    for split in range(tokens + 1):
        state = torch.full_like(whole_state, torch.nan)
        pieces = [
            causal_conv1d_packed(
                piece.T,
                weight,
                bias,
                state,
                draw.ints(0, piece.shape[0]),
                has_initial_state=torch.tensor([n > 0], device=device),
                activation="silu",
            )
            for n, piece in enumerate((x[:split], x[split:]))
        ]
        if split > 0:  # an empty first chunk leaves zeros
            assert torch.equal(torch.cat(pieces, 1), whole)
        assert torch.equal(state, whole_state)


def test_padding_changes_nothing(device: str) -> None:
    draw = Draw(device, torch.float32)
    x, weight, bias, states, starts = packed_inputs(draw, (3, 1, 50), 4, behind=5)
    before = states.clone()
    out = causal_conv1d_packed(
        x, weight, bias, states, starts, draw.ints(-1, -1, -1), activation="silu"
    )
    assert not out.any() and torch.equal(states, before)


@pytest.mark.parametrize("seed", range(9))
def test_states_of_packed_sequences_are_equal_to_the_loop(device: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 32, (100,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(device)
    for kind in (torch.int32, torch.int64):
        for dtype in DTYPES:
            x = torch.randn(int(starts[-1]), 24, generator=generator).to(device, dtype)
            for state_len in (0, 3, 20):
                got = causal_conv1d_varlen_states(x, starts.to(kind), state_len)
                assert torch.equal(got, causal_conv1d_varlen_states_ref(x, starts, state_len))
