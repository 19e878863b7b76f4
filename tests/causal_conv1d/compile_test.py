"""The ops as citizens of PyTorch: opcheck, torch.compile, meta tensors, CUDA graphs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_packed, causal_conv1d_update
from torch import Tensor
from torch.library import opcheck

from tests.causal_conv1d.cases import Case, make

OPS = torch.ops.causal_conv1d
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "channel_last": {"last": True},
    "states": {"initial": True, "final": True},
    "fragments": {"seq_idx": True, "last": True},
    "packed": {"batch": 1, "lengths": (5, 0, 30), "initial": True, "final": True, "last": True},
}


def leaf(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().clone().requires_grad_()


@pytest.mark.parametrize("name", CASES)
def test_opcheck_of_the_forward_and_the_backward(device: str, name: str) -> None:
    case = Case(dim=5, tokens=35, device=device, **CASES[name])
    i = make(case)
    tensors = [leaf(i.x), leaf(i.weight), leaf(i.bias), i.seq_idx, leaf(i.initial), i.cu_seqlens]
    opcheck(OPS.fwd.default, (*tensors, case.final, True))
    rest = [None if t is None else t.detach() for t in tensors]
    opcheck(OPS.bwd.default, (i.dout, *rest, i.dfinal, case.initial, True))


def test_opcheck_of_the_ops_that_write_states(device: str) -> None:
    case = Case(dim=5, tokens=3, device=device)
    i = make(case)
    state = torch.randn(4, 5, 6, device=device)
    indices = torch.tensor([3, -1], dtype=torch.int32, device=device)
    opcheck(OPS.update.default, (i.x, state, i.weight, i.bias, None, indices, True))
    starts = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    accepted = torch.tensor([0, 2], dtype=torch.int32, device=device)
    has = torch.tensor([True, False], device=device)
    packed = (i.x[:1], i.weight, i.bias, state, starts, indices, has, accepted, True, -1)
    opcheck(OPS.packed.default, packed)


@pytest.mark.parametrize("name", CASES)
def test_it_compiles_without_a_graph_break(device: str, name: str) -> None:
    case = Case(dim=6, tokens=35, device=device, **CASES[name])
    i = make(case)

    def step(x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None) -> Any:
        done = causal_conv1d_fn(
            x * 2,
            weight,
            bias,
            i.seq_idx,
            initial,
            case.final,
            activation="silu",
            cu_seqlens=i.cu_seqlens,
        )
        return (done[0] + 1, done[1]) if case.final else (done + 1,)

    results = []
    compiled = torch.compile(
        step, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager"
    )
    for function in (step, compiled):
        leaves = [leaf(t) for t in (i.x, i.weight, i.bias, i.initial)]
        outs = function(*leaves)
        there = [t for t in leaves if t is not None]
        grads = torch.autograd.grad([o.sum() for o in outs], there)
        results.append((*outs, *grads))
    for got, right in zip(*results, strict=True):
        torch.testing.assert_close(got, right)


def test_the_steps_that_write_states_compile_without_a_graph_break(device: str) -> None:
    i = make(Case(dim=6, tokens=2, device=device))
    lines = torch.tensor([2, 0], dtype=torch.int32, device=device)
    starts = torch.tensor([0, 1, 2], dtype=torch.int32, device=device)

    def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        a = causal_conv1d_update(x, state, i.weight, i.bias, "silu", conv_state_indices=lines)
        b = causal_conv1d_packed(x[0], i.weight, i.bias, state, starts, lines, activation="silu")
        return a, b

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        state = torch.ones(3, 6, 4, device=device)
        results.append((*function(i.x, state), state))
    for got, right in zip(*results, strict=True):
        torch.testing.assert_close(got, right)


def test_a_second_derivative_is_refused(device: str) -> None:
    i = make(Case(device=device))
    x = leaf(i.x)
    out = causal_conv1d_fn(x, i.weight)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(grad.sum(), x)


def test_a_meta_tensor_gives_shapes_alone() -> None:
    x, weight = torch.empty(2, 6, 9, device="meta"), torch.empty(6, 4, device="meta")
    out, state = causal_conv1d_fn(x, weight, return_final_states=True)
    assert out.shape == x.shape and state.shape == (2, 6, 3) and out.is_meta


@pytest.mark.gpu
def test_a_graph_of_the_packed_call_serves_other_lengths(gpu: str) -> None:
    generator = torch.Generator().manual_seed(0)
    total, dim, width, sequences = 300, 40, 4, 6
    x = torch.randn(total, dim, generator=generator).to(gpu, torch.bfloat16)
    weight = torch.randn(dim, width, generator=generator).to(gpu)
    states = torch.zeros(9, dim, width - 1, dtype=x.dtype, device=gpu)
    starts = torch.zeros(sequences + 1, dtype=torch.int32, device=gpu)
    lines = torch.arange(sequences, dtype=torch.int32, device=gpu)
    has = torch.ones(sequences, dtype=torch.bool, device=gpu)
    arguments = (x.T, weight, None, states, starts, lines, has)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        causal_conv1d_packed(*arguments)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = causal_conv1d_packed(*arguments)
    for lengths in ((1,) * 6, (300, 0, 0, 0, 0, 0), (2, 3, 250, 1, 40, 4), (0,) * 6):
        starts.copy_(torch.tensor([0, *itertools.accumulate(lengths)]))
        states.normal_()
        expected_states = states.clone()
        expected = causal_conv1d_packed(*arguments[:3], expected_states, *arguments[4:])
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, expected) and torch.equal(states, expected_states)
