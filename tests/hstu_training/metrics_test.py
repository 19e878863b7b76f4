"""Metrics equal scikit-learn's, and a sort's, on any split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hstu_training.modules.metrics.ranking import ScoreCounts
from hstu_training.modules.metrics.retrieval import RankMetrics, parse_metric, ranks_by_counting
from hypothesis import given, settings
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn.metrics")


def drawn(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    scores = draw.random(n).astype(np.float32)
    if ties:
        scores = np.round(scores * 16) / 16
    labels = (draw.random(n) < 0.3 + 0.4 * scores).astype(np.int64)
    labels[:2] = 0, 1
    return scores, labels, draw.integers(0, 5, n)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 400), st.booleans(), st.integers(1, 7))
def test_auc_and_ne_are_scikit_learn_s(seed: int, n: int, ties: bool, parts: int) -> None:
    scores, labels, _ = drawn(seed, n, ties)
    counts, other = ScoreCounts(), ScoreCounts()
    for i, at in enumerate(np.array_split(np.arange(n), parts)):
        (other if i % 2 else counts).add(scores[at], labels[at])
    counts.merge(*other.state())  # a second process
    assert abs(counts.auc() - sklearn.roc_auc_score(labels, scores)) < 1e-12
    p = scores.astype(np.float64)
    rate = np.full(n, labels.mean())
    wanted = sklearn.log_loss(labels, p) / sklearn.log_loss(labels, rate)
    assert abs(counts.ne() - wanted) < 1e-12 * max(1, wanted)
    assert len(counts.scores) == len(np.unique(scores))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(10, 300))
def test_gauc_is_the_weighted_mean_of_groups(seed: int, n: int) -> None:
    scores, labels, groups = drawn(seed, n, True)
    counts, total, weight = ScoreCounts(), 0.0, 0
    for at in np.array_split(np.arange(n), 4):
        counts.add(scores[at], labels[at], groups[at])
    for group in np.unique(groups):
        here = groups == group
        if len(np.unique(labels[here])) == 2:
            total += here.sum() * sklearn.roc_auc_score(labels[here], scores[here])
            weight += here.sum()
    wanted = total / weight if weight else math.nan
    assert math.isclose(counts.gauc(), wanted, abs_tol=1e-12) or wanted != wanted
    assert abs(counts.auc() - sklearn.roc_auc_score(labels, scores)) < 1e-12


def test_one_label_alone_has_no_auc() -> None:
    counts = ScoreCounts()
    counts.add(np.array([0.1, 0.2]), np.array([1, 1]))
    assert math.isnan(counts.auc()) and math.isnan(counts.ne()) and math.isnan(counts.gauc())


@pytest.mark.parametrize(
    ("scores", "labels", "named"),
    [([0.1], [2], "labels"), ([np.nan], [1], "scores"), ([0.1, 0.2], [1], "labels")],
)
def test_wrong_scores_are_refused(scores: list[float], labels: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ScoreCounts().add(np.array(scores), np.array(labels))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 70), st.integers(0, 40))
def test_ranks_are_those_of_a_sort_with_ties_against_the_model(
    seed: int, items: int, chunk: int, seen_count: int
) -> None:
    torch.manual_seed(seed)
    queries, table = torch.randn(4, 3).round(), torch.randn(items, 3).round()  # many ties
    targets = torch.randint(0, items, (4,))
    pairs = torch.unique(torch.randint(0, 4 * items, (seen_count,)))
    seen = (pairs // items, pairs % items)
    every, unseen = ranks_by_counting(queries, items, lambda a, b: table[a:b], targets, seen, chunk)
    scores = queries @ table.T
    for n in range(4):
        others = [i for i in range(items) if i != targets[n]]
        high = [i for i in others if scores[n, i] >= scores[n, targets[n]]]
        left = {int(i) for u, i in zip(*seen, strict=True) if u == n}
        assert every[n] == 1 + len(high)
        assert unseen[n] == 1 + len([i for i in high if i not in left])


def test_hr_ndcg_and_mrr_of_known_ranks() -> None:
    metrics = RankMetrics(("HR@10", "NDCG@10", "MRR", "HR@1"))
    metrics.add(torch.tensor([1, 10]))
    metrics.merge({11: 2})
    found = metrics.results()
    assert found["HR@10"] == 0.5 and found["HR@1"] == 0.25
    assert found["NDCG@10"] == pytest.approx((1 + 1 / math.log2(11)) / 4)
    assert found["MRR"] == pytest.approx((1 + 1 / 10 + 2 / 11) / 4)


@pytest.mark.parametrize("name", ["HR", "HR@0", "hr@10", "NDCG@", "MRR@5", "AUC"])
def test_a_metric_s_name_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match="eval_metrics"):
        parse_metric(name)
