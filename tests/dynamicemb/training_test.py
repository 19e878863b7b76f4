"""Training steps against the reference, and against torch's own EmbeddingBag and optimizers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.common.poison import poison
from tests.dynamicemb.cases import Model, batch, on, tables

OPTIMIZERS = {
    "sgd": {"optimizer": "SGD"},
    "adam": {"optimizer": "ADAM"},
    "adagrad": {"optimizer": "EXACT_ADAGRAD", "initial_accumulator_value": 0.1},
    "rowwise_adagrad": {"optimizer": "EXACT_ROWWISE_ADAGRAD", "initial_accumulator_value": 0.1},
    "ftrl": {
        "optimizer": "FTRL", "initial_accumulator_value": 0.1, "l1": 0.01, "l2": 0.02,
        "ftrl_beta": 0.5,
    },
}  # fmt: skip
NUMBERS: dict[str, Any] = {"learning_rate": 0.05, "eps": 1e-6, "beta1": 0.8, "beta2": 0.9}
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


def hyper(**changes: float) -> dict[str, float]:
    h = {"lr": 0.05, "eps": 1e-6, "beta1": 0.8, "beta2": 0.9, "power": -0.5}
    return (
        h | {"l1": 0.01, "l2": 0.02, "ftrl_beta": 0.5, "initial_accumulator_value": 0.1} | changes
    )


def run(
    device: str, kind: str, pooling: str, steps: int, *, weighted: bool = False,
    dtype: torch.dtype = torch.float32, dims: tuple[int, ...] = (5, 8), fused: bool = True,
    model: Model | None = None, **changes: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Trains a module and the model alike; their last outputs."""
    draw = random.Random(3)
    module = tables(
        dims, device, pooling, embedding_dtype=dtype, fused=fused, stochastic_rounding=False,
        output_dtype=torch.float64 if dtype == torch.float64 else torch.float32,
        **{**NUMBERS, **OPTIMIZERS[kind], **changes},
    )  # fmt: skip
    model = model or Model(dims, kind, hyper())
    generator = torch.Generator().manual_seed(1)
    out = wanted = torch.empty(0)
    for _ in range(steps):
        indices, offsets = batch(draw, len(dims), 6, 5, 40)
        grad = torch.randn(6, sum(dims), generator=generator, dtype=torch.float64)
        weights = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        wanted = model.train(indices, offsets, grad, pooling, weights if weighted else None)
        poison(device)
        out = module(*on(device, indices, offsets), weights.to(device) if weighted else None)
        out.backward(grad.to(device, out.dtype))
        if not fused:
            module.step()
    return out.detach().cpu().double(), wanted


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["SUM", "MEAN"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_follows_the_reference(
    device: str, kind: str, pooling: str, weighted: bool
) -> None:
    out, wanted = run(device, kind, pooling, 20, weighted=weighted)
    assert torch.allclose(out, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_in_float64_it_is_exact(device: str, kind: str) -> None:
    # Rows start as float32; the model's start is rounded by the table alone.
    out, wanted = run(device, kind, "SUM", 100, dtype=torch.float64, weighted=True)
    assert torch.allclose(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_low_precision_weights_keep_their_state_in_float32(
    device: str, kind: str, dtype: torch.dtype
) -> None:
    out, wanted = run(device, kind, "SUM", 5, dtype=dtype)
    assert torch.allclose(out, wanted, rtol=0, atol=0.25 if dtype == torch.bfloat16 else 0.03)


@pytest.mark.parametrize("dims", [(1,), (3, 4), (128, 16), (130, 520), (1024,)])
def test_dims_of_every_kind_train(device: str, dims: tuple[int, ...]) -> None:
    out, wanted = run(device, "adam", "SUM", 3, dims=dims)
    assert torch.allclose(out, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_apart_from_the_backward_is_the_same(device: str, kind: str) -> None:
    apart, _ = run(device, kind, "SUM", 8, fused=False)
    fused, _ = run(device, kind, "SUM", 8)
    assert torch.allclose(apart, fused, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "model_changes"),
    [
        ({"weight_decay": 0.1, "weight_decay_mode": "L2"}, {"l2_decay": 0.1}),
        ({"weight_decay": 0.1, "weight_decay_mode": "DECOUPLE"}, {"decoupled": 0.1}),
        ({"max_norm": 0.5}, {"max_norm": 0.5}),
    ],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_decay_and_greatest_norm_are_the_reference_s(
    device: str, kind: str, changes: dict[str, Any], model_changes: dict[str, float]
) -> None:
    model = Model((5, 8), kind, hyper(**model_changes))
    out, wanted = run(device, kind, "SUM", 6, model=model, **changes)
    assert torch.allclose(out, wanted, rtol=2e-4, atol=2e-4)


def test_adam_without_a_mode_decays_decoupled_and_sgd_not(device: str) -> None:
    model = Model((5, 8), "adam", hyper(decoupled=0.1))
    out, wanted = run(device, "adam", "SUM", 4, model=model, weight_decay=0.1)
    assert torch.allclose(out, wanted, rtol=2e-4, atol=2e-4)
    out, wanted = run(device, "sgd", "SUM", 4, weight_decay=0.1)
    assert torch.allclose(out, wanted, rtol=2e-4, atol=2e-4)


def test_gradients_are_clipped_value_by_value(device: str) -> None:
    module = tables([4], device, "SUM", learning_rate=1.0, gradient_clipping=True, max_gradient=0.5)
    keys, offsets = on(device, [3], [0, 1])
    before = module(keys, offsets)
    before.backward(torch.tensor([[3.0, -3.0, 0.25, 0.0]], device=device))
    moved = before.detach() - module.eval()(keys, offsets)
    assert torch.allclose(moved.cpu(), torch.tensor([[0.5, -0.5, 0.25, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adam", "adagrad"])
def test_it_trains_as_torch_does_on_the_rows_it_touches(
    device: str, kind: str, sparse: bool
) -> None:
    rows, dim, steps = 50, 12, 30
    names = {"sgd": "SGD", "adam": "ADAM", "adagrad": "EXACT_ADAGRAD"}
    module = tables([dim], device, "SUM", optimizer=names[kind], learning_rate=0.1, eps=1e-8)
    every = torch.arange(rows, device=device)
    offsets = torch.arange(rows + 1, device=device)
    start = module(every, offsets).detach()
    bag = torch.nn.EmbeddingBag(rows, dim, mode="sum", include_last_offset=True, sparse=sparse)
    bag = bag.to(device)
    bag.weight.data.copy_(start)
    optimizer = {
        "sgd": lambda: torch.optim.SGD(bag.parameters(), lr=0.1),
        "adam": lambda: (torch.optim.SparseAdam if sparse else torch.optim.Adam)(
            list(bag.parameters()), lr=0.1, eps=1e-8
        ),
        "adagrad": lambda: torch.optim.Adagrad(bag.parameters(), lr=0.1, eps=1e-8),
    }[kind]()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):  # every row in every step: torch's dense Adam moves all of them
        ids = torch.cat([torch.randperm(rows, generator=generator) for _ in range(3)]).to(device)
        ends = torch.arange(0, 3 * rows + 1, 3, device=device)
        grad = torch.randn(rows, dim, generator=generator).to(device)
        module(ids, ends).backward(grad)
        optimizer.zero_grad()
        bag(ids, ends).backward(grad)
        optimizer.step()
    assert torch.allclose(module.eval()(every, offsets), bag.weight, rtol=1e-4, atol=1e-4)


def test_rows_without_pooling_come_padded_and_train(device: str) -> None:
    module = tables([3, 8], device, "NONE", learning_rate=1.0)
    keys, offsets = on(device, [9, 9, 4, 9], [0, 1, 2, 3, 4])
    out = module(keys, offsets)
    assert out.shape == (4, 8) and not out[:2, 3:].any()
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0, :3], out[3, :3])
    out.backward(torch.ones_like(out))
    after = module.eval()(keys, offsets)
    moved = (out.detach() - after).cpu()
    assert torch.allclose(moved[0, :3], torch.full((3,), 2.0), atol=1e-5)
    assert torch.allclose(moved[2], torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("pooling", ["SUM", "MEAN"])
def test_the_gradient_of_the_weights_is_right(device: str, pooling: str) -> None:
    module = tables([4, 6], device, pooling, embedding_dtype=torch.float64, learning_rate=0.0,
                    output_dtype=torch.float64)  # fmt: skip
    indices, offsets = batch(random.Random(5), 2, 3, 4, 10)
    weights = torch.rand(len(indices), dtype=torch.float64, device=device, requires_grad=True)
    keys, ends = on(device, indices, offsets)
    assert torch.autograd.gradcheck(lambda w: module(keys, ends, w), (weights,))


@pytest.mark.parametrize("pooling", ["SUM", "NONE"])
def test_two_runs_give_the_same_bits(device: str, pooling: str) -> None:
    def trained() -> Tensor:
        draw = random.Random(0)
        module = tables([64], device, pooling, optimizer="ADAM")
        for step in range(3):
            keys, offsets = on(device, *batch(draw, 1, 500, 20, 100))
            out = module(keys, offsets)
            generator = torch.Generator().manual_seed(step)
            out.backward(torch.randn(out.shape, generator=generator).to(device))
        return out.detach()

    assert torch.equal(trained(), trained())


def test_stochastic_rounding_is_right_in_the_mean(device: str) -> None:
    def moved(stochastic: bool) -> Tensor:
        module = tables(
            [64], device, "NONE", embedding_dtype=torch.bfloat16, learning_rate=1.0,
            stochastic_rounding=stochastic, output_dtype=torch.float32,
        )  # fmt: skip
        keys = torch.arange(2000, device=device)
        offsets = torch.tensor([0, 2000], device=device)
        out = module(keys, offsets)
        out.backward(torch.full_like(out, 1e-4))
        return (out.detach() - module.eval()(keys, offsets)).double().mean().cpu()

    assert abs(moved(True) - 1e-4) < 2e-5
    assert abs(moved(False) - 1e-4) > 2e-5


def test_a_learning_rate_counts_from_when_it_is_set(device: str) -> None:
    module = tables([4], device, learning_rate=1.0)
    keys, offsets = on(device, [1], [0, 1])
    module.set_learning_rate(0.0)
    before = module(keys, offsets)
    before.sum().backward()
    assert torch.equal(module(keys, offsets), before)
    with pytest.raises(ValueError, match="learning_rate must be a number >= 0, got -1"):
        module.set_learning_rate(-1)


def test_gradients_add_up_over_micro_batches(device: str) -> None:
    whole = tables([4], device, learning_rate=1.0)
    parts = tables([4], device, learning_rate=1.0, fused=False)
    for module in (whole, parts):
        for keys in ([1, 2, 1], [2, 3, 3]):
            some = [keys] if module is parts else [[1, 2, 1, 2, 3, 3]]
            ids, offsets = on(device, some[0], list(range(len(some[0]) + 1)))
            module(ids, offsets).sum().backward()
            if module is whole:
                break
    (grads,) = parts.grads()
    assert dict(zip(grads[0].tolist(), grads[1][:, 0].tolist(), strict=True)) == {1: 2, 2: 2, 3: 2}
    parts.step()
    ids, offsets = on(device, [1, 2, 3], [0, 1, 2, 3])
    assert torch.allclose(whole.eval()(ids, offsets), parts.eval()(ids, offsets))
    assert not parts.grads()[0][0].numel()


@pytest.mark.parametrize("pooling", ["NONE", "SUM"])
def test_threads_share_a_batch_without_changing_a_bit(pooling: str) -> None:
    n, ids = 1 << 13, (torch.rand(1 << 13, generator=torch.Generator().manual_seed(1)) ** 4 * 999)
    offsets = torch.arange(0, n + 1, 1 if pooling == "NONE" else 4)
    outs = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            module = tables([20], "cpu", pooling, optimizer="ADAM", learning_rate=0.1)
            for _ in range(3):
                out = module(ids.long(), offsets)
                out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
        finally:
            torch.set_num_threads(before)
        outs.append(out.detach())
    assert torch.equal(*outs)
