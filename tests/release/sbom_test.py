"""The bill of materials in each wheel of the release (SPDX 2.3, PEP 770)."""

from __future__ import annotations

import json
import os
import re
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

if "FACTS" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/release/... builds what it looks at", allow_module_level=True
    )

PINS = json.loads(Path(os.environ["FACTS"]).read_text())["pins"]
ROWS = json.loads(Path(os.environ["PACKAGES"]).read_text())
WHEELS = [Path(path) for row in ROWS.values() for path in row["wheels"]]


def one(wheel: Path, pattern: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if re.fullmatch(pattern, n)]
        return archive.read(name)


@pytest.fixture(params=WHEELS, ids=lambda path: path.name.split("-")[0])
def wheel(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def sbom(wheel: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(one(wheel, r"[^/]+\.dist-info/sboms/[^/]+\.spdx\.json"))


def test_the_document_describes_the_wheel(wheel: Path, sbom: dict) -> None:  # type: ignore[type-arg]
    metadata = message_from_bytes(one(wheel, r"[^/]+\.dist-info/METADATA"))
    (described,) = [r for r in sbom["relationships"] if r["relationshipType"] == "DESCRIBES"]
    (package,) = [p for p in sbom["packages"] if p["SPDXID"] == described["relatedSpdxElement"]]
    assert (package["name"], package["versionInfo"]) == (metadata["Name"], metadata["Version"])
    assert described["spdxElementId"] == sbom["SPDXID"] == "SPDXRef-DOCUMENT"
    assert sbom["spdxVersion"] == "SPDX-2.3" and sbom["dataLicense"] == "CC0-1.0"


def test_every_part_is_a_pin_with_its_hash(sbom: dict) -> None:  # type: ignore[type-arg]
    for package in sbom["packages"][1:]:
        pin = PINS[package["name"]]
        assert package["externalRefs"][0]["referenceLocator"] == pin["purl"]
        for digest in pin["sha256"]:
            assert digest in json.dumps(package)


def test_every_part_is_related_to_the_wheel(sbom: dict) -> None:  # type: ignore[type-arg]
    ids = [p["SPDXID"] for p in sbom["packages"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", i) for i in ids)
    ends = {r["spdxElementId"] for r in sbom["relationships"]}
    ends |= {r["relatedSpdxElement"] for r in sbom["relationships"]}
    assert ends == {*ids, "SPDXRef-DOCUMENT"}


def test_a_wheel_with_machine_code_names_compiler_and_runtime(wheel: Path, sbom: dict) -> None:  # type: ignore[type-arg]
    names = {p["name"] for p in sbom["packages"][1:]}
    if wheel.name.endswith("-any.whl"):
        assert not names
    else:
        assert {"nvidia-cuda-nvcc", "ziglang"} <= names


def test_the_licence_of_every_part_is_in_the_expression(wheel: Path, sbom: dict) -> None:  # type: ignore[type-arg]
    metadata = message_from_bytes(one(wheel, r"[^/]+\.dist-info/METADATA"))
    said = set(metadata["License-Expression"].split(" AND "))
    assert "Apache-2.0" in said and "LICENSE" in metadata.get_all("License-File")
    for package in sbom["packages"]:
        if package["licenseConcluded"] != "NOASSERTION":
            assert set(package["licenseConcluded"].split(" AND ")) <= said, package["name"]
    extracted = {e["licenseId"] for e in sbom["hasExtractedLicensingInfos"]}
    assert extracted == {license for license in said if license.startswith("LicenseRef-")}


def test_cutlass_comes_with_its_notice(wheel: Path, sbom: dict) -> None:  # type: ignore[type-arg]
    if "nvidia-cutlass" not in {p["name"] for p in sbom["packages"]}:
        pytest.skip(f"{wheel.name} has nothing of CUTLASS")
    assert b"NVIDIA CORPORATION" in one(wheel, r".*/licenses/LICENSE\.cutlass\.txt")


@pytest.mark.parametrize(
    ("part", "file", "terms"),
    [
        ("nvidia-cuda-runtime", "LICENSE.cuda.txt", "Distribution Requirements"),
        ("nvidia-cuda-runtime", "LICENSE.cuda.txt", "libcudart_static.a"),
        ("nvidia-cuda-cccl", "LICENSE.cccl.txt", "LLVM Exceptions to the Apache 2.0 License"),
        ("nvidia-cuda-cccl", "LICENSE.cccl.txt", "Redistributions in binary form must reproduce"),
        ("nvidia-cutlass", "LICENSE.cutlass.txt", "Redistributions in binary form must reproduce"),
        ("pybind11", "LICENSE.pybind11.txt", "Redistributions in binary form must reproduce"),
        ("torch", "LICENSE.pytorch.txt", "Redistributions in binary form must reproduce"),
    ],
)
def test_the_terms_of_every_part_come_along(
    wheel: Path,
    sbom: dict,  # type: ignore[type-arg]
    part: str,
    file: str,
    terms: str,
) -> None:
    contained = {r["relatedSpdxElement"] for r in sbom["relationships"]}
    if f"SPDXRef-{part}" in contained:
        text = one(wheel, rf"[^/]+\.dist-info/licenses/{re.escape(file)}")
        assert terms in " ".join(text.decode().split())
