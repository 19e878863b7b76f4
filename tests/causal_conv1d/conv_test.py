"""The convolution and its gradients against float64, on the CPU and on the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from causal_conv1d import causal_conv1d_fn
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.causal_conv1d.cases import Case, check, make
from tests.common.poison import poison

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "neither_bias_nor_silu": {"bias": False, "silu": False},
    "states": {"initial": True, "final": True},
    "initial_states": {"initial": True},
    "final_states": {"final": True},
    "fragments": {"seq_idx": True},
    "fragments_and_padding": {"seq_idx": True, "padding": True},
    "fragments_and_states": {"seq_idx": True, "padding": True, "initial": True},
    "packed": {"batch": 1, "lengths": (5, 0, 1, 40, 2, 3, 0), "initial": True, "final": True},
    "packed_without_states": {"batch": 1, "lengths": (30, 37)},
    "slices": {"spare": 3},
}


@pytest.mark.parametrize("last", [False, True], ids=["channel_first", "channel_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_right(device: str, feature: str, dtype: torch.dtype, last: bool) -> None:
    poison(device)
    for width in range(2, 9):
        check(Case(width=width, dtype=dtype, last=last, device=device, **FEATURES[feature]))


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_x_and_weight_have_dtypes_of_their_own(
    device: str, dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    for last in (False, True):
        for width in (3, 4, 8):
            check(
                Case(dtype=dtype, weight_dtype=weight_dtype, last=last, width=width, device=device)
            )


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 7, 8, 9, 31, 129, 1134, 2049])
def test_every_length_is_right(device: str, tokens: int) -> None:
    for last in (False, True):
        for feature in ("plain", "states", "fragments_and_states"):
            for dim in (1, 5):
                check(
                    Case(
                        tokens=tokens,
                        dim=dim,
                        last=last,
                        dtype=torch.bfloat16,
                        device=device,
                        **FEATURES[feature],
                    )
                )


@pytest.mark.parametrize("batch,dim", [(0, 8), (2, 0), (1, 1), (3, 127), (1, 130), (2, 516)])
def test_every_batch_and_dim_is_right(device: str, batch: int, dim: int) -> None:
    for last in (False, True):
        for spare in (0, 1, 4):
            check(
                Case(
                    batch=batch,
                    dim=dim,
                    tokens=40,
                    last=last,
                    spare=spare,
                    initial=True,
                    final=True,
                    dtype=torch.float16,
                    device=device,
                )
            )


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [1, 2, 5, 8])
@pytest.mark.parametrize("feature", FEATURES)
def test_chunks_join_without_a_seam(
    gpu: str, feature: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAUSAL_CONV1D_CHUNK", str(chunk))
    poison(gpu)
    for last in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for width in (2, 4, 7):
                options = {"tokens": 67} if "lengths" in FEATURES[feature] else {"tokens": 1500}
                check(
                    Case(
                        width=width,
                        dtype=dtype,
                        last=last,
                        device=gpu,
                        **{**options, **FEATURES[feature]},
                    )
                )


@settings(max_examples=60)
@given(data=st.data())
def test_any_call_is_right(data: st.DataObject) -> None:
    draw = data.draw
    lengths = draw(st.none() | st.lists(st.integers(0, 20), max_size=5).map(tuple))
    fragments = lengths is None and draw(st.booleans())
    check(
        Case(
            batch=1 if lengths is not None else draw(st.integers(0, 3)),
            dim=draw(st.integers(0, 9)),
            tokens=sum(lengths) + draw(st.integers(0, 3))
            if lengths is not None
            else draw(st.integers(0, 40)),
            width=draw(st.integers(2, 8)),
            dtype=draw(st.sampled_from((*DTYPES, torch.float64))),
            weight_dtype=draw(st.sampled_from(DTYPES)),
            last=draw(st.booleans()),
            bias=draw(st.booleans()),
            silu=draw(st.booleans()),
            seq_idx=fragments,
            padding=fragments and draw(st.booleans()),
            initial=draw(st.booleans()),
            final=not fragments and draw(st.booleans()),
            lengths=lengths,
            spare=draw(st.integers(0, 2)),
            seed=draw(st.integers(0, 5)),
        )
    )


@pytest.mark.parametrize("last", [False, True], ids=["channel_first", "channel_last"])
def test_an_infinite_input_reaches_the_outputs_under_its_taps_alone(
    device: str, last: bool
) -> None:
    for width in (2, 3, 5, 8):
        i = make(Case(width=width, tokens=40, last=last, silu=False, device=device))
        i.x[:, :, 20] = torch.inf
        out = causal_conv1d_fn(i.x, i.weight, i.bias)
        finite = out.isfinite().all(0).all(0).tolist()
        assert finite == [not 20 <= t < 20 + width for t in range(40)]


@pytest.mark.parametrize("last", [False, True], ids=["channel_first", "channel_last"])
def test_gradients_are_the_same_bits_in_every_run(device: str, last: bool) -> None:
    case = Case(dim=96, tokens=700, last=last, dtype=torch.bfloat16, device=device)
    runs = []
    for _ in range(2 if device == "cpu" else 50):
        i = make(case)
        for leaf in (i.x, i.weight, i.bias):
            leaf.requires_grad_()
        out = causal_conv1d_fn(i.x, i.weight, i.bias, activation="silu")
        runs.append((out, *torch.autograd.grad(out, (i.x, i.weight, i.bias), i.dout)))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_fragments_are_sequences_of_their_own(device: str) -> None:
    for last in (False, True):
        i = make(Case(batch=1, tokens=50, last=last, device=device))
        ids = torch.tensor([0] * 20 + [1] * 30, dtype=torch.int32, device=device)[None]
        together = causal_conv1d_fn(i.x, i.weight, i.bias, ids, activation="silu")
        apart = [
            causal_conv1d_fn(piece, i.weight, i.bias, activation="silu")
            for piece in (i.x[:, :, :20], i.x[:, :, 20:])
        ]
        assert torch.equal(together, torch.cat(apart, 2))


def test_packed_sequences_are_a_loop_over_them(device: str) -> None:
    lengths = (5, 0, 1, 40, 2, 3, 200)
    case = Case(
        batch=1,
        tokens=sum(lengths) + 2,
        lengths=lengths,
        initial=True,
        last=True,
        dtype=torch.bfloat16,
        device=device,
    )
    i = make(case)
    out, final = causal_conv1d_fn(
        i.x,
        i.weight,
        i.bias,
        None,
        i.initial,
        True,
        activation="silu",
        cu_seqlens=i.cu_seqlens,
    )
    start = 0
    for n, length in enumerate(lengths):
        piece = i.x[:, :, start : start + length]
        alone, state = causal_conv1d_fn(
            piece, i.weight, i.bias, None, i.initial[n : n + 1], True, activation="silu"
        )
        assert torch.equal(out[:, :, start : start + length], alone)
        assert torch.equal(final[n : n + 1], state)
        start += length
    assert not out[:, :, start:].any()
