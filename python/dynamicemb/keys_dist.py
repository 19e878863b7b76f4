"""How keys of row-wise tables reach their ranks under TorchRec, with one wait for the device.

TorchRec's own exchange of a batch waits four times and more: for what it sends, for what comes, for
each copy of such numbers to the device, for what it got. Here counts of all ranks cross on the
device, and come to the CPU once. Of sequences no lengths of bags cross: a lookup of rows asks how
many keys each feature has, not where a bag ends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dynamicemb import torchrec_compat
from dynamicemb.dealing import constant
from dynamicemb.link import Link
from dynamicemb.ops import ops

torchrec_compat.require()

from torchrec import KeyedJaggedTensor  # noqa: E402
from torchrec.distributed.dist_data import KJTAllToAllTensorsAwaitable  # noqa: E402
from torchrec.distributed.types import Awaitable  # noqa: E402


@lru_cache(maxsize=16)
def link_of(group: Any) -> Link:
    return Link(group)


@lru_cache(maxsize=64)
def by_feature(ranks: int, features: int, device: torch.device) -> Tensor:
    """int32: from (rank, feature) order to (feature, rank) order."""
    order = [r * features + f for f in range(features) for r in range(ranks)]
    return constant(tuple(order), device, torch.int32)


def by_rank(ranks: int, features: int, device: torch.device) -> Tensor:
    """int32: the way back."""
    return by_feature(features, ranks, device)


class Sizes(Awaitable):  # type: ignore[misc]
    """Of what every rank sends to every rank: under way.

    Args:
        link: of the ranks.
        dealt: features of rank 0, of rank 1 ...
        pooled: whether bags matter.
    """

    def __init__(self, link: Link, dealt: KeyedJaggedTensor, pooled: bool) -> None:
        super().__init__()
        self.link, self.world, self.dealt, self.pooled = link, link.world, dealt, pooled
        self.features = len(dealt.keys()) // self.world
        samples = dealt.stride()
        # Numbers given and come; the last of each rank is its samples.
        shape = (2, self.world, self.features + 1)
        self.both = torch.full(shape, samples, dtype=torch.int64, device=dealt.device())
        given, self.came = self.both.unbind()
        lengths = dealt.lengths().view(self.world, self.features, samples)
        torch.sum(lengths, 2, dtype=torch.int64, out=given[:, :-1])
        self.work = link.all_to_all(given, None, None, self.came)[1]

    def _wait_impl(self) -> Keys:
        self.link.wait(self.work)
        return Keys(self, *self.link.on_host(self.both))  # the one wait


class Keys(KJTAllToAllTensorsAwaitable):  # type: ignore[misc]
    """Keys, and what goes with them, under way. TorchRec reads the attributes with ``_``."""

    def __init__(self, asked: Sizes, sent: list[list[int]], received: list[list[int]]) -> None:
        Awaitable.__init__(self)
        self.asked, self.received = asked, received
        self.batches = [row[-1] for row in received]
        to, of = ([sum(row[:-1]) for row in half] for half in (sent, received))
        self.sent_rows, self.received_rows = to, of
        self._input_splits, self._output_splits = {"values": to}, {"values": of}
        self._recat, self._stride_per_rank = None, self.batches
        dealt, features = asked.dealt, asked.features
        weights = dealt.weights_or_none()
        start = asked.link.all_to_all
        self.values = start(dealt.values(), of, to)
        self.weights = None if weights is None else start(weights, of, to)
        self.lengths = None
        if asked.pooled:
            to, of = ([row[-1] * features for row in half] for half in (sent, received))
            self.lengths = start(dealt.lengths(), of, to)

    def _arrived(self, one: tuple[Tensor, Any] | None) -> Tensor | None:
        if one is None:
            return None
        self.asked.link.wait(one[1])
        return one[0]

    def _wait_impl(self) -> KeyedJaggedTensor:
        values, weights, lengths = (
            self._arrived(one) for one in (self.values, self.weights, self.lengths)
        )
        assert values is not None
        asked, n, device = self.asked, values.numel(), values.device
        world, features = asked.world, asked.features
        order = by_feature(world, features, device)
        counts = asked.came[:, :-1].reshape(-1, 1).contiguous()
        if lengths is None:
            lengths, values, moved = ops.permute_rows(order, counts, values, weights, n)
            lengths, samples = lengths.to(asked.dealt.lengths().dtype), world
        elif len(set(self.batches)) == 1:
            samples = sum(self.batches)
            bags = lengths.view(world * features, self.batches[0])
            lengths, values, moved = ops.permute_rows(order, bags, values, weights, n)
        else:
            samples = sum(self.batches)
            _, values, moved = ops.permute_rows(order, counts, values, weights, n)
            own = constant(tuple(b for b in self.batches for _ in range(features)), device)
            _, lengths, _ = ops.permute_rows(order, own[:, None], lengths, None, lengths.numel())
        return KeyedJaggedTensor(
            keys=asked.dealt.keys()[:features],
            values=values,
            weights=None if weights is None else moved,
            lengths=lengths.view(-1),
            stride=samples,
            length_per_key=[sum(row[f] for row in self.received) for f in range(features)],
        )
