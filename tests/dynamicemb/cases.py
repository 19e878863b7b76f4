"""Modules and batches that several tests make, and a model of a table in plain Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from dynamicemb import (
    BatchedDynamicEmbeddingTablesV2,
    DynamicEmbInitializerArgs,
    DynamicEmbInitializerMode,
    DynamicEmbPoolingMode,
    DynamicEmbTableOptions,
    ref,
)
from dynamicemb import initializer as init
from torch import Tensor

NORMAL = DynamicEmbInitializerArgs(DynamicEmbInitializerMode.NORMAL, std_dev=0.5)
SEED = 7
BIG = 1 << 40


def options(dim: int, capacity: int = 4096, **changes: Any) -> DynamicEmbTableOptions:
    given = {
        "embedding_dtype": torch.float32,
        "initializer_args": NORMAL,
        "local_hbm_for_values": BIG,
    }
    return DynamicEmbTableOptions(dim=dim, max_capacity=capacity, **{**given, **changes})


def tables(
    dims: Sequence[int], device: str, pooling: str = "SUM", **changes: Any
) -> BatchedDynamicEmbeddingTablesV2:
    """A module of a table for each dim; ``changes`` of its options and of its own arguments."""
    fields = DynamicEmbTableOptions.__dataclass_fields__
    of_tables = {k: v for k, v in changes.items() if k in fields}
    rest = {k: v for k, v in changes.items() if k not in fields}
    capacity = of_tables.pop("max_capacity", 4096)
    return BatchedDynamicEmbeddingTablesV2(
        [options(dim, capacity, **of_tables) for dim in dims],
        [f"table{t}" for t in range(len(dims))],
        pooling_mode=DynamicEmbPoolingMode[pooling],
        device=device,
        seed=SEED,
        **{"output_dtype": torch.float32, **rest},
    )


def batch(
    draw: random.Random, features: int, samples: int, longest: int, keys: int
) -> tuple[list[int], list[int]]:
    """Indices and offsets; some bags are empty, small ids are frequent."""
    indices: list[int] = []
    offsets = [0]
    for _ in range(features * samples):
        for _ in range(draw.randint(0, longest)):
            indices.append(int(keys * draw.random() ** 3) * 7919 - 3)
        offsets.append(len(indices))
    return indices, offsets


def on(device: str, *lists: list[int]) -> list[Tensor]:
    return [torch.tensor(one, dtype=torch.int64, device=device) for one in lists]


def first_row(dim: int, table: int, key: int) -> Tensor:
    """Float64 of the row that NORMAL and SEED give, rounded to float32 as the table stores it."""
    _, *bits = init.init_words(NORMAL)
    numbers = torch.tensor(bits, dtype=torch.int64).view(torch.float64).tolist()
    seed = init.table_seed(SEED, f"table{table}")
    return torch.tensor(ref.initial_row("normal", numbers, seed, key, dim), dtype=torch.float64)


class Model:
    """Tables as dictionaries: key -> row of ``ref.optimizer_step``."""

    def __init__(self, dims: Sequence[int], kind: str, hyper: dict[str, float]) -> None:
        self.dims, self.kind, self.hyper = dims, kind, hyper
        self.rows: list[dict[int, dict[str, Any]]] = [{} for _ in dims]

    def row(self, table: int, key: int, start: Tensor | None = None) -> dict[str, Any]:
        if key not in self.rows[table]:
            w = first_row(self.dims[table], table, key) if start is None else start
            acc = self.hyper.get("initial_accumulator_value", 0.0)
            zeros = torch.zeros_like(w)
            s0 = zeros + (acc if self.kind in ("adagrad",) else 0.0)
            row = {"w": w, "s0": s0, "s1": zeros + acc, "step": 0}
            if self.kind == "rowwise_adagrad":
                row["s0"] = torch.tensor(acc, dtype=torch.float64)
            if self.kind == "adam":
                row["s1"] = zeros
            self.rows[table][key] = row
        return self.rows[table][key]

    def train(
        self, indices: list[int], offsets: list[int], grad: Tensor, pooling: str,
        weights: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The output before the step; ``grad`` is its gradient. A feature is a table."""
        samples = (len(offsets) - 1) // len(self.dims)
        out = torch.zeros(samples, sum(self.dims), dtype=torch.float64)
        sums: dict[tuple[int, int], Tensor] = {}
        at = 0
        for t, dim in enumerate(self.dims):
            for b in range(samples):
                begin, end = offsets[t * samples + b], offsets[t * samples + b + 1]
                for i in range(begin, end):
                    key = indices[i]
                    scale = 1.0 if weights is None else float(weights[i])
                    scale /= end - begin if pooling == "MEAN" else 1
                    out[b, at : at + dim] += scale * self.row(t, key)["w"]
                    g = scale * grad[b, at : at + dim].double()
                    sums[t, key] = sums[t, key] + g if (t, key) in sums else g
            at += dim
        for (t, key), g in sums.items():
            ref.optimizer_step(self.kind, self.rows[t][key], g, self.hyper)
        return out
