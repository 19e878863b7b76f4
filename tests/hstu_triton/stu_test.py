"""HSTU layers: against the formula, cached against whole, and what surrounds a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel, complete_cumsum
from generative_recommenders.modules.dynamic_stu import L2STU, SDSTU
from generative_recommenders.modules.stu import STU, STULayer, STULayerConfig, STUStack
from torch import Tensor

from tests.hstu_triton import cases, plain
from tests.hstu_triton.cases import DEVICE, needs_triton

KERNELS = [HammerKernel.PYTORCH, pytest.param(HammerKernel.TRITON, marks=needs_triton)]
LENGTHS, TARGETS = [9, 3, 14], [2, 0, 3]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "group norm": {"use_group_norm": True},
    "window, contexts": {"max_attn_len": 4, "contextual_seq_len": 2, "attn_alpha": 0.7},
    "no targets": {"target_aware": False},
}


def layer_of(seed: int = 0, **options: Any) -> STULayer:
    torch.manual_seed(seed)
    sizes = {"embedding_dim": 16, "num_heads": 2, "hidden_dim": 24, "attention_dim": 16}
    layer = STULayer(STULayerConfig(**(sizes | {"output_dropout_ratio": 0.0} | options)))
    for parameter in layer.parameters():  # none at its first, trivial value
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return layer.to(DEVICE)


def ran(stu: STU, x: Tensor, lengths: list[int], **caching: Any) -> Tensor:
    sizes = torch.tensor(lengths, device=DEVICE)
    targets = torch.tensor(TARGETS, device=DEVICE)
    out: Tensor = stu(x, sizes, complete_cumsum(sizes), 14, targets, **caching)
    return out


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_layer_is_the_formula(options: dict[str, Any]) -> None:
    layer = layer_of(**options).double()
    layer.set_hammer_kernel(HammerKernel.PYTORCH)
    x = cases.drawn(26, 16, dtype=torch.float64)
    expected = plain.stu_layer(layer.cpu(), x.cpu(), LENGTHS, TARGETS, 14)
    torch.testing.assert_close(ran(layer.to(DEVICE), x, LENGTHS).cpu(), expected)


@needs_triton
@pytest.mark.parametrize("options", [{}, {"use_group_norm": True}], ids=["plain", "group norm"])
def test_triton_is_pytorch_with_gradients(options: dict[str, Any]) -> None:
    stack = STUStack([layer_of(i, **options) for i in range(2)])
    found = []
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        stack.set_hammer_kernel(kernel)
        stack.zero_grad()
        x = cases.drawn(26, 16).requires_grad_()
        out = ran(stack, x, LENGTHS)
        out.backward(cases.drawn(26, 16, seed=3))
        found.append([out.detach(), x.grad, *(p.grad for p in stack.parameters())])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("options", [{}, OPTIONS["window, contexts"]], ids=["plain", "masked"])
def test_the_last_rows_behind_a_cache_are_those_of_the_whole(
    kernel: HammerKernel, options: dict[str, Any]
) -> None:
    stack = STUStack([layer_of(i, **options) for i in range(2)])
    stack.set_hammer_kernel(kernel)
    x, delta = cases.drawn(26, 16), 3
    with torch.no_grad():
        whole = ran(stack, x, LENGTHS)
        last = torch.cat([t[-delta:] for t in plain.sequences(whole, LENGTHS)])
        kept = torch.tensor(LENGTHS, device=DEVICE) - delta
        ran(stack, x, LENGTHS, max_kv_caching_len=11, kv_caching_lengths=kept)
        new = torch.cat([t[-delta:] for t in plain.sequences(x, LENGTHS)])
        got = stack.cached_forward(new, torch.tensor(TARGETS, device=DEVICE))
    torch.testing.assert_close(got, last, rtol=1e-4, atol=1e-4)


def test_a_cache_grows_by_what_is_kept_of_the_new_rows() -> None:
    layer = layer_of(target_aware=False)
    layer.set_hammer_kernel(HammerKernel.PYTORCH)
    x = cases.drawn(26, 16)
    parts = plain.sequences(x, LENGTHS)
    none = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    sizes = torch.tensor(LENGTHS, device=DEVICE)
    with torch.no_grad():
        whole = plain.sequences(ran(layer, x, LENGTHS), LENGTHS)
        ran(layer, x, LENGTHS, kv_caching_lengths=sizes - 3)  # the longest: read on the host
        second = torch.cat([t[-3:-1] for t in parts])
        got = layer.cached_forward(second, none, 13, sizes - 1)
        # Scores are divided by the longest sequence so far, 13: the whole one has 14.
        third = layer.cached_forward(torch.cat([t[-1:] for t in parts]), none)
    assert got.shape == (6, 16)
    torch.testing.assert_close(third, torch.cat([t[-1:] for t in whole]), rtol=1e-4, atol=1e-4)
    layer.reset_kv_cache()
    with pytest.raises(ValueError, match="kv_caching_lengths must be given to forward"):
        layer.cached_forward(second, none)


def test_two_targets_that_change_places_change_rows_and_gradients() -> None:
    layer = layer_of()
    layer.set_hammer_kernel(HammerKernel.PYTORCH)
    order = list(range(26))
    order[7], order[8] = 8, 7  # the targets of the first sequence
    x, grad = cases.drawn(26, 16), cases.drawn(26, 16, seed=1)
    one, other = x.clone().requires_grad_(), x[order].clone().requires_grad_()
    first, second = ran(layer, one, LENGTHS), ran(layer, other, LENGTHS)
    torch.testing.assert_close(second, first[order], rtol=1e-5, atol=1e-5)
    first.backward(grad)
    second.backward(grad[order])
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(other.grad, one.grad[order], rtol=1e-5, atol=1e-5)


def test_a_step_of_stochastic_depth_runs_the_layer_or_returns_its_input() -> None:
    inner = layer_of()
    x = cases.drawn(26, 16)
    for ratio, expected in ((0.0, "layer"), (1.0, "input")):
        stu = SDSTU(inner, is_inference=False, dropout_ratio=ratio)
        stu.set_hammer_kernel(HammerKernel.PYTORCH)
        out = ran(stu, x, LENGTHS)
        assert torch.equal(out, ran(inner, x, LENGTHS) if expected == "layer" else x)
        assert torch.equal(ran(stu.eval(), x, LENGTHS), ran(inner, x, LENGTHS))
    stu = SDSTU(inner, is_inference=False, dropout_ratio=0.5, seed=3)
    stu.set_hammer_kernel(HammerKernel.PYTORCH)
    left_out = [torch.equal(ran(stu, x, LENGTHS), x) for _ in range(40)]
    drawn = [torch.rand(1, generator=torch.Generator().manual_seed(3 + i)) for i in range(40)]
    assert left_out == [float(d) <= 0.5 for d in drawn] and len(set(left_out)) == 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("contexts", [0, 2])
def test_a_layer_on_last_rows_leaves_the_others_as_they_were(
    kernel: HammerKernel, contexts: int
) -> None:
    inner, most = layer_of(contextual_seq_len=contexts), 3
    stu = L2STU(inner, most, is_inference=False, contextual_seq_len=contexts)
    stu.set_hammer_kernel(kernel)
    x = cases.drawn(26, 16)
    got = plain.sequences(ran(stu, x, LENGTHS), LENGTHS)
    passing = [max(n - most - t - contexts, 0) for n, t in zip(LENGTHS, TARGETS, strict=True)]
    parts = plain.sequences(x, LENGTHS)
    seen = [
        torch.cat([part[:contexts], part[contexts + p :]])
        for part, p in zip(parts, passing, strict=True)
    ]
    short = [len(part) for part in seen]
    inside = plain.sequences(ran(inner, torch.cat(seen), short), short)
    for out, part, rows, p in zip(got, parts, inside, passing, strict=True):
        expected = torch.cat([rows[:contexts], part[contexts : contexts + p], rows[contexts:]])
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_a_module_without_a_cache_says_so() -> None:
    stu = SDSTU(layer_of(), is_inference=False)
    with pytest.raises(NotImplementedError, match="SDSTU keeps no cache"):
        stu.cached_forward(cases.drawn(3, 16), torch.zeros(3, dtype=torch.int64))
