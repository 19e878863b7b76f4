"""The scores of a module's tables: what the keys of the next batch get, what the last ones had."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.ops import ops
from dynamicemb.types import DynamicEmbScoreStrategy

if TYPE_CHECKING:
    from dynamicemb.key_value_table import Tiers

_clock = itertools.count(time.time_ns())


class Scores:
    """Scores of STEP and CUSTOMIZED lie in a tensor on the device, one a table."""

    def __init__(
        self, options: Sequence[DynamicEmbTableOptions], names: Sequence[str], device: torch.device
    ) -> None:
        self.strategy = options[0].scores
        self.stamped = options[0].stamped
        self.names = list(names)
        self.counts = self.strategy is DynamicEmbScoreStrategy.LFU
        self.given: Tensor | None = None
        if self.strategy in (DynamicEmbScoreStrategy.STEP, DynamicEmbScoreStrategy.CUSTOMIZED):
            self.given = torch.zeros(len(self.names), dtype=torch.int64, device=device)
        if self.strategy is DynamicEmbScoreStrategy.STEP:
            assert self.given is not None
            self.given += 1
        self.were_set: dict[str, int] = {}  # on the CPU: a step waits for no number of the device

    def check(self) -> None:
        """Raises where a table waits for its ``set_score``."""
        if self.strategy is not DynamicEmbScoreStrategy.CUSTOMIZED:
            return
        missing = [name for name in self.names if name not in self.were_set]
        if missing:
            raise ValueError(
                f"dynamicemb: score_strategy CUSTOMIZED needs set_score before a forward; tables "
                f"without one: {', '.join(missing)}"
            )

    def of(self, keys: Tensor, offsets: Tensor, counts: Tensor) -> Tensor | None:
        """(n) int64 for the hash table; None where its clock says them."""
        if self.counts:
            return counts
        if self.given is None:
            return None
        tables = ops.expand_ids(offsets, keys.numel())
        return self.given[tables.long()]

    def stamp(self) -> int:
        """The time of a batch, for rows that keep it: greater than that of every one before."""
        return next(_clock) if self.stamped else 0

    def advance(self) -> None:
        if self.strategy is DynamicEmbScoreStrategy.STEP:
            assert self.given is not None
            self.given += 1

    def set(self, scores: Mapping[str, int]) -> None:
        if self.strategy is not DynamicEmbScoreStrategy.CUSTOMIZED:
            raise ValueError(
                f"dynamicemb: set_score needs score_strategy CUSTOMIZED, and it is "
                f"{self.strategy.name}"
            )
        assert self.given is not None
        for name, score in scores.items():
            if name not in self.names:
                raise ValueError(
                    f"dynamicemb: set_score: there is no table {name!r}; there are "
                    f"{', '.join(self.names)}"
                )
            if isinstance(score, bool) or not isinstance(score, int) or not 0 < score < 2**63:
                raise ValueError(
                    f"dynamicemb: score of table {name!r} must be an int from 1 to 2^63 - 1, got "
                    f"{score!r}"
                )
        for name, score in scores.items():
            table, before = self.names.index(name), self.were_set.get(name, 0)
            falls = score < before
            if falls and os.environ.get("DYNAMICEMB_CSTM_SCORE_CHECK") != "0":
                warnings.warn(
                    f"dynamicemb: score of table {name!r} falls from {before} to {score}",
                    stacklevel=3,
                )
            self.given[table].fill_(score)
            self.were_set[name] = score

    def current(self, table: int, tiers: Tiers) -> int:
        """A threshold: rows written from now on have at least this score, older ones less (with
        CUSTOMIZED and LFU as far as the scores say)."""
        if self.stamped:
            return next(_clock)
        if self.strategy is DynamicEmbScoreStrategy.STEP:
            assert self.given is not None
            return int(self.given[table])
        if self.strategy is DynamicEmbScoreStrategy.CUSTOMIZED:
            assert self.given is not None
            return int(self.given[table])
        if self.strategy is DynamicEmbScoreStrategy.LFU:
            return 0
        greatest = 0
        for tier in (tiers.first, tiers.host):
            for _, _, scores in tier.export(table, values=False) if tier is not None else ():
                greatest = max(greatest, int(scores.max()))
        return greatest + 1

    def loaded(self, table: int, step: int) -> None:
        """Rows of a dump came, whose steps ended before this one."""
        if self.strategy is DynamicEmbScoreStrategy.STEP:
            assert self.given is not None
            self.given[table].clamp_(min=step)
