"""AUC, GAUC and NE, exact: they keep how often each distinct score occurred with each label."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hstu_training.checks import CHECKS

Array = npt.NDArray[Any]


class ScoreCounts:
    """Counts of distinct (group, score) with label 0 and with label 1.

    Memory is bounded by their number; adding and merging commute, so neither the split into
    batches nor the number of processes changes a result.
    """

    def __init__(self) -> None:
        self.groups = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float64)
        self.counts = np.empty((0, 2), np.int64)

    def add(self, scores: Array, labels: Array, groups: Array | None = None) -> None:
        """(n) scores and labels 0 or 1, and groups, int64."""
        scores = np.asarray(scores, np.float64)
        labels = np.asarray(labels).astype(np.int64)
        if scores.shape != labels.shape or scores.ndim != 1:
            CHECKS.fail(
                f"labels must have the shape of scores, (n), got {labels.shape} and {scores.shape}"
            )
        if not np.isfinite(scores).all():
            CHECKS.fail("scores must be finite, got one that is not")
        if labels.size and (labels.min() < 0 or labels.max() > 1):
            CHECKS.fail(f"labels must be 0 or 1, got {labels.min()} to {labels.max()}")
        counts = np.stack([1 - labels, labels], 1)
        where = np.zeros(len(scores), np.int64) if groups is None else np.asarray(groups, np.int64)
        self.merge(where, scores + 0.0, counts)  # -0.0 and 0.0 are one score

    def merge(self, groups: Array, scores: Array, counts: Array) -> None:
        """Adds what another one has."""
        every = np.concatenate([self.groups, groups]), np.concatenate([self.scores, scores])
        order = np.lexsort((every[1], every[0]))
        sorted_groups, sorted_scores = every[0][order], every[1][order]
        added = np.concatenate([self.counts, counts])[order]
        if not len(order):
            return
        new = np.ones(len(order), bool)
        new[1:] = np.diff(sorted_groups) != 0
        new[1:] |= np.diff(sorted_scores) != 0
        first = np.flatnonzero(new)
        self.groups, self.scores = sorted_groups[first], sorted_scores[first]
        self.counts = np.add.reduceat(added, first, axis=0)

    def _auc(self, counts: Array) -> float:
        """Of one group, scores ascending; counts are whole numbers, so this rounds once."""
        negatives, positives = counts.sum(0).tolist()
        if not negatives or not positives:
            return math.nan
        below = np.cumsum(counts[:, 0]) - counts[:, 0]
        twice = sum((2 * int(b) + int(n)) * int(p) for b, (n, p) in zip(below, counts, strict=True))
        return float(twice / (2 * negatives * positives))

    def auc(self) -> float:
        """The chance that a positive scores above a negative, ties counting half; NaN without
        both."""
        if not len(np.unique(self.groups)) > 1:
            return self._auc(self.counts)
        whole = ScoreCounts()
        whole.merge(np.zeros_like(self.groups), self.scores, self.counts)
        return whole._auc(whole.counts)

    def gauc(self) -> float:
        """Mean AUC of the groups that have both labels, weighted by their sizes."""
        total, weight = [], 0
        new = np.diff(self.groups, prepend=self.groups[:1] - 1) != 0
        ends = [*np.flatnonzero(new).tolist(), len(self.groups)]
        for begin, end in itertools.pairwise(ends):
            counts = self.counts[begin:end]
            if (auc := self._auc(counts)) == auc:
                total.append(auc * int(counts.sum()))
                weight += int(counts.sum())
        return math.fsum(total) / weight if weight else math.nan

    def ne(self) -> float:
        """Log loss over the entropy of the base rate; scores are probabilities."""
        negatives, positives = self.counts.sum(0).tolist()
        if not negatives or not positives:
            return math.nan
        p = np.clip(self.scores, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
        losses = -(self.counts[:, 1] * np.log(p) + self.counts[:, 0] * np.log1p(-p))
        total = negatives + positives
        rate = positives / total
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        return float(math.fsum(losses.tolist()) / total / entropy)

    def state(self) -> tuple[Array, Array, Array]:
        """What ``merge`` takes."""
        return self.groups, self.scores, self.counts
