"""The code objects for AMD GPUs that a library holds, and what their metadata says of each kernel.

A library built with tools/hip holds them in its section .hip_fatbin: one of clang's offload bundles
for each source. Nothing of ROCm is needed to read them. Formats: ELF-64, clang's offload bundle,
and AMD's note 32, whose MessagePack map is described with LLVM's AMDGPU backend.

    from causal_conv1d import code_objects
    for bundle in code_objects.of_library("libcausal_conv1d.so"):
        for gpu, code in bundle.items():
            print(gpu, code_objects.kernels(code))
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
SECTION = ".hip_fatbin"
ALIGNMENT = 4096  # of bundles in the section
_ENTRY = "hipv4-amdgcn-amd-amdhsa--"
_NOTE = 32  # NT_AMDGPU_METADATA, owner AMDGPU


@dataclass(frozen=True)
class Kernel:
    """One kernel as the compiler describes it to the driver. Sizes in bytes, registers a lane."""

    name: str
    arguments: tuple[tuple[int, int], ...]  # offset and size of each that the launcher gives
    argument_bytes: int  # of all, with those that the driver adds
    lds: int  # shared memory
    scratch: int
    vgprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int  # to lanes of vector registers
    wave: int  # lanes of the hardware
    threads: int  # at most, of a block


def sections(elf: bytes) -> dict[str, bytes]:
    """The sections of an ELF-64 file by name. Raises ValueError for anything else."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian ELF-64 file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    width, count, names_at = struct.unpack_from("<HHH", elf, 58)
    # name, type, flags, address, offset, size
    rows = [struct.unpack_from("<IIQQQQ", elf, table + width * i) for i in range(count)]
    if not rows:
        return {}
    names = elf[rows[names_at][4] :][: rows[names_at][5]]
    no_bits = 8
    return {
        names[name : names.index(b"\0", name)].decode(): elf[at : at + size]
        if kind != no_bits
        else b""
        for name, kind, _, _, at, size in rows
    }


def unbundle(bundle: bytes) -> dict[str, bytes]:
    """The code objects of a bundle, by GPU. Raises ValueError for what is no whole bundle."""
    if not bundle.startswith(MAGIC):
        raise ValueError("not an offload bundle of clang's")
    found = {}
    (count,) = struct.unpack_from("<Q", bundle, len(MAGIC))
    place = len(MAGIC) + 8
    for _ in range(count):
        at, size, length = struct.unpack_from("<QQQ", bundle, place)
        name = bundle[place + 24 : place + 24 + length].decode()
        place += 24 + length
        if at + size > len(bundle):
            raise ValueError(f"the bundle ends before its entry {name} does")
        if name.startswith(_ENTRY):
            found[name.removeprefix(_ENTRY)] = bundle[at : at + size]
    return found


def of_library(path: str | Path) -> list[dict[str, bytes]]:
    """The bundles in a shared object, each as its code objects by GPU; none if built without."""
    section = sections(Path(path).read_bytes()).get(SECTION, b"")
    starts = [at for at in range(0, len(section), ALIGNMENT) if section.startswith(MAGIC, at)]
    return [unbundle(section[at:]) for at in starts]


def metadata(code: bytes) -> dict[str, Any]:
    """What the compiler says of a code object. Raises ValueError for one without metadata."""
    for kind, owner, text in _notes(sections(code).get(".note", b"")):
        if (kind, owner) == (_NOTE, b"AMDGPU"):
            value, _ = _unpack(text, 0)
            return dict(value)
    raise ValueError("no code object for an AMD GPU: it has no note of AMDGPU's")


def kernels(code: bytes) -> list[Kernel]:
    """The kernels of a code object, by name."""
    found = [
        Kernel(
            name=k[".name"],
            arguments=tuple(
                (a[".offset"], a[".size"])
                for a in k[".args"]
                if not a[".value_kind"].startswith("hidden_")
            ),
            argument_bytes=k[".kernarg_segment_size"],
            lds=k[".group_segment_fixed_size"],
            scratch=k[".private_segment_fixed_size"],
            vgprs=k[".vgpr_count"] + k.get(".agpr_count", 0),
            sgprs=k[".sgpr_count"],
            vgpr_spills=k[".vgpr_spill_count"],
            sgpr_spills=k[".sgpr_spill_count"],
            wave=k[".wavefront_size"],
            threads=k[".max_flat_workgroup_size"],
        )
        for k in metadata(code)["amdhsa.kernels"]
    ]
    return sorted(found, key=lambda kernel: kernel.name)


def listing(bundles: list[dict[str, bytes]]) -> str:
    """All kernels in all code objects, as a table for people."""
    gpus = list(dict.fromkeys(gpu for bundle in bundles for gpu in bundle))
    if not gpus:
        return "no code objects for AMD GPUs: this library was built without"
    lines = []
    for gpu in gpus:
        codes = [bundle[gpu] for bundle in bundles if gpu in bundle]
        found = [kernel for code in codes for kernel in kernels(code)]
        (target,) = {metadata(code)["amdhsa.target"] for code in codes}
        digest = hashlib.sha256(b"".join(codes)).hexdigest()
        lines += [
            f"{target}: {len(codes)} code objects, {len(found)} kernels, "
            f"{sum(map(len, codes))} bytes, sha256 {digest}",
            "  VGPRs  SGPRs  spills  scratch    LDS  arguments  wave  threads  kernel",
        ]
        lines += [
            f"  {k.vgprs:>5} {k.sgprs:>6} {k.vgpr_spills:>3} + {k.sgpr_spills:<3} {k.scratch:>6} "
            f"{k.lds:>6} {sum(size for _, size in k.arguments):>10} {k.wave:>5} {k.threads:>8}  "
            f"{k.name}"
            for k in found
        ]
    return "\n".join(lines)


def _notes(section: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    place = 0
    while place + 12 <= len(section):
        owner, text, kind = struct.unpack_from("<III", section, place)
        place += 12
        start = place + -(-owner // 4) * 4
        yield kind, section[place : place + owner].rstrip(b"\0"), section[start : start + text]
        place = start + -(-text // 4) * 4


_NUMBERS = {0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
_SIZES = {0xD9: "B", 0xDA: "H", 0xDB: "I", 0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _unpack(text: bytes, at: int) -> tuple[Any, int]:
    """A MessagePack value and where the next one begins; of its kinds those that the note has."""
    kind = text[at]
    at += 1
    if kind < 0x80 or kind >= 0xE0:
        return kind - (256 if kind >= 0xE0 else 0), at
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if (form := _NUMBERS.get(kind)) or (form := _SIZES.get(kind)):
        (number,) = struct.unpack_from(">" + form, text, at)
        at += struct.calcsize(form)
        if kind in _NUMBERS:
            return number, at
    elif kind < 0xC0:
        number = kind & (0x1F if kind >= 0xA0 else 0x0F)
    else:
        raise ValueError(f"the note of the code object has a value of the unknown kind {kind:#x}")
    if 0xA0 <= kind < 0xC0 or kind in (0xD9, 0xDA, 0xDB):
        return text[at : at + number].decode(), at + number
    items = []
    pairs = kind < 0x90 or kind in (0xDE, 0xDF)
    for _ in range(number * 2 if pairs else number):
        item, at = _unpack(text, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if pairs else items), at
