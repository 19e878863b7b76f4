"""Reads which GPU code an ELF file carries: the .nv_fatbin section that nvcc writes, and images
that lie in its data, as Triton's do.

The section is a row of containers, one per translation unit. A container is a 16-byte header and
entries; an entry is PTX or machine code (a cubin, itself an ELF file) for one architecture. The
layout is not documented by NVIDIA; a test of ours builds the numbers from known flags.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass
from typing import IO

from elftools.elf.elffile import ELFFile

_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, header bytes, bytes of all entries
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, -, header bytes, payload bytes, -, -, -, -, arch
_CUDA_MACHINE, _MACHINE_AT, _FLAGS_AT = 190, 18, 48  # of a cubin's ELF header
_KINDS = {1: "compute", 2: "sm"}


@dataclass(frozen=True)
class Container:
    """The GPU code of one translation unit, by names as nvcc's `code=` takes them (sm_80 ...)."""

    targets: frozenset[str]


def parse(section: bytes) -> list[Container]:
    """The containers of a .nv_fatbin section. Raises ValueError on anything that is not one."""
    found: list[Container] = []
    at = 0
    while at < len(section):
        if not section[at : at + 8].strip(b"\0"):  # padding between containers
            at += 8
            continue
        magic, _, header, size = _CONTAINER.unpack_from(section, at)
        if magic != _MAGIC:
            raise ValueError(f"no container at offset {at} of .nv_fatbin: magic {magic:#x}")
        entry, end = at + header, at + header + size
        if end > len(section):
            raise ValueError(f"the container at {at} ends at {end}, the section at {len(section)}")
        targets = set()
        while entry < end:
            kind, _, entry_header, payload, _, _, _, _, arch = _ENTRY.unpack_from(section, entry)
            if kind not in _KINDS:
                raise ValueError(f"an entry of kind {kind} at offset {entry} of .nv_fatbin")
            targets.add(f"{_KINDS[kind]}_{arch}")
            entry += entry_header + payload
        found.append(Container(frozenset(targets)))
        at = end
    return found


def containers(file: IO[bytes]) -> list[Container]:
    """The containers of an ELF file; none where it has no GPU code."""
    section = ELFFile(file).get_section_by_name(".nv_fatbin")
    return parse(section.data()) if section else []


def images(data: bytes) -> Counter[str]:
    """How many cubins and PTX texts for each target lie in the data as they are."""
    found: Counter[str] = Counter()
    for match in re.finditer(rb"\x7fELF\x02\x01|\.target sm_(\d+)", data):
        if match[1]:
            found[f"compute_{int(match[1])}"] += 1
        elif struct.unpack_from("<H", data, match.start() + _MACHINE_AT)[0] == _CUDA_MACHINE:
            flags = struct.unpack_from("<I", data, match.start() + _FLAGS_AT)[0]
            found[f"sm_{flags & 0xFF}"] += 1
    return found
