"""What every wheel of ours must keep to. $WHEELS names the wheels (paths, blank-separated).

Under Bazel BUILD.bazel lists them; outside:
`WHEELS=dist/x.whl pytest tests/build/wheel_policy_test.py`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import pwd
import re
import stat
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from email import message_from_bytes
from functools import cached_property
from pathlib import Path

import pytest
from auditwheel.architecture import Architecture
from auditwheel.libc import Libc
from auditwheel.wheel_abi import analyze_wheel_abi
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection
from packaging.metadata import Metadata
from packaging.utils import parse_wheel_filename

from tests.build import fatbin

MAX_VERSIONS = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0)}
SYSTEM_LIBRARIES = {
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
}
TORCH_LIBRARIES = {"libtorch.so", "libtorch_cpu.so"}
GPU_TARGETS = {"sm_80", "sm_90", "compute_80"}


@dataclass
class Elf:
    """One shared object of a wheel."""

    name: str
    data: bytes

    @cached_property
    def elf(self) -> ELFFile:
        return ELFFile(io.BytesIO(self.data))

    def dynamic(self, tag: str, value: str) -> list[str]:
        section = self.elf.get_section_by_name(".dynamic")
        assert isinstance(section, DynamicSection)
        return [getattr(t, value) for t in section.iter_tags() if t.entry.d_tag == tag]

    @cached_property
    def needed(self) -> set[str]:
        return set(self.dynamic("DT_NEEDED", "needed"))

    @cached_property
    def required_versions(self) -> dict[int, str]:
        """Symbol version index -> version name, e.g. GLIBC_2.2.5."""
        section = self.elf.get_section_by_name(".gnu.version_r")
        if not isinstance(section, GNUVerNeedSection):
            return {}
        return {a.entry.vna_other: a.name for _, auxs in section.iter_versions() for a in auxs}

    @cached_property
    def undefined(self) -> dict[str, str]:
        """Each symbol that the loader must find -> its version, '' where it has none."""
        versions = self.elf.get_section_by_name(".gnu.version")
        found = {}
        for number, symbol in enumerate(self.symbols.iter_symbols()):
            if symbol.name and symbol.entry.st_shndx == "SHN_UNDEF":
                index = None
                if isinstance(versions, GNUVerSymSection):
                    index = versions.get_symbol(number).entry.ndx
                found[symbol.name] = self.required_versions.get(index, "")
        return found

    @cached_property
    def exported(self) -> set[str]:
        return {
            s.name
            for s in self.symbols.iter_symbols()
            if s.entry.st_shndx not in ("SHN_UNDEF", "SHN_ABS")
            and s.entry.st_info.bind != "STB_LOCAL"
            and s.entry.st_other.visibility in ("STV_DEFAULT", "STV_PROTECTED")
        }

    @property
    def symbols(self) -> SymbolTableSection:
        table = self.elf.get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        return table


@dataclass
class Wheel:
    path: Path
    files: dict[str, bytes] = field(init=False)
    entries: list[zipfile.ZipInfo] = field(init=False)

    def __post_init__(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            self.entries = archive.infolist()
            self.files = {e.filename: archive.read(e) for e in self.entries}

    @property
    def dist_info(self) -> str:
        name, version, *_ = self.path.name.split("-")
        return f"{name}-{version}.dist-info"

    @property
    def elfs(self) -> list[Elf]:
        return [Elf(n, d) for n, d in self.files.items() if d.startswith(b"\x7fELF")]

    @property
    def platforms(self) -> set[str]:
        return {tag.platform for tag in parse_wheel_filename(self.path.name)[3]}


WHEELS = [Path(path) for path in os.environ.get("WHEELS", "").split()]


@pytest.fixture(scope="module", params=WHEELS, ids=lambda path: path.name.split("-")[0])
def wheel(request: pytest.FixtureRequest) -> Wheel:
    return Wheel(request.param)


@pytest.fixture(scope="module")
def native(wheel: Wheel) -> Wheel:
    if wheel.platforms == {"any"}:
        assert not wheel.elfs, "a pure wheel has machine code"
        pytest.skip(f"{wheel.path.name} is pure Python")
    assert wheel.elfs, "a platform wheel has no machine code"
    return wheel


def test_there_are_wheels_to_check() -> None:
    if not WHEELS and "TEST_SRCDIR" not in os.environ:
        pytest.skip("$WHEELS names no wheel")
    assert WHEELS


def test_the_platform_tag_is_manylinux_2_28(native: Wheel) -> None:
    assert native.platforms == {"manylinux_2_28_x86_64"}


def test_no_symbol_is_newer_than_the_tag_allows(native: Wheel) -> None:
    for elf in native.elfs:
        for version in elf.required_versions.values():
            family, _, number = version.partition("_")
            got = tuple(int(part) for part in number.split("."))
            assert got <= MAX_VERSIONS[family], f"{elf.name} wants {version}"


def test_auditwheel_agrees_with_the_tag(native: Wheel) -> None:
    found = analyze_wheel_abi(
        Libc.GLIBC,
        Architecture.x86_64,
        native.path,
        frozenset(TORCH_LIBRARIES),
        disable_isa_ext_check=False,
        allow_graft=False,
    )
    (ours,) = (p for p in found.policies if p.name == "manylinux_2_28_x86_64")
    assert not found.overall_policy < ours, f"auditwheel says {found.overall_policy.name}"


def test_only_system_libraries_and_torch_are_needed(native: Wheel) -> None:
    for elf in native.elfs:
        assert elf.needed <= SYSTEM_LIBRARIES | TORCH_LIBRARIES, elf.name


def test_the_library_search_path_stays_inside_the_wheel(native: Wheel) -> None:
    folders = {name.partition("/")[0] for name in native.files}
    for elf in native.elfs:
        for path in elf.dynamic("DT_RPATH", "rpath") + elf.dynamic("DT_RUNPATH", "runpath"):
            for entry in path.split(":"):
                assert entry.startswith("$ORIGIN"), f"{elf.name}: {entry}"
                here = os.path.dirname(elf.name)
                place = os.path.normpath(entry.replace("$ORIGIN", here))
                assert place.partition("/")[0] in folders, f"{elf.name}: {entry}"


def test_nothing_is_exported_but_module_inits_and_c_functions_of_the_package_s_name(
    native: Wheel,
) -> None:
    for elf in native.elfs:
        name = Path(elf.name).name
        if module := re.fullmatch(r"(\w+)\.(cpython-\d+-x86_64-linux-gnu|abi3)\.so", name):
            assert elf.exported == {f"PyInit_{module[1]}"}, elf.name
        else:
            package = name.removeprefix("lib").removesuffix(".so")
            assert not [s for s in elf.exported if not s.startswith(f"{package}_")], elf.name


def test_no_cpp_symbol_is_taken_from_torch(native: Wheel) -> None:
    # Mangled c10::, at:: and torch:: names change between torch versions; libstdc++'s do not.
    for elf in native.elfs:
        for symbol, version in elf.undefined.items():
            if symbol.startswith("_Z"):
                assert version.startswith(("GLIBCXX_", "CXXABI_")), f"{elf.name}: {symbol}"


def test_python_symbols_are_taken_by_extension_modules_alone(native: Wheel) -> None:
    for elf in native.elfs:
        if not re.search(r"\.(cpython-\d+|abi3)", elf.name):
            assert not [s for s in elf.undefined if re.match("_?Py", s)], elf.name


def test_every_translation_unit_has_code_for_every_gpu_target(native: Wheel) -> None:
    containers = [
        (elf.name, container)
        for elf in native.elfs
        for container in fatbin.containers(io.BytesIO(elf.data))
    ]
    if not containers:  # Triton's objects lie in the data, each for one target
        images: Counter[str] = Counter()
        for elf in native.elfs:
            images += fatbin.images(elf.data)
        assert images, "no GPU code in the wheel"
        assert images.keys() >= GPU_TARGETS, images
        assert images["compute_80"] == images["sm_80"], images
    for name, container in containers:
        assert container.targets >= GPU_TARGETS, f"{name}: {sorted(container.targets)}"


def test_no_path_of_the_build_machine_is_inside(wheel: Wheel) -> None:
    # The working folder of a test is <output base>/[sandbox/...]/execroot/...
    base = re.split("/sandbox/|/execroot/", os.getcwd())[0]
    home = pwd.getpwuid(os.getuid()).pw_dir
    root = os.environ.get("CHECKOUT")  # a file that names it
    parts = [base, home, Path(root).read_text().strip() if root else os.getcwd()]
    marks = [f"{part.rstrip('/')}/" for part in parts if part.strip("/")]
    marks += ["/execroot/", "/sandbox/", "bazel-out/", "_main~", "/home/", "/tmp/", "/builddir/"]
    for name, data in wheel.files.items():
        for mark in marks:
            at = data.find(mark.encode())
            assert at < 0, f"{name}: {data[max(0, at - 40) : at + 80]!r}"


def test_record_lists_every_file_with_its_hash_and_size(wheel: Wheel) -> None:
    record = f"{wheel.dist_info}/RECORD"
    rows = list(csv.reader(io.StringIO(wheel.files[record].decode())))
    assert sorted(row[0] for row in rows) == sorted(wheel.files)
    for name, digest, size in rows:
        if name == record:
            assert (digest, size) == ("", "")
            continue
        raw = hashlib.sha256(wheel.files[name]).digest()
        assert digest == "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), name
        assert int(size) == len(wheel.files[name]), name


def test_the_archive_is_deterministic_and_readable_for_all(wheel: Wheel) -> None:
    names = [entry.filename for entry in wheel.entries]
    assert names == sorted(names, key=lambda n: (n.startswith(wheel.dist_info), n))
    assert len(set(names)) == len(names)
    for entry in wheel.entries:
        mode = entry.external_attr >> 16
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert stat.S_ISREG(mode) and mode & 0o777 in (0o644, 0o755), entry.filename


def test_the_metadata_is_valid_and_complete(wheel: Wheel) -> None:
    found = Metadata.from_email(wheel.files[f"{wheel.dist_info}/METADATA"], validate=True)
    name, version, _, _ = parse_wheel_filename(wheel.path.name)
    assert found.name.replace("_", "-").lower() == name
    assert found.version == version
    assert found.summary
    assert found.description_content_type == "text/markdown"
    assert found.description and found.description.startswith("# ")
    assert found.license_expression
    assert found.license_files
    for text in found.license_files:
        assert f"{wheel.dist_info}/licenses/{text}" in wheel.files
    assert found.requires_python is not None and "3.9" not in found.requires_python
    assert found.requires_python.contains("3.10") or wheel.path.name.split("-")[2].startswith("cp")


def test_a_wheel_that_links_torch_requires_a_torch_that_serves(wheel: Wheel) -> None:
    if not any(elf.needed & TORCH_LIBRARIES for elf in wheel.elfs):
        pytest.skip("no library of this wheel links torch")
    found = Metadata.from_email(wheel.files[f"{wheel.dist_info}/METADATA"], validate=True)
    (torch,) = (r for r in found.requires_dist or [] if r.name == "torch")
    for version in ("2.10.0", "2.13.0+cpu", "2.10.0a0+df82bd6", "2.11.0.dev20260101+cu130"):
        assert torch.specifier.contains(version), version
    assert not torch.specifier.contains("2.9.1")


def test_the_tags_inside_are_those_of_the_name(wheel: Wheel) -> None:
    inside = message_from_bytes(wheel.files[f"{wheel.dist_info}/WHEEL"])
    expanded = {str(tag) for tag in parse_wheel_filename(wheel.path.name)[3]}
    assert set(inside.get_all("Tag", [])) == expanded
    assert (inside["Root-Is-Purelib"] == "true") == (wheel.platforms == {"any"})


def test_the_wheel_keeps_its_size_budget(wheel: Wheel) -> None:
    budget = os.environ.get("MAX_KIB")
    if not budget:
        pytest.skip("$MAX_KIB names no budget")
    assert wheel.path.stat().st_size <= int(budget) << 10
