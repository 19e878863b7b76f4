"""Batches whose rows are brought before their forward."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import Lookup
from dynamicemb.host_copy import Numbers
from dynamicemb.sorting import Sorted
from dynamicemb.table_api import TableApi


class InPlace:
    """How many rows of a prefetched batch stayed in host memory for want of room in the cache."""

    def __init__(self, count: Numbers | None) -> None:
        self._count = count

    def any(self) -> bool:
        """Waits until the batch's keys were looked up, not until their rows are there."""
        return self._count is not None and bool(self._count.read()[0])


class Later(NamedTuple):
    """A batch that is brought at its forward: one before it has rows that a prefetch may move."""

    indices: Tensor
    offsets: Tensor
    frequencies: Tensor | None


class Prepared(NamedTuple):
    """A batch whose rows are there."""

    lookup: Lookup
    indices: Tensor
    pinned: bool
    version: int
    snapshot: object  # that was being read; it knows these rows
    in_place: InPlace
    order: Sorted
    ready: Any = None  # the event after which a prefetch on a GPU is done


class Prefetching(TableApi):
    """What tables do ahead of time."""

    trains: bool
    _prefetched: deque[Prepared | Later]
    _awaiting: list[InPlace]

    def _refreshed(self, prepared: Prepared, lookup: Lookup) -> Lookup:
        raise NotImplementedError

    def prefetch(
        self,
        indices: Tensor,
        offsets: Tensor,
        forward_stream: Any = None,
        batch_size_per_feature_per_rank: object = None,
        frequency_counters: Tensor | None = None,
    ) -> None:
        """Brings the rows of a later forward, in the order of the calls; they stay until its
        backward. The current stream is the prefetch's; the batch's forward, which will run on
        ``forward_stream``, waits for it, and what runs there before does not.
        """
        if batch_size_per_feature_per_rank is not None:
            raise ValueError(
                "dynamicemb: batch_size_per_feature_per_rank must be None, got "
                f"{batch_size_per_feature_per_rank!r}"
            )
        if not (self.training and self.trains):
            return
        crowded = any(isinstance(one, Later) or one.in_place.any() for one in self._prefetched)
        if crowded or any(one.any() for one in self._awaiting):
            self._prefetched.append(Later(indices, offsets, frequency_counters))
            return
        prepared = self._prepare(indices, offsets, frequency_counters, pin=True, sorts=True)
        prepared.order.join(forward_stream)
        if self.device.type == "cuda":
            prepared = prepared._replace(
                ready=torch.cuda.current_stream(self.device).record_event()
            )
        if forward_stream is not None:
            _, *of_batch = prepared.lookup  # the state of the tables lives on
            for tensor in (*of_batch, prepared.indices):
                if isinstance(tensor, Tensor):
                    tensor.record_stream(forward_stream)
        self._prefetched.append(prepared)

    def _brought(self, indices: Tensor) -> Prepared:
        """The batch that was prefetched first."""
        prepared = self._prefetched.popleft()
        self._check_prefetched(prepared, indices)
        if isinstance(prepared, Later):
            found: Prepared = self._prepare(*prepared)
            return found
        if prepared.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(prepared.ready)
        self._awaiting.append(prepared.in_place)
        return prepared._replace(
            lookup=self._refreshed(prepared, prepared.lookup), version=self.tiers.first.version
        )

    def _released(self, prepared: Prepared, lookup: Lookup) -> None:
        self._unpin(lookup)
        if prepared.in_place in self._awaiting:
            self._awaiting.remove(prepared.in_place)

    def _check_prefetched(self, prepared: Prepared | Later, indices: Tensor) -> None:
        same = prepared.indices.shape == indices.shape
        if same and self.device.type == "cpu":
            same = torch.equal(prepared.indices, indices.view(torch.int64))
        if not same:
            raise ValueError(
                f"dynamicemb: indices {tuple(indices.shape)} are not those that were prefetched "
                f"first, {tuple(prepared.indices.shape)}"
            )

    def reset_cache_states(self) -> None:
        """Forgets outstanding prefetches."""
        while self._prefetched:
            dropped = self._prefetched.popleft()
            if not isinstance(dropped, Later):
                self._unpin(dropped.lookup)
