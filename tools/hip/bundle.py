"""bundle.py OUT GFX=FILE...: packs code objects as clang's offload bundle, one entry a GPU.

A bundle is a magic, a count, (offset, size, length of the name, name) for each entry, and the
bodies, each at a multiple of 4096; numbers are little-endian and of 64 bits. The first entry is
the host's and empty, as the readers of this format want it.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
ALIGNMENT = 4096


def bundle(objects: dict[str, bytes]) -> bytes:
    """The bundle of the code objects of these GPUs, e.g. {"gfx942": b"..."}."""
    entries = {"host-x86_64-unknown-linux-gnu-": b""}
    entries |= {f"hipv4-amdgcn-amd-amdhsa--{gpu}": body for gpu, body in objects.items()}
    head, bodies = MAGIC + struct.pack("<Q", len(entries)), b""
    start = len(head) + sum(24 + len(name) for name in entries)
    for name, body in entries.items():
        bodies += b"\0" * (-(start + len(bodies)) % ALIGNMENT)
        head += struct.pack("<QQQ", start + len(bodies), len(body), len(name)) + name.encode()
        bodies += body
    return head + bodies


def main() -> None:
    out, *pairs = sys.argv[1:]
    files = dict(pair.split("=", 1) for pair in pairs)
    Path(out).write_bytes(bundle({gpu: Path(file).read_bytes() for gpu, file in files.items()}))


if __name__ == "__main__":
    main()
