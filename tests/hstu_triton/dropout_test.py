"""Dropout is drawn from (seed, offset), by every kernel kind alike; Meta's switches are there."""

from __future__ import annotations

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_compute import hstu_compute_output
from generative_recommenders.ops.pytorch.pt_dropout import drawn_seed, kept, philox
from generative_recommenders.ops.pytorch.pt_hstu_linear import (
    pytorch_hstu_compute_output,
    pytorch_norm_mul_dropout,
)

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

KINDS = {
    "u, x, y": {"concat_u": True, "concat_x": True, "silu_u": True},
    "y": {"mul_u_activation_type": "sigmoid"},
    "group norm": {"concat_u": True, "concat_x": True, "group_norm": True, "num_heads": 2,
                   "linear_dim": 10},
}  # fmt: skip


def test_the_numbers_are_those_of_philox() -> None:
    """Random123's known answer for philox4x32-10: key and counter 0."""
    drawn = [philox(torch.tensor(0), torch.tensor([0]), which).item() for which in range(4)]
    assert drawn == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@needs_triton
def test_the_numbers_are_those_of_triton() -> None:
    from tests.hstu_triton.random_kernel import numbers

    place = torch.arange(-8, 248, device=DEVICE) + torch.tensor(2**33 + 5, device=DEVICE)
    for seed in (0, 1, 2**31 - 2, 2**40 + 7):
        out = torch.empty(256, dtype=torch.int64, device=DEVICE)
        given = torch.tensor([seed], device=DEVICE)
        numbers[(1,)](given, place, out, N=256)
        assert torch.equal(philox(given[0], place), out)


def test_the_share_of_what_is_dropped_is_the_ratio() -> None:
    seed = drawn_seed(5, 0, torch.empty(0), True)
    for ratio in (0.1, 0.5, 0.9):
        scale = kept(seed, (500, 200), ratio)
        assert set(scale.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - ratio)))}
        assert abs((scale == 0).float().mean().item() - ratio) < 0.006
    assert not torch.equal(kept(seed, (50, 20), 0.5), kept(seed + 1, (50, 20), 0.5))


def test_an_offset_goes_on_in_the_same_numbers() -> None:
    whole = kept(drawn_seed(3, 0, torch.empty(0), True), (8, 10), 0.5)
    rest = kept(drawn_seed(3, 30, torch.empty(0), True), (5, 10), 0.5)
    assert torch.equal(whole[3:], rest)


@needs_triton
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_both_kinds_drop_the_same(kind: dict[str, object]) -> None:
    from generative_recommenders.ops.triton.triton_hstu_linear import triton_norm_mul_dropout

    x, u = cases.drawn(9, 20), cases.drawn(9, 20, seed=1)
    weights = [cases.drawn(2 if "group_norm" in kind else 20, seed=s) for s in (2, 3)]
    found = []
    for function in (pytorch_norm_mul_dropout, triton_norm_mul_dropout):

        def call(*t: torch.Tensor, function: object = function) -> torch.Tensor:
            return function(*t, 1e-6, 0.4, True, seed=11, offset=7, **kind)  # type: ignore[operator]

        found.append(cases.results(call, [x, u, *weights]))
    expected, got = found
    assert 0.2 < (expected[0] == 0).float().mean() < 0.6
    assert torch.equal(expected[0] == 0, got[0] == 0)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-4)


@needs_triton
def test_a_seed_of_pytorch_s_generator_gives_both_kinds_the_same() -> None:
    x, u = cases.drawn(9, 20), cases.drawn(9, 20, seed=1)
    weight, output = cases.drawn(20, seed=2), cases.drawn(60, 20, seed=3)
    found = []
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        torch.manual_seed(5)
        for _ in range(2):
            found.append(
                hstu_compute_output(
                    x, u, x, weight, weight, 1e-6, output, 1, 20, 0.5, True, True, True, "none",
                    False, False, kernel,
                )
            )  # fmt: skip
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1])


def test_without_training_nothing_is_dropped() -> None:
    x, weight = cases.drawn(9, 20), cases.drawn(20, seed=2)
    arguments = (x, x, x, weight, weight, cases.drawn(20, 20), 1e-6)
    plain = pytorch_hstu_compute_output(*arguments, 0.0, True)
    assert torch.equal(pytorch_hstu_compute_output(*arguments, 0.9, False), plain)
    dropped = pytorch_hstu_compute_output(*arguments, 0.9, True, seed=1)
    assert not torch.allclose(dropped, plain)


SWITCHES = {
    "triton_jagged": [
        "cuda_jagged_dense_bmm_fwd", "cuda_jagged_dense_bmm_bwd", "split_2d_jagged_kernel",
        "concat_2d_jagged_kernel", "gln_mul_dropout_kernel",
        "split_concat_2d_jagged_multirow_kernel",
    ],
    "triton_hstu_linear": ["compute_output_ln_fast_dropout", "fuse_output_ln_rng_blackwell"],
}  # fmt: skip


@needs_triton
@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in SWITCHES.items() for name in names]
)
def test_a_switch_of_meta_s_is_taken_and_says_that_it_does_nothing(module: str, name: str) -> None:
    import importlib

    found = importlib.import_module(f"generative_recommenders.ops.triton.{module}")
    put, get = getattr(found, f"set_{name}"), getattr(found, f"get_{name}")
    before = get()
    put(True)
    assert get() is True and put.__name__ == f"set_{name}"
    put(before)
    assert put.__doc__.startswith("Does nothing: ")
