"""Tables against nn.EmbeddingBag and torch's dense optimizers, step by step, in every combination.

Only touched rows are compared, and only they are updated: a dense optimizer moves the others, too,
so each row has its own parameter, which takes part in a step when the batch has its key.
DYNAMICEMB_LONG_TESTS=1 trains four of the combinations for 1,000 steps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dynamicemb.cases import batch, on, tables

ROWS, SAMPLES, DIM = 12, 3, 6
RATE = 0.02
Maker = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class RowwiseAdagrad(torch.optim.Optimizer):
    """Not in torch: one accumulator a row, of the mean of squares."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                s = self.state[p].setdefault("s", torch.full((), 0.1, dtype=p.dtype))
                s += (p.grad * p.grad).mean()
                p -= RATE * p.grad / (s.sqrt() + 1e-8)


class Ftrl(torch.optim.Optimizer):
    """Not in torch: McMahan et al., "Ad click prediction" (2013), power 1/2, l1 = l2 = 0."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            z, n = (state.setdefault(k, torch.full_like(p, v)) for k, v in (("z", 0.0), ("n", 0.1)))
            now = n + p.grad * p.grad
            z += p.grad - (now.sqrt() - n.sqrt()) / RATE * p
            n.copy_(now)
            p.copy_(-z / (n.sqrt() / RATE))


OPTIMIZERS: dict[str, Maker] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=RATE),
    "ADAM": lambda p: torch.optim.Adam(p, lr=RATE, eps=1e-8),
    "EXACT_ADAGRAD": lambda p: torch.optim.Adagrad(
        p, lr=RATE, eps=1e-8, initial_accumulator_value=0.1
    ),
    "EXACT_ROWWISE_ADAGRAD": RowwiseAdagrad,
    "FTRL": Ftrl,
}
# Greatest difference after training, absolute: weights are of size 1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-4, torch.float16: 0.05, torch.bfloat16: 0.35}


def trained(
    device: str, kind: str, pooling: str, dtype: torch.dtype, weighted: bool, steps: int
) -> tuple[Tensor, Tensor]:
    """The rows of the module and those of torch, in float64."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    accumulates = kind not in ("SGD", "ADAM")
    module = tables(
        [DIM], device, pooling, embedding_dtype=dtype, output_dtype=wide, optimizer=kind,
        learning_rate=RATE, eps=1e-8, stochastic_rounding=False,
        initial_accumulator_value=0.1 if accumulates else 0.0,
    )  # fmt: skip
    keys = [k * 7919 - 3 for k in range(ROWS)]
    ids, ends = on(device, keys, list(range(ROWS + 1)) if pooling != "NONE" else [0, ROWS])
    start = module(ids, ends).detach().cpu().double()
    rows = [torch.nn.Parameter(row.clone()) for row in start]
    optimizer = OPTIMIZERS[kind](rows)
    draw, generator = random.Random(4), torch.Generator().manual_seed(4)
    for _ in range(steps):
        indices, offsets = batch(draw, 1, SAMPLES, 4, ROWS)
        outs = len(indices) if pooling == "NONE" else SAMPLES
        grad = torch.randn(outs, DIM, generator=generator, dtype=torch.float64)
        scale = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        given = scale.to(device) if weighted else None
        module(*on(device, indices, offsets), given).backward(grad.to(device, wide))
        where = [keys.index(i) for i in indices]
        optimizer.zero_grad()
        for row in set(where):
            rows[row].grad = torch.zeros(DIM, dtype=torch.float64)
        for bag in range(SAMPLES):
            begin, end = offsets[bag], offsets[bag + 1]
            for i in range(begin, end):
                g = grad[i] if pooling == "NONE" else grad[bag] * (scale[i] if weighted else 1)
                rows[where[i]].grad += g / (end - begin if pooling == "MEAN" else 1)
        optimizer.step()
    return module.eval()(ids, ends).cpu().double(), torch.stack([row.detach() for row in rows])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    ("pooling", "weighted"),
    [("SUM", False), ("SUM", True), ("MEAN", False), ("MEAN", True), ("NONE", False)],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_hundred_steps_end_where_torch_s_end(
    device: str, kind: str, pooling: str, weighted: bool, dtype: torch.dtype
) -> None:
    got, wanted = trained(device, kind, pooling, dtype, weighted, 100)
    assert (got - wanted).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ["SGD", "ADAM", "EXACT_ADAGRAD", "FTRL"])
def test_a_thousand_steps_do_so_too(device: str, kind: str) -> None:
    if os.environ.get("DYNAMICEMB_LONG_TESTS") != "1":
        pytest.skip("a long test: DYNAMICEMB_LONG_TESTS=1 runs it")
    got, wanted = trained(device, kind, "SUM", torch.float64, True, 1000)
    assert (got - wanted).abs().max() < TOLERANCE[torch.float64]
