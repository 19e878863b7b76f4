"""The conda packages of a release: what they hold, and what a real solver does with them.

conda-forge is not reached: empty placeholders stand for python (a shim of this interpreter, which
has torch), pytorch and cuda-version.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

if "RECIPE" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/conda/... builds what it looks at", allow_module_level=True
    )

from tools.release import channel, conda
from tools.release.refused import Refused

EXAMPLE = Path(os.environ["EXAMPLE"]).resolve()
FACTS = json.loads(Path(os.environ["FACTS"]).read_text())
RECIPE = Path(os.environ["RECIPE"]).resolve()
ROWS = json.loads(Path(os.environ["PACKAGES"]).read_text())
WHEELS = sorted(Path(path).resolve() for row in ROWS.values() for path in row["wheels"])
VERSION = FACTS["version"]
LINT = {"ACCEL_DIST": "/nowhere", "ACCEL_VERSION": VERSION}
NEW_MACHINE = {"CONDA_OVERRIDE_CUDA": "13.0", "CONDA_OVERRIDE_GLIBC": "2.28"}


@dataclass(frozen=True)
class Channels:
    """Ours and the placeholders, as folders and as the URLs that a client is given."""

    ours: Path
    placeholders: Path

    @property
    def files(self) -> str:
        return f"{self.ours.as_uri()} {self.placeholders.as_uri()}"


def wheels_in(folder: Path) -> Path:
    for wheel in WHEELS:
        (folder / wheel.name).write_bytes(wheel.read_bytes())
    return folder


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    root = tmp_path_factory.mktemp("channels")
    wheels = wheels_in(tmp_path_factory.mktemp("wheels"))
    built = conda.build(RECIPE, wheels, VERSION, FACTS["release_date"], root / "built")
    channel.publish(built, root / "ours")
    conda.step("placeholders", root / "placeholders")
    return Channels(root / "ours", root / "placeholders")


@pytest.fixture(scope="module")
def server(channels: Channels) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(channels.ours.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def packages(channels: Channels) -> dict[Path, Path]:
    """Each wheel and the package that is made from it."""
    found = {}
    for path in channels.ours.rglob("*.conda"):
        name = path.name.rsplit("-", 2)[0].replace("-", "_")
        (wheel,) = [w for w in WHEELS if w.name.startswith(f"{name}-{VERSION}-")]
        found[wheel] = path
    return found


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def index_of(package: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(conda.contents(package)["info/index.json"])
    return index


def test_every_wheel_has_its_package(channels: Channels) -> None:
    assert packages(channels).keys() == set(WHEELS)


def test_a_package_holds_the_exact_bytes_of_its_wheel(channels: Channels) -> None:
    for path, package in packages(channels).items():
        files = conda.contents(package)
        root = "site-packages/"
        payload = {n.split(root, 1)[1]: d for n, d in files.items() if root in n}
        with zipfile.ZipFile(path) as wheel:
            want = {n: wheel.read(n) for n in wheel.namelist()}
        assert payload.keys() - want.keys() == {n for n in payload if n.endswith("/INSTALLER")}
        assert want.items() <= payload.items()


def test_one_package_serves_every_python(channels: Channels) -> None:
    for wheel, package in packages(channels).items():
        index = index_of(package)
        assert wheel.name.split("-")[2] == "py3"
        assert index["noarch"] == "python"
        assert not [d for d in index["depends"] if d.startswith("python_abi")]


def test_paths_json_is_right(channels: Channels) -> None:
    for package in packages(channels).values():
        files = conda.contents(package)
        for entry in json.loads(files["info/paths.json"])["paths"]:
            assert hashlib.sha256(files[entry["_path"]]).hexdigest() == entry["sha256"]


def test_the_licences_come_along(channels: Channels) -> None:
    for wheel, package in packages(channels).items():
        files = conda.contents(package)
        there = {Path(n).name for n in files if n.startswith("info/licenses/")}
        assert there == set(metadata_of(wheel).get_all("License-File", []))


def test_the_metadata_agrees_with_the_wheel_and_its_row(channels: Channels) -> None:
    for wheel, package in packages(channels).items():
        metadata, index = metadata_of(wheel), index_of(package)
        assert (index["name"], index["version"]) == (metadata["Name"], metadata["Version"])
        terms = set(metadata["License-Expression"].split(" AND "))
        assert set(index["license"].split(" AND ")) == terms
        depends = {f"python {metadata['Requires-Python']}", *ROWS[metadata["Name"]]["conda"]}
        for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
            if requirement.name == "torch":
                # Pre-releases come in containers, not from a channel.
                oldest = str(requirement.specifier).removesuffix(".dev0")
                depends.add(f"pytorch {oldest},<3")
            elif requirement.marker is None:
                depends.add(f"{requirement.name} {requirement.specifier}")
        assert set(index["depends"]) == depends
        (tag,) = parse_wheel_filename(wheel.name)[3]
        if tag.platform == "any":
            assert index["subdir"] == "noarch"
        else:
            assert (index["subdir"], tag.platform) == ("linux-64", "manylinux_2_28_x86_64")
            assert "__glibc >=2.28,<3.0.a0" in depends
            constrains = ["__cuda >=13.0", *ROWS[metadata["Name"]]["conda_constrains"]]
            assert index["constrains"] == constrains


def test_two_builds_are_equal_byte_by_byte(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    wheels = wheels_in(tmp_path / "wheels")
    date = FACTS["release_date"]
    for package in conda.build(RECIPE, wheels, VERSION, date, tmp_path / "again", test=False):
        published = channels.ours / package.parent.name / package.name
        assert package.read_bytes() == published.read_bytes(), package.name


@pytest.mark.parametrize("via", ["file", "http"])
def test_a_fresh_prefix_runs_the_example(
    channels: Channels, server: str, tmp_path: Path, via: str
) -> None:
    places = channels.files if via == "file" else f"{server}/ours {server}/placeholders"
    prefix = tmp_path / "prefix"
    got = conda.step("install", prefix, places, "accelerated-modules", **NEW_MACHINE)
    versions = {name: (version, build) for name, version, build, _ in got}
    assert versions["accelerated-modules"][0] == VERSION
    assert versions["pytorch"] == ("2.10.0", "cuda130_generic_py311_h0_200")
    assert all(url.startswith(via) for *_, url in got)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    python = prefix / "bin/python"
    where = "import hstu_attn; print(hstu_attn.__file__)"
    said = subprocess.check_output([python, "-c", where], env=env, text=True, cwd="/")
    assert said.startswith(str(prefix))
    subprocess.run([python, EXAMPLE], env=env, check=True, cwd="/")


def reissued(package: Path, folder: Path, version: str, said: str) -> Path:
    """The same package under another version, its module a line longer; the dates are the same."""
    name, old, _ = package.name.rsplit("-", 2)
    module = f"{ROWS[name]['import_name']}/__init__.py"
    changed: dict[str, bytes] = {}

    def edit(member: str, data: bytes) -> bytes:
        if member.endswith(f"site-packages/{module}"):
            changed[member] = data + f"\nSAYS = '{said}'\n".encode()
            return changed[member]
        if member == "info/index.json":
            return json.dumps({**json.loads(data), "version": version}).encode()
        if member == "info/paths.json":
            paths = json.loads(data)
            for entry in paths["paths"]:
                if (new := changed.get(entry["_path"])) is not None:
                    entry["sha256"] = hashlib.sha256(new).hexdigest()
                    entry["size_in_bytes"] = len(new)
            return json.dumps(paths).encode()
        return data

    target = folder / package.name.replace(f"-{old}-", f"-{version}-")
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(target, "w") as out:
        for part in sorted(source.namelist(), key=lambda name: name.startswith("info-")):
            data = source.read(part)
            if part.endswith(".tar.zst"):
                tar = io.BytesIO()
                with (
                    tarfile.open(fileobj=io.BytesIO(zstd.decompress(data))) as members,
                    tarfile.open(fileobj=tar, mode="w") as edited,
                ):
                    for member in members:
                        file = members.extractfile(member) if member.isreg() else None
                        text = edit(member.name, file.read()) if file else b""
                        member.size = len(text)
                        edited.addfile(member, io.BytesIO(text))
                data = zstd.compress(tar.getvalue(), level=1)
            out.writestr(part.replace(f"-{old}-", f"-{version}-"), data)
    return target


def to_upgrade(channels: Channels) -> list[Path]:
    """The smallest package of each platform; all with --test_env=CONDA_UPGRADES=all."""
    found = sorted(packages(channels).values(), key=lambda package: package.stat().st_size)
    if os.environ.get("CONDA_UPGRADES") == "all":
        return found
    return [next(p for p in found if p.parent.name == name) for name in ("noarch", "linux-64")]


def test_after_an_upgrade_of_the_same_date_the_new_code_runs_and_after_removal_none(
    channels: Channels, tmp_path: Path
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for number, package in enumerate(to_upgrade(channels)):
        issues = {"1.0.0": "old", "1.0.1": "new"}
        (tmp_path / str(number)).mkdir()
        ours = tmp_path / f"channel{number}"  # alone: what it needs comes from the other channel
        reissues = [reissued(package, tmp_path / str(number), *issue) for issue in issues.items()]
        channel.publish(reissues, ours)
        name = package.name.rsplit("-", 2)[0]
        module = ROWS[name]["import_name"]
        prefix, places = tmp_path / f"prefix{number}", f"{ours.as_uri()} {channels.files}"
        for version, said in issues.items():
            conda.step("install", prefix, places, f"{name} =={version}", **NEW_MACHINE)
            program = f"import {module}; print({module}.SAYS)"
            command = [prefix / "bin/python", "-W", "ignore", "-c", program]
            assert subprocess.check_output(command, env=env, text=True, cwd="/").strip() == said
        assert list(prefix.rglob(f"{module}/__pycache__/__init__.*.pyc"))
        conda.step("install", prefix, places, "python", **NEW_MACHINE)
        command = [prefix / "bin/python", "-c", f"import {module}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd="/")
        assert f"No module named '{module}'" in done.stderr
        assert not list(prefix.rglob(f"*{module}*"))


def test_a_machine_without_a_gpu_may_install(channels: Channels, tmp_path: Path) -> None:
    machine = {**NEW_MACHINE, "CONDA_OVERRIDE_CUDA": ""}
    assert conda.step("install", tmp_path / "prefix", channels.files, "hstu-attn", **machine)


@pytest.mark.parametrize(
    ("machine", "also", "reason"),
    [
        ({"CONDA_OVERRIDE_CUDA": "12.9"}, [], "__cuda >=13.0"),
        ({"CONDA_OVERRIDE_GLIBC": "2.17"}, [], "__glibc >=2.28"),
        ({}, ["pytorch 2.9.*"], "pytorch >=2.10"),
        ({}, ["cuda-version 12.9.*"], "cuda-version >=13.0"),
        ({}, ["pytorch * cpu*"], "pytorch * cuda*"),
    ],
)
def test_the_solver_refuses_and_says_why(
    channels: Channels, tmp_path: Path, machine: dict[str, str], also: list[str], reason: str
) -> None:
    specs = ["accelerated-modules", *also]
    machine = {**NEW_MACHINE, **machine}
    with pytest.raises(Refused, match="Cannot solve") as refused:
        conda.step("install", tmp_path / "prefix", channels.files, *specs, **machine)
    assert reason in str(refused.value)
    assert not (tmp_path / "prefix").exists()


def test_the_recipe_has_each_package_once_and_first_what_others_need(channels: Channels) -> None:
    # The order in which conda-build, too, builds and tests them.
    order = conda.step("lint", RECIPE, **LINT)
    assert sorted(order) == sorted({metadata_of(w)["Name"] for w in WHEELS})
    for package in packages(channels).values():
        name = package.name.rsplit("-", 2)[0]
        needs = {depend.split()[0] for depend in index_of(package)["depends"]}
        assert needs.isdisjoint(order[order.index(name) :])


def test_a_package_is_tested_by_what_its_users_do_first(channels: Channels) -> None:
    for wheel, package in packages(channels).items():
        module = ROWS[metadata_of(wheel)["Name"]]["import_name"]
        tests = conda.contents(package)["info/tests/tests.yaml"].decode()
        assert f"imports:\n    - {module}\n" in tests
        assert "pip_check: false" not in tests  # true is what it is when nothing is said
        assert f"content: python -m {module}\n" in tests
        if not wheel.name.endswith("-any.whl"):  # the oldest and the newest Python
            assert "python_version:\n    - 3.10.*\n    - '*'\n" in tests


def test_a_package_says_what_it_is(channels: Channels) -> None:
    for wheel, package in packages(channels).items():
        about = json.loads(conda.contents(package)["info/about.json"])
        assert about["license"] == index_of(package)["license"]
        assert len(about["summary"]) > 20 and about["description"]
        assert index_of(package)["build_number"] == 0, wheel.name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("binary_relocation: false", "binary_relocations: false"),
        ("license: Apache-2.0\n", "license: Apache Two\n"),
        ("summary:", "sumary:"),
    ],
)
def test_the_builders_parser_refuses_mistakes(tmp_path: Path, old: str, new: str) -> None:
    text = RECIPE.read_text()
    assert old in text
    (tmp_path / "recipe.yaml").write_text(text)
    assert conda.step("lint", tmp_path / "recipe.yaml", **LINT)
    (tmp_path / "recipe.yaml").write_text(text.replace(old, new))
    with pytest.raises(Refused):
        conda.step("lint", tmp_path / "recipe.yaml", **LINT)


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCEL_VERSION", raising=False)
    with pytest.raises(Refused, match="ACCEL_VERSION"):
        conda.step("lint", RECIPE, **{k: v for k, v in LINT.items() if k != "ACCEL_VERSION"})
