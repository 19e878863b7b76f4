"""Blocks, warps and stages of the attention kernels, by the wider head dim."""

from __future__ import annotations

from typing import NamedTuple


class Config(NamedTuple):
    """``loop``: 0 walks whole blocks and masked ones in loops of their own, 1 masks every block in
    one loop, 2 asks in one loop whether a block needs a mask."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    loop: int


# direction -> greatest head dim -> configuration on a GPU with wgmma (9.x; measured on an H200),
# and on others (derived from it: smaller where shared memory is; nobody has run it there).
_TABLE = {
    "forward": {
        64: (Config(64, 64, 4, 2, 1), Config(128, 64, 4, 3, 0)),
        128: (Config(128, 64, 4, 2, 0), Config(128, 64, 8, 2, 0)),
        256: (Config(128, 32, 8, 3, 2), Config(64, 32, 4, 2, 0)),
    },
    "rows": {
        64: (Config(128, 128, 8, 2, 2), Config(64, 64, 4, 2, 2)),
        128: (Config(128, 64, 8, 2, 2), Config(64, 32, 4, 2, 2)),
        256: (Config(128, 32, 8, 2, 2), Config(32, 32, 4, 1, 2)),
    },
    "columns": {
        64: (Config(64, 64, 4, 2, 0), Config(64, 64, 4, 2, 0)),
        128: (Config(64, 64, 4, 2, 0), Config(32, 64, 4, 2, 0)),
        256: (Config(64, 64, 8, 1, 2), Config(32, 32, 4, 1, 2)),
    },
}


def configuration(
    direction: str, dim: int, bytes_per_number: int, major: int, longest: int, interpreted: bool
) -> Config:
    """The row of the table; smaller blocks for short sequences and for float32."""
    if interpreted:
        return Config(16, 16, 1, 1, 2)
    rows = _TABLE[direction]
    found = rows[next((d for d in rows if d >= dim), 256)][0 if major == 9 else 1]
    if bytes_per_number > 2:
        found = Config(32, 32, 4, 1, 2)
    most = max(16, 1 << (longest - 1).bit_length())
    return found._replace(block_m=min(found.block_m, most), block_n=min(found.block_n, most))
