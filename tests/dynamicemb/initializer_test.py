"""First rows: what the reference says, the same bits everywhere, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from dynamicemb import DynamicEmbInitializerArgs, DynamicEmbInitializerMode, ref
from dynamicemb.initializer import init_words, table_seed
from torch import Tensor

from tests.dynamicemb.cases import SEED, tables

Mode = DynamicEmbInitializerMode
ARGS = {
    "normal": DynamicEmbInitializerArgs(Mode.NORMAL, mean=0.25, std_dev=2.0),
    "truncated_normal": DynamicEmbInitializerArgs(
        Mode.TRUNCATED_NORMAL, mean=0.1, std_dev=1.5, lower=-1.0, upper=2.0
    ),
    "uniform": DynamicEmbInitializerArgs(Mode.UNIFORM, lower=-0.3, upper=0.7),
    "constant": DynamicEmbInitializerArgs(Mode.CONSTANT, value=1.25),
    "debug": DynamicEmbInitializerArgs(Mode.DEBUG),
}
KEYS = [0, 1, -1, 5, 123456789, 2**63 - 1, -(2**63)]


def rows(device: str, args: DynamicEmbInitializerArgs, keys: list[int], dim: int = 7) -> Tensor:
    module = tables([dim], device, "NONE", initializer_args=args)
    given = torch.tensor(keys, device=device)
    return module(given, torch.tensor([0, len(keys)], device=device)).detach().cpu()


@pytest.mark.parametrize("mode", ARGS)
def test_first_rows_are_those_of_the_reference(device: str, mode: str) -> None:
    _, *bits = init_words(ARGS[mode])
    numbers = torch.tensor(bits, dtype=torch.int64).view(torch.float64).tolist()
    seed = table_seed(SEED, "table0")
    wanted = torch.tensor([ref.initial_row(mode, numbers, seed, key, 7) for key in KEYS])
    assert torch.allclose(rows(device, ARGS[mode], KEYS), wanted, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("mode", ARGS)
def test_a_row_depends_on_its_key_alone(device: str, mode: str) -> None:
    together = rows(device, ARGS[mode], KEYS)
    for key, row in zip(KEYS, together, strict=True):
        assert torch.equal(rows(device, ARGS[mode], [77, key])[1], row)
    assert torch.equal(rows(device, ARGS[mode], KEYS[::-1]).flip(0), together)


@pytest.mark.parametrize("mode", ["normal", "truncated_normal", "uniform"])
def test_rows_have_the_same_bits_on_cpu_and_gpu(gpu: str, mode: str) -> None:
    keys = list(range(20000))
    assert torch.equal(rows("cpu", ARGS[mode], keys, 32), rows(gpu, ARGS[mode], keys, 32))


def test_rows_are_distributed_as_they_say() -> None:
    keys = list(range(4000))
    drawn = {mode: rows("cpu", ARGS[mode], keys, 8).double().flatten() for mode in ARGS}
    assert abs(drawn["normal"].mean() - 0.25) < 0.05 and abs(drawn["normal"].std() - 2) < 0.05
    x = drawn["truncated_normal"]
    assert x.min() >= -1 and x.max() <= 2 and (x < -0.9).any() and (x > 1.9).any()
    u = drawn["uniform"]
    assert u.min() >= -0.3 and u.max() <= 0.7 and abs(u.mean() - 0.2) < 0.01
    # Kolmogorov-Smirnov against the normal distribution.
    ordered = torch.special.ndtr((drawn["normal"].sort().values - 0.25) / 2)
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (ordered - steps).abs().max() * len(ordered) ** 0.5 < 1.95  # p = 0.001


def test_tables_and_seeds_have_rows_of_their_own() -> None:
    module = tables([4, 4], "cpu", "NONE")
    out = module(torch.tensor([5, 5]), torch.tensor([0, 1, 2]))
    assert not torch.equal(out[0], out[1])
    assert table_seed(1, "a") != table_seed(2, "a") != table_seed(2, "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std_dev": -1.0, "mode": Mode.NORMAL}, "std_dev must be >= 0, got -1"),
        ({"lower": 2.0, "upper": 1.0}, "lower 2.0 is above upper 1.0"),
        ({"value": float("nan"), "mode": Mode.CONSTANT}, "value must be a finite number"),
    ],
)
def test_impossible_initializers_are_refused(changes: dict[str, object], message: str) -> None:
    args = DynamicEmbInitializerArgs(**changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        rows("cpu", args, [1])
