"""Metrics over a part of the data, the same numbers for any batch size and number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hstu_training.data.batches import Batch
from hstu_training.model.ranking_gr import RankingGR
from hstu_training.model.retrieval_gr import RetrievalGR
from hstu_training.modules.metrics.ranking import ScoreCounts
from hstu_training.modules.metrics.retrieval import RankMetrics, ranks_by_counting
from hstu_training.training.processes import Processes

_CHUNK = 8192


def _numpy(t: Tensor) -> Any:
    return t.detach().cpu().numpy()


def evaluate_ranking(
    model: RankingGR, batches: Iterator[Batch], processes: Processes
) -> dict[str, float]:
    """The task's metrics: of each binary task (``AUC_0`` ...) and their mean; of classes the mean
    of one against the others."""
    task = model.task
    counts = [ScoreCounts() for _ in range(task.logits)]
    right = np.zeros(2, np.int64)
    with torch.no_grad():
        for batch in batches:
            logits = model.logits(batch).double()
            if not batch.count:
                continue
            labels = model.labels(batch)
            if task.binary:
                scores, truth = torch.sigmoid(logits), labels
            else:
                scores = torch.softmax(logits, 1)
                truth = torch.nn.functional.one_hot(labels, task.logits)
                right += [int((logits.argmax(1) == labels).sum()), len(labels)]
            groups = _numpy(batch.groups)
            for i, one in enumerate(counts):
                one.add(_numpy(scores[:, i]), _numpy(truth[:, i]), groups)
    everyone = processes.all(([one.state() for one in counts], right))
    merged, hits = [ScoreCounts() for _ in counts], np.zeros(2, np.int64)
    for states, some in everyone:
        hits += some
        for one, state in zip(merged, states, strict=True):
            one.merge(*state)
    results: dict[str, float] = {}
    kinds = {"AUC": ScoreCounts.auc, "GAUC": ScoreCounts.gauc, "NE": ScoreCounts.ne}
    for name in task.eval_metrics:
        if name == "ACC":
            results[name] = float(hits[0] / hits[1]) if hits[1] else float("nan")
            continue
        values = [kinds[name](one) for one in merged]
        defined = [value for value in values if value == value]
        results[name] = sum(defined) / len(defined) if defined else float("nan")
        if task.binary and len(values) > 1:
            results |= {f"{name}_{i}": value for i, value in enumerate(values)}
    return results


def evaluate_retrieval(
    model: RetrievalGR, batches: Iterator[Batch], processes: Processes
) -> dict[str, float]:
    """Metrics among the items that a user has not seen, and ``..._all`` among all items."""
    catalogue = model.catalogue
    with torch.no_grad():
        parts = [
            model.items(catalogue[begin : begin + _CHUNK])
            for begin in range(0, len(catalogue), _CHUNK)
        ]
        unseen, every = (RankMetrics(model.task.eval_metrics) for _ in range(2))
        for batch in batches:
            queries = model.queries(batch)
            if not batch.count:
                continue
            assert batch.seen is not None
            places = torch.searchsorted(catalogue, batch.seen[1])
            targets = torch.searchsorted(catalogue, batch.labels)
            ranks = ranks_by_counting(
                queries, len(catalogue), lambda begin, _: parts[begin // _CHUNK], targets,
                (batch.seen[0], places), _CHUNK,
            )  # fmt: skip
            every.add(ranks[0])
            unseen.add(ranks[1])
    for one in (unseen, every):
        counts = processes.all(one.counts)
        one.counts = {}
        for some in counts:
            one.merge(some)
    return unseen.results() | {f"{k}_all": v for k, v in every.results().items()}
