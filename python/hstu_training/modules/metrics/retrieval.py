"""HR@k, NDCG@k and MRR of one right item among the whole catalogue."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from hstu_training.checks import CHECKS

Score = Callable[[int, int], Tensor]


def parse_metric(name: str) -> tuple[str, int]:
    """("HR", 10) of "HR@10", ("MRR", 0) of "MRR".

    Raises:
        ValueError: another name.
    """
    found = re.fullmatch(r"(HR|NDCG)@([1-9]\d*)|MRR", name) if isinstance(name, str) else None
    if not found:
        CHECKS.fail(f"eval_metrics must be HR@k, NDCG@k or MRR, got {name!r}")
    return ("MRR", 0) if name == "MRR" else (found[1], int(found[2]))


def ranks_by_counting(
    queries: Tensor,
    items: int,
    embeddings: Callable[[int, int], Tensor],
    targets: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
    chunk: int = 8192,
) -> tuple[Tensor, Tensor]:
    """The rank of each query's target: 1 + how many others score as high or higher.

    Scores are float32 products. The catalogue is gone through in chunks, nothing is sorted, and no
    rank is cut off.

    Args:
        queries: (n, dim).
        items: how many items there are.
        embeddings: (begin, end) -> (end - begin, dim) of these items.
        targets: (n) int64, places in the catalogue.
        seen: (m) int64 queries and (m) int64 items: pairs that the second rank leaves out; the
            target itself may be among them.
        chunk: items of a step.

    Returns:
        two (n) int64: among all items, and among those not seen (equal without ``seen``).
    """
    queries = queries.float()
    own = torch.empty(len(queries), device=queries.device)
    for begin in range(0, items, chunk):
        end = min(begin + chunk, items)
        here = ((targets >= begin) & (targets < end)).nonzero()[:, 0]
        scores = queries @ embeddings(begin, end).float().t()
        own[here] = scores[here, targets[here] - begin]
    if seen is not None:  # a pair counts once, however often it was seen
        pairs = torch.unique(seen[0] * items + seen[1])
        seen = pairs // items, pairs % items
    above = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    of_seen = torch.zeros_like(above)
    for begin in range(0, items, chunk):
        end = min(begin + chunk, items)
        high = queries @ embeddings(begin, end).float().t() >= own[:, None]
        here = ((targets >= begin) & (targets < end)).nonzero()[:, 0]
        high[here, targets[here] - begin] = False
        above += high.sum(1)
        if seen is not None:
            inside = (seen[1] >= begin) & (seen[1] < end)
            user, item = seen[0][inside], seen[1][inside]
            of_seen.index_add_(0, user, high[user, item - begin].long())
    return above + 1, above + 1 - of_seen


class RankMetrics:
    """How often each rank occurred; sums of any metric are made of that, in one order.

    Args:
        names: "HR@k", "NDCG@k", "MRR".
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = {name: parse_metric(name) for name in names}
        self.counts: dict[int, int] = {}

    def add(self, ranks: Tensor) -> None:
        """(n) int64 ranks, from 1 on."""
        values, counts = torch.unique(ranks, return_counts=True)
        self.merge(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def merge(self, counts: dict[int, int]) -> None:
        for rank, count in counts.items():
            self.counts[rank] = self.counts.get(rank, 0) + count

    def results(self) -> dict[str, float]:
        """Each metric, the mean over all ranks; NaN where there are none."""
        total = sum(self.counts.values())

        def gain(kind: str, k: int, rank: int) -> float:
            if kind == "MRR":
                return 1.0 / rank
            if rank > k:
                return 0.0
            return 1.0 if kind == "HR" else 1.0 / math.log2(rank + 1)

        return {
            name: math.fsum(n * gain(kind, k, rank) for rank, n in sorted(self.counts.items()))
            / total
            if total
            else math.nan
            for name, (kind, k) in self.names.items()
        }
