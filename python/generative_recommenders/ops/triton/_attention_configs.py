"""Blocks, warps and stages of the attention kernels, from the table."""

from __future__ import annotations

from typing import NamedTuple

from generative_recommenders.ops.table import nearest, rounded


class Config(NamedTuple):
    """``loop``: 0 walks whole blocks and masked ones in loops of their own, 1 masks every block in
    one loop, 2 asks in one loop whether a block needs a mask."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    loop: int


# What ``tune`` tries, by direction, in place of the table's.
FORCED: dict[str, Config] = {}


def configuration(
    direction: str,
    dim: int,
    bytes_per_number: int,
    major: int,
    longest: int,
    interpreted: bool,
    gpu: str = "",
    general: bool = False,
) -> Config:
    """The row of the table; smaller blocks for short sequences and for float32."""
    if interpreted:
        return Config(16, 16, 1, 1, 2)
    if direction in FORCED:
        return FORCED[direction]
    row = nearest(direction, gpu, major, rounded(dim), rounded(longest), general)
    found = Config(**row.values)
    if bytes_per_number > 2:
        found = Config(32, 32, 4, 1, 2)
    most = max(16, rounded(longest))
    return found._replace(block_m=min(found.block_m, most), block_n=min(found.block_n, most))
