"""hip_library makes code objects that readers of ELF know, and bundles of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.common.bazel import variable
from tools.hip.bundle import ALIGNMENT, bundle

ELFFile = pytest.importorskip("elftools.elf.elffile").ELFFile

FILES = {path.name: path for path in map(Path, variable("FILES").split())}
GPUS = {"gfx90a": 0x3F, "gfx942": 0x4C, "gfx1100": 0x41, "gfx1201": 0x4E}  # lowest byte of e_flags
KERNELS = {"half_a_barrier", "neighbours", "no_barrier", "words", "wrong_lane"}


def test_each_gpu_has_its_code_object_with_every_kernel() -> None:
    assert set(FILES) == {f"kernels.{gpu}.hsaco" for gpu in GPUS} | {"kernels.hipfb"}
    for gpu, machine in GPUS.items():
        with FILES[f"kernels.{gpu}.hsaco"].open("rb") as file:
            elf = ELFFile(file)
            assert (elf["e_machine"], elf["e_flags"] & 0xFF) == ("EM_AMDGPU", machine)
            table = elf.get_section_by_name(".dynsym")
            names = {symbol.name for symbol in table.iter_symbols()}
        assert {name + ".kd" for name in KERNELS} < names


def test_the_bundle_holds_the_code_objects_at_its_offsets() -> None:
    packed = FILES["kernels.hipfb"].read_bytes()
    objects = {gpu: FILES[f"kernels.{gpu}.hsaco"].read_bytes() for gpu in GPUS}
    assert packed == bundle(objects)
    magic = b"__CLANG_OFFLOAD_BUNDLE__"
    assert packed.startswith(magic)
    place = len(magic) + 8
    assert packed[len(magic) : place] == struct.pack("<Q", 1 + len(GPUS))
    names = ["host-x86_64-unknown-linux-gnu-"]
    names += [f"hipv4-amdgcn-amd-amdhsa--{gpu}" for gpu in GPUS]
    for name in names:
        at, size, length = struct.unpack_from("<QQQ", packed, place)
        assert packed[place + 24 : place + 24 + length].decode() == name
        place += 24 + length
        wanted = objects.get(name.rpartition("--")[2], b"")
        assert packed[at : at + size] == wanted and at % ALIGNMENT == 0
