"""Which rank a key is of, and the order of what was dealt out and received: index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicemb.dynamicemb_config import DIST_TYPES
from dynamicemb.ops import ops

CONTINUOUS, HASHED = DIST_TYPES.index("continuous"), DIST_TYPES.index("hash_roundrobin")
ROUND = DIST_TYPES.index("roundrobin")
LONG = 64  # keys of a segment
MOST_PARTS = 1024  # of ops.deal_keys


@lru_cache(maxsize=256)
def constant(
    values: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """On a GPU the CPU waits for its copy once."""
    return torch.tensor(values, dtype=dtype, device=device)


class Dealt(NamedTuple):
    """Keys in the order of their owners: of rank 0 segment by segment, of rank 1 ..."""

    keys: Tensor  # (n) int64; those beyond the segments' end are undefined
    lengths: Tensor  # (world, segments) int64
    place: Tensor  # (n) int64: where each key went
    weights: Tensor | None


def deal(
    keys: Tensor,
    offsets: Tensor,
    dist: Tensor,
    block_sizes: Tensor | None,
    world: int,
    weights: Tensor | None = None,
    only: int | None = None,
) -> Dealt:
    """Deals the keys of some segments out to ranks; a key stays what it is in each ``dist``.

    Args:
        keys: (n) int64.
        offsets: (features * batch + 1) int64.
        dist: (features) int32, ``DIST_TYPES`` by index.
        block_sizes: (features) int64 for "continuous", or None where no feature is.
        weights: (n) float32 that go along.
        only: the code of all features, where they have one in common.
    """
    segments = offsets.numel() - 1
    if keys.device.type == "cuda" and keys.numel() > LONG * segments:
        if dist.numel() < segments or world * segments > MOST_PARTS:
            return deal_long(keys, offsets, dist, block_sizes, world, weights, only)
        lengths, dealt, place = ops.deal_keys(keys, offsets, dist, block_sizes, world)
        moved = None if weights is None else torch.empty_like(weights).scatter_(0, place, weights)
        return Dealt(dealt, lengths.view(world, -1), place, moved)
    lengths, dealt, moved, place = ops.block_bucketize(
        keys, offsets, dist, block_sizes, weights, world
    )
    if block_sizes is not None:  # the op numbers keys within their block
        end = offsets[-1]
        at = torch.arange(keys.numel(), device=keys.device)
        dealt = torch.empty_like(keys).scatter_(0, torch.where(at < end, place, at), keys)
        place = torch.where(at < end, place, at)
    return Dealt(dealt, lengths.view(world, -1), place, None if weights is None else moved)


def deal_long(
    keys: Tensor,
    offsets: Tensor,
    dist: Tensor,
    block_sizes: Tensor | None,
    world: int,
    weights: Tensor | None = None,
    only: int | None = None,
) -> Dealt:
    """The same by a sort: of many segments that are long, where a thread for each would be slow."""
    n, segments = keys.numel(), offsets.numel() - 1
    at = torch.arange(n, device=keys.device)
    segment = ops.expand_ids(offsets, n)
    if only == ROUND:
        rank = unsigned_mod(keys, world)
    elif only == HASHED:
        rank = unsigned_mod(mixed(keys), world)
    else:
        feature = segment // (segments // dist.numel())
        hashed = unsigned_mod(mixed(keys), world)
        kind = dist[feature]
        rank = torch.where(kind == HASHED, hashed, unsigned_mod(keys, world))
        if block_sizes is not None:
            block = block_sizes[feature].clamp(min=1)
            inside = (kind == CONTINUOUS) & (keys >= 0) & (keys // block < world)
            rank = torch.where(inside, keys // block, rank)
    parts = world * segments
    part = torch.where(at < offsets[-1], rank * segments + segment, parts)  # the rest goes last
    if parts < n < 2**31:
        ids, short = ops.sort_rows(part.int())
        order = short.long()
    else:
        ids, order = torch.sort(part, stable=True)
    bounds = torch.arange(parts + 1, dtype=ids.dtype, device=keys.device)
    lengths = torch.diff(torch.searchsorted(ids, bounds))
    place = torch.empty_like(order).scatter_(0, order, at)
    moved = None if weights is None else weights[order]
    return Dealt(keys[order], lengths.view(world, segments), place, moved)


def owners(keys: Tensor, dist_type: str, world: int, num_embeddings: int = 0) -> Tensor:
    """(n) int64: the rank of each key, by the formula of its ``dist_type`` in plain PyTorch.

    x is the key as 64 unsigned bits: "roundrobin": x mod world; "hash_roundrobin": mix(x) mod
    world, mix being MurmurHash3's 64-bit finaliser; "continuous": x / block where that is a rank,
    block = ceil(num_embeddings / world), else x mod world.
    """
    if dist_type == "hash_roundrobin":
        keys = mixed(keys)
    rest = unsigned_mod(keys, world)
    if dist_type != "continuous":
        return rest
    block = -(-num_embeddings // world)
    inside = (keys >= 0) & (keys < block * world)
    return torch.where(inside, keys.clamp(min=0) // max(block, 1), rest)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def mixed(keys: Tensor) -> Tensor:
    """MurmurHash3's 64-bit finaliser of each key."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        keys = (keys ^ _shifted(keys)) * _signed(factor)
    return keys ^ _shifted(keys)


def _shifted(keys: Tensor) -> Tensor:
    return (keys >> 33) & (2**31 - 1)


def unsigned_mod(keys: Tensor, world: int) -> Tensor:
    """Keys as 64 unsigned bits, mod world."""
    rest = keys.remainder(world)
    if 2**64 % world == 0:
        return rest
    return torch.where(keys < 0, (rest + 2**64 % world) % world, rest)


def dist_codes(
    dist_types: Sequence[str], num_embeddings: Sequence[int], world: int
) -> tuple[list[int], list[int] | None]:
    """``dist`` and ``block_sizes`` of ``deal``."""
    codes = [DIST_TYPES.index(one) for one in dist_types]
    if "continuous" not in dist_types:
        return codes, None
    return codes, [-(-n // world) for n in num_embeddings]


class Transposed(NamedTuple):
    """From (rank, segment) to (segment, rank) order."""

    place: Tensor  # (n) int64: where each entry goes
    offsets: Tensor  # (segments * ranks + 1) int64, of the new order


def transposed_sizes(sizes: Sequence[Sequence[int]], device: torch.device) -> Transposed:
    """``transposed`` of lengths that are known on the CPU, by one copy to the device."""
    ranks, segments = len(sizes), len(sizes[0])
    offsets = [0, *accumulate(sizes[r][s] for s in range(segments) for r in range(ranks))]
    starts = [0, *accumulate(length for row in sizes for length in row)]
    moves = [
        offsets[s * ranks + r] - starts[r * segments + s]
        for r in range(ranks)
        for s in range(segments)
    ]
    pinned = device.type == "cuda"
    numbers = torch.tensor([*offsets, *starts, *moves], pin_memory=pinned)
    there = torch.split(
        numbers.to(device, non_blocking=True), [len(offsets), len(starts), len(moves)]
    )
    at = torch.arange(starts[-1], device=device)
    return Transposed(at + there[2][ops.expand_ids(there[1], starts[-1])], there[0])


def transposed(lengths: Tensor, n: int, pitch: int | None = None) -> Transposed:
    """The order, segment by segment, of what came from several ranks.

    Args:
        lengths: (ranks, segments) int64.
        n: entries; with a pitch ``ranks * pitch``.
        pitch: the entries of each rank begin at a multiple of it; None: without gaps. What lies in
            a gap gets a place behind all others.
    """
    ranks, segments = lengths.shape
    zero = lengths.new_zeros(1)
    offsets = torch.cat([zero, lengths.t().reshape(-1).cumsum(0)])
    to = offsets[:-1].view(segments, ranks).t()
    at = torch.arange(n, device=lengths.device)
    if pitch is None:
        ends = lengths.reshape(-1).cumsum(0)
        starts = torch.cat([zero, ends[:-1]])
        ids = ops.expand_ids(torch.cat([zero, ends]), n).long()
        return Transposed(at + (to.reshape(-1) - starts)[ids], offsets)
    # Each rank has one segment more, its gap.
    begins = torch.arange(ranks, device=lengths.device)[:, None] * pitch
    ends = torch.cat([begins + lengths.cumsum(1), begins + pitch], 1)
    starts = torch.cat([begins, ends[:, :-1]], 1).reshape(-1)
    holes = (pitch - lengths.sum(1)).cumsum(0)
    holes = offsets[-1] + torch.cat([zero, holes[:-1]])
    targets = torch.cat([to, holes[:, None]], 1).reshape(-1)
    ids = torch.searchsorted(ends.reshape(-1), at, right=True)
    return Transposed(at + (targets - starts)[ids], offsets)
