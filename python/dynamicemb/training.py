"""What a training step may have besides: gradients kept for later, keys that must be admitted."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dynamicemb.key_value_table import REFUSED, SKIPPED, Tiers
from dynamicemb.ops import ops
from dynamicemb.types import AdmissionStrategy, Counter, DynamicEmbCheckMode


class Gradients:
    """Sums of gradients of distinct keys, of several backwards."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, keys: Tensor, offsets: Tensor, sums: Tensor) -> None:
        self.parts.append((keys, offsets, sums))

    def empty(self) -> bool:
        return not self.parts

    def clear(self) -> None:
        self.parts.clear()

    def summed(self, tables: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct keys, where each table's begin, and their sums."""
        if not self.parts:
            none = torch.empty(0, dtype=torch.int64)
            return none, torch.zeros(tables + 1, dtype=torch.int64), torch.empty(0, 0)
        ends = [offsets.tolist() for _, offsets, _ in self.parts]
        keys, sums, lengths = [], [], []
        for t in range(tables):
            pieces = [
                (k[e[t] : e[t + 1]], s[e[t] : e[t + 1]])
                for (k, _, s), e in zip(self.parts, ends, strict=True)
            ]
            keys += [piece[0] for piece in pieces]
            sums += [piece[1] for piece in pieces]
            lengths.append(sum(len(piece[0]) for piece in pieces))
        every, values = torch.cat(keys), torch.cat(sums)
        offsets = torch.tensor([0, *lengths]).cumsum(0).to(every.device)
        unique, inverse, unique_offsets, _ = ops.segmented_unique(every, offsets, None, False)
        n = int(unique_offsets[-1])
        total = values.new_zeros(n, values.shape[1])
        total.index_add_(0, inverse.long(), values)
        self.parts = [(unique[:n], unique_offsets, total)]
        return self.parts[0]


def admitted(
    tiers: Tiers,
    strategy: AdmissionStrategy,
    counter: Counter | None,
    keys: Tensor,
    offsets: Tensor,
    counts: Tensor,
    scores: Tensor | None,
    pin: bool,
) -> tuple[Tensor, Tensor]:
    """``tiers.train`` for the keys that have a row or are admitted now; the others get row 0.

    Counting waits for the device.
    """
    n = int(offsets[-1])
    ids = ops.expand_ids(offsets, n).long()
    present, _memory = tiers.evaluate(keys, offsets)
    keep = present[:n] != 0
    missing = torch.nonzero(~keep)[:, 0]
    if len(missing):
        some, tables = keys[missing], ids[missing]
        frequencies = counts[missing]
        if counter is not None:
            frequencies = counter.add(some, tables, frequencies).to(keys.device)
        admit = strategy.admit(some, frequencies)
        if counter is not None and bool(admit.any()):
            counter.erase(some[admit], tables[admit])
        keep[missing] = admit
    chosen = torch.nonzero(keep)[:, 0]
    lengths = torch.bincount(ids[chosen], minlength=offsets.numel() - 1)
    tight = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    rows = torch.zeros_like(keys)
    status = torch.full((keys.numel(),), SKIPPED, dtype=torch.uint8, device=keys.device)
    some_scores = None if scores is None else scores[chosen]
    rows[chosen], status[chosen] = tiers.train(keys[chosen], tight, some_scores, pin)
    return rows, status


class RefusedKeys:
    """Raises or warns, as the mode says, where keys found no room; warns once."""

    def __init__(self, mode: DynamicEmbCheckMode) -> None:
        self._mode = mode

    def tell(self, keys: Tensor, status: Tensor) -> None:
        if self._mode is DynamicEmbCheckMode.IGNORE:
            return
        refused = keys[status == REFUSED]
        if not len(refused):
            return
        text = (
            f"dynamicemb: {len(refused)} keys found no room, the first of them "
            f"{refused[:8].tolist()}: raise max_capacity"
        )
        if self._mode is DynamicEmbCheckMode.ERROR:
            raise RuntimeError(text)
        self._mode = DynamicEmbCheckMode.IGNORE
        warnings.warn(text, stacklevel=5)
