"""The code objects for AMD GPUs, as their metadata and the compiler's assembly say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.common.bazel import variable
from tools.hip.bundle import bundle

FILES = [Path(path) for path in variable("OBJECTS").split()]
ASSEMBLY = [Path(path) for path in variable("ASSEMBLY").split()]
COSTS = [Path(path) for path in variable("COSTS").split()]
# name, bytes of its argument, threads, source: what the launcher goes by
ENTRIES = [
    line.split() for line in subprocess.check_output([variable("ENTRIES")], text=True).splitlines()
]
GPUS = {"gfx90a": 64, "gfx942": 64, "gfx1100": 32, "gfx1201": 32}


def reader() -> ModuleType:
    """python/causal_conv1d/code_objects.py, which needs nothing of its package."""
    spec = importlib.util.spec_from_file_location("code_objects", variable("READER"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


code_objects = reader()
CODE = {
    (gpu, path.name.split(".")[0]): path.read_bytes()
    for path in FILES
    if path.suffix == ".hsaco"
    for gpu in [path.name.split(".")[1]]
}
KERNELS = {
    gpu: {
        k.name: k for (of, _), code in CODE.items() if of == gpu for k in code_objects.kernels(code)
    }
    for gpu in GPUS
}


def test_there_is_a_code_object_of_each_source_for_each_gpu() -> None:
    assert set(CODE) == {(gpu, unit) for gpu in GPUS for *_, unit in ENTRIES}
    for (gpu, _), code in CODE.items():
        assert code_objects.metadata(code)["amdhsa.target"] == f"amdgcn-amd-amdhsa--{gpu}"


@pytest.mark.parametrize("arch", GPUS)
def test_the_kernels_are_the_rows_of_the_table_with_its_arguments(arch: str) -> None:
    found = {(name, k.arguments, k.threads, k.wave) for name, k in KERNELS[arch].items()}
    assert found == {
        (name, ((0, int(size)),), int(threads), GPUS[arch]) for name, size, threads, _ in ENTRIES
    }


@pytest.mark.parametrize("arch", GPUS)
def test_no_kernel_needs_scratch_memory(arch: str) -> None:
    assert not [name for name, k in KERNELS[arch].items() if k.scratch or k.vgpr_spills]
    forward = [k for name, k in KERNELS[arch].items() if "forward" in name]
    assert forward and not [k for k in forward if k.sgpr_spills]


def test_forward_has_few_registers() -> None:
    """64 let eight waves run on a SIMD of gfx942, 96 five."""
    for name, k in KERNELS["gfx942"].items():
        if "forward" in name:
            assert k.vgprs <= (96 if "_seq_" in name else 64), name


@pytest.mark.parametrize("arch", GPUS)
def test_sums_have_their_shared_memory(arch: str) -> None:
    for name, k in KERNELS[arch].items():
        if "backward_last" in name:  # four pieces, the taps and the bias, channels, floats
            channels = 128 if name.endswith("16_w4") else 64
            assert k.lds >= 4 * (int(name[-1]) + 1) * channels * 4, name
        elif "backward_sum" in name:
            assert k.lds == 8 * 32 * 4


def test_the_elf_reader_agrees_with_another_one() -> None:
    elffile = pytest.importorskip("elftools.elf.elffile")
    for path in FILES:
        if path.suffix == ".hsaco":
            with path.open("rb") as file:
                theirs = {s.name: s.data() for s in elffile.ELFFile(file).iter_sections() if s.name}
            ours = code_objects.sections(path.read_bytes())
            for name in (".note", ".dynsym", ".text", ".rodata"):
                assert ours[name] == theirs[name]


def loads(arch: str, kernel: str) -> list[str]:
    """The global loads of a kernel in the assembly."""
    (text,) = [
        found[1]
        for path in ASSEMBLY
        if f".{arch}." in path.name
        for found in [re.search(rf"^{kernel}:(.*?)^\.Lfunc_end", path.read_text(), re.M | re.S)]
        if found
    ]
    return re.findall(r"^\s+(global_load_\w+)", text, re.M)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_forward_loads_sixteen_bytes_at_once(dtype: str) -> None:
    for gpu, wide in [("gfx942", "global_load_dwordx4"), ("gfx1100", "global_load_b128")]:
        for taps in (4, 8):
            assert wide in loads(gpu, f"conv1d_forward_first_{dtype}_w{taps}")


def test_a_bundle_unpacks_to_the_code_objects() -> None:
    bundles = {
        path.name.split(".")[0]: path.read_bytes() for path in FILES if path.suffix == ".hipfb"
    }
    assert set(bundles) == {unit for *_, unit in ENTRIES}
    for unit, packed in bundles.items():
        wanted = {gpu: CODE[gpu, unit] for gpu in GPUS}
        assert code_objects.unbundle(packed) == wanted
        assert bundle(wanted) == packed


def test_what_is_no_bundle_is_refused() -> None:
    with pytest.raises(ValueError, match="not an offload bundle"):
        code_objects.unbundle(b"\x7fELF")
    whole = bundle({"gfx942": b"code"})
    with pytest.raises(ValueError, match="ends before its entry hipv4-amdgcn-amd-amdhsa--gfx942"):
        code_objects.unbundle(whole[:-1])
    with pytest.raises(ValueError, match="not a little-endian ELF-64"):
        code_objects.sections(whole)


def test_compiling_for_four_gpus_stays_within_its_budget() -> None:
    seconds = sum(json.loads(path.read_text())["cpu_seconds"] for path in COSTS)
    assert seconds <= 180, seconds


def test_the_listing_names_every_kernel_once_a_gpu() -> None:
    units = {unit for _, unit in CODE}
    text = code_objects.listing([{gpu: CODE[gpu, unit] for gpu in GPUS} for unit in units])
    for gpu in GPUS:
        assert text.count(f"amdgcn-amd-amdhsa--{gpu}: {len(units)} code objects") == 1
    for name, *_ in ENTRIES:
        assert len(re.findall(rf" {name}$", text, re.M)) == len(GPUS)


def test_a_library_holds_the_bundles_that_were_built() -> None:
    held = code_objects.of_library(variable("LIBRARY"))
    wanted = {
        path.name.split(".")[0]: code_objects.unbundle(path.read_bytes())
        for path in FILES
        if path.suffix == ".hipfb"
    }
    assert sorted(map(repr, held)) == sorted(map(repr, wanted.values()))


def test_a_library_without_them_has_none() -> None:
    assert code_objects.of_library(variable("OTHER_LIBRARY")) == []
    assert "built without" in code_objects.listing([])
