"""Data of BenchmarkDatasetArgs, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hstu_training.data.columns import Array
from hstu_training.training.gin_config_args import (
    BenchmarkDatasetArgs,
    FeatureArgs,
    RandomDistribution,
)
from hstu_training.training.gin_file import fail


def draw_integers(
    draw: np.random.Generator, how: RandomDistribution | None, high: int, count: int
) -> Array:
    """(count) int64 below ``high``, or below what the distribution says."""
    how = how or RandomDistribution()
    low, high = how.low, how.high or high
    if how.dist_type == "zipf":
        assert how.alpha is not None
        # By the inverse of its integral, so that the greatest is not drawn again and again.
        power = 1.0 - how.alpha
        u = draw.random(count)
        values = ((float(high - low + 1) ** power - 1) * u + 1) ** (1 / power) - 1
    elif how.dist_type == "normal":
        values = draw.normal((low + high) / 2, (high - low) / 6, count)
    else:
        values = draw.integers(low, high, count)
    shifted = values.astype(np.int64) + (low if how.dist_type == "zipf" else 0)
    return np.asarray(np.clip(shifted, low, high - 1))


def _lengths(
    draw: np.random.Generator, how: RandomDistribution | None, longest: int, count: int
) -> Array:
    """(count) from 2 to ``longest``; of a Zipf law what is longer is cut to it."""
    if how is not None and how.dist_type == "zipf":
        assert how.alpha is not None
        return np.asarray(np.clip(draw.zipf(how.alpha, count), max(2, how.low), longest))
    return np.asarray(np.clip(draw_integers(draw, how, longest + 1, count), 2, longest))


class Generated:
    """What ``Columns`` is, made up.

    Args:
        given: features and their distributions.
        batch_size: sequences of a batch; there are num_generated_batches of them.
        bits: tasks of the model: actions are so many bits; 0: they are ``classes`` classes.
        classes: see there.
        seed: of the draws.
    """

    def __init__(
        self, given: BenchmarkDatasetArgs, batch_size: int, bits: int, classes: int, seed: int
    ) -> None:
        self.folder = Path("BenchmarkDatasetArgs")
        features = {name: f for f in given.feature_args for name in f.feature_names}
        for name in (given.item_feature_name, *given.contextual_feature_names):
            if name not in features:
                fail(given, "feature_args", f"FeatureArgs for {name!r}, too")
        draw = np.random.default_rng(seed)
        self.users = batch_size * given.num_generated_batches
        item: FeatureArgs = features[given.item_feature_name]
        longest = item.max_sequence_length
        lengths = np.full(self.users, longest)
        if item.is_jagged:
            lengths = _lengths(draw, item.seqlen_dist, longest, self.users)
        total = int(lengths.sum())
        dists = item.value_dists if isinstance(item.value_dists, RandomDistribution) else None
        ids = draw_integers(draw, dists, item.vocab_size, total)
        self.columns: dict[str, Array] = {
            "user_ids": np.arange(self.users),
            "offsets": np.concatenate([[0], np.cumsum(lengths)]),
            "items": ids,
            "times": np.arange(total),
            "actions": draw.integers(0, 1 << bits if bits else classes, total).astype(np.int32),
            "catalogue": np.unique(ids),
        }
        self.contexts: dict[str, int] = {}
        for name in given.contextual_feature_names:
            size = features[name].vocab_size
            self.columns[f"context.{name}"] = draw.integers(0, size, self.users)
            self.contexts[name] = size
        self.manifest: dict[str, Any] = {
            "dataset": "benchmark", "users": self.users, "events": total, "time_unit": 1,
            "items": len(self.columns["catalogue"]), "bits": bits > 0,
            "action_size": 1 << bits if bits else classes, "contexts": self.contexts, "files": {},
        }  # fmt: skip

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def lengths(self) -> Array:
        return np.diff(self.columns["offsets"])
