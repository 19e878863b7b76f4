"""Batches and models of the tests."""

from __future__ import annotations

from typing import Any

import torch
from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.modules.jagged import Sequences
from hstu_training.ops.counter import Randomness, token_keys

from tests.common.jagged import prefix_sums


def config(**changes: Any) -> HSTUConfig:
    """A small model in float64."""
    given: dict[str, Any] = {
        "hidden_size": 12, "kv_channels": 5, "num_attention_heads": 2, "num_layers": 2,
        "max_seq_len": 9, "dtype": torch.float64, "hidden_dropout": 0.0,
    }  # fmt: skip
    return HSTUConfig(**{**given, **changes})


def sequences(
    lengths: list[int],
    *,
    contexts: list[int] | None = None,
    targets: list[int] | None = None,
    step: int | None = None,
    device: str = "cpu",
) -> Sequences:
    """Of these lengths, contexts and targets included; with ``step`` in training."""
    cu = prefix_sums(lengths, device)
    made = Sequences(cu, max(lengths))
    count = sum(lengths)
    sequence, place = made.places(count)
    if contexts is not None:
        made = made._replace(contexts=torch.tensor(contexts, dtype=torch.int32, device=device))
    if targets is not None:
        ends = torch.tensor(lengths)
        rows = [
            row
            for b, end in enumerate(ends.cumsum(0).tolist())
            for row in range(end - targets[b], end)
        ]
        made = made._replace(
            targets=torch.tensor(targets, dtype=torch.int32, device=device),
            cu_targets=prefix_sums(targets, device), max_targets=max(targets),
            target_rows=torch.tensor(rows, device=device),
        )  # fmt: skip
    times = torch.arange(count, device=device) ** 3 * 17 % 1000003
    made = made._replace(times=times.sort().values, next_times=(times + 31).sort().values)
    if step is not None:
        made = made._replace(random=Randomness(7 + step, 0, token_keys(sequence, place)))
    return made
