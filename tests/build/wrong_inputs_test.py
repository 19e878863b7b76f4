"""A fetch that goes wrong stops the build with one line that says why and what to do.

pip gets its packages from a folder here, apt and npm are stand-ins: no network is asked.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.nested import Nested, nested, scratch

CUTLASS = "nvidia-cutlass==4.2.0.0"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Iterator[Nested]:
    with nested(folder / "one") as one:
        yield one


def served(folder: Path, *wheels: str) -> tuple[dict[str, str], dict[str, str]]:
    """A folder that pip takes as its registry; returns pip's settings and each wheel's sha256."""
    folder.mkdir()
    hashes = {}
    for name in wheels:
        path = folder / f"{name}-py3-none-any.whl"
        info = f"{name}.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cutlass_library/source/include/none.h", "")
            archive.writestr("ziglang/zig", "")
            archive.writestr(
                f"{info}/METADATA",
                "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(*name.split("-")),
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    pip = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": str(folder),
        "PIP_INDEX_URL": "",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INDEX": "1",
    }
    return pip, hashes


def programs(folder: Path, without: tuple[str, ...] = (), **scripts: str) -> str:
    """A folder for the PATH: the machine's programs, less some, with stand-ins for others."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    for where in os.environ["PATH"].split(":"):
        for program in Path(where).iterdir() if os.path.isdir(where) else ():
            place = folder / program.name
            if program.name not in without and not os.path.lexists(place):
                place.symlink_to(program)
    return str(folder)


def fetch(
    checkout: Nested, repository: str, env: dict[str, str], *flags: str
) -> tuple[bool, list[str]]:
    """Fetches a repository; returns whether it came and the reasons that rules of ours gave."""
    done = checkout.bazel("query", f"@{repository}//:all", *flags, env=env, check=False)
    assert done.returncode == 0 or "Error in fail: " in done.stderr, done.stderr
    return done.returncode == 0, sorted(set(re.findall("Error in fail: (.*)", done.stderr)))


def pins(checkout: Nested) -> str:
    return (checkout.source / "third_party/pins.bzl").read_text()


def test_a_file_with_another_hash_is_refused_with_both_hashes(
    checkout: Nested, tmp_path: Path
) -> None:
    pip, hashes = served(tmp_path / "registry", "nvidia_cutlass-4.2.0.0")
    pinned = re.search(rf'"{CUTLASS}": \["(\w+)"\]', pins(checkout))
    assert pinned
    came, reasons = fetch(checkout, "cutlass", pip)
    assert not came
    assert reasons == [
        f"{CUTLASS}: wrong hash. third_party/pins.bzl allows {pinned[1]}, "
        f"the registry served {hashes['nvidia_cutlass-4.2.0.0']}"
    ]


def test_without_a_network_the_package_and_the_settings_are_named(checkout: Nested) -> None:
    closed = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # the discard port: nobody listens
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }
    came, (reason,) = fetch(checkout, "cutlass", closed)
    assert not came
    assert reason.startswith(
        f"pip could not fetch {CUTLASS}: check the network and pip's settings "
        "(PIP_INDEX_URL, proxy). pip said: "
    )


def test_a_registry_without_the_version_is_told_from_a_dead_network(
    checkout: Nested, tmp_path: Path
) -> None:
    pip, _ = served(tmp_path / "registry", "nvidia_cutlass-4.1.0.0")
    came, reasons = fetch(checkout, "cutlass", pip)
    assert not came
    assert reasons == [
        f"{CUTLASS} is not served for this machine by pip's registry: "
        "check PIP_INDEX_URL and pip config"
    ]


def test_a_python_without_pip_is_named(checkout: Nested, tmp_path: Path) -> None:
    # The folder of an environment made --without-pip, by hand: any Python can.
    python = tmp_path / "bare/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    home = Path(os.path.realpath(sys.executable)).parent
    (tmp_path / "bare/pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\n"
    )
    came, reasons = fetch(checkout, "cutlass", {}, f"--repo_env=ACCEL_PYTHON={python}")
    assert not came
    assert reasons == [f"{python} has no pip: install it (Debian: apt-get install python3-pip)"]


def test_another_python_version_is_refused(checkout: Nested, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", python_old="echo 3.9 /usr/bin/python3.9")
    old = f"{path}/python-old"
    came, reasons = fetch(checkout, "cutlass", {}, f"--repo_env=ACCEL_PYTHON={old}")
    assert not came
    assert reasons == [
        f"{old} is Python 3.9, the pins are for 3.11: name one with --repo_env=ACCEL_PYTHON="
    ]


def test_what_the_pins_allow_is_taken(checkout: Nested, tmp_path: Path) -> None:
    pip, hashes = served(tmp_path / "registry", "nvidia_cutlass-4.2.0.0")
    before = pins(checkout)
    allowed = re.sub(rf'("{CUTLASS}": \[")\w+', rf"\g<1>{hashes['nvidia_cutlass-4.2.0.0']}", before)
    assert allowed != before
    (checkout.source / "third_party/pins.bzl").write_text(allowed)
    try:
        assert fetch(checkout, "cutlass", pip) == (True, [])
    finally:
        (checkout.source / "third_party/pins.bzl").write_text(before)


@pytest.fixture
def compiler_served(checkout: Nested, tmp_path: Path) -> Iterator[dict[str, str]]:
    """pip's settings with which the compiler's wheel comes, so that what follows it is reached."""
    pip, hashes = served(tmp_path / "registry", "ziglang-0.14.1")
    before = pins(checkout)
    allowed = re.sub(r'("ziglang==0.14.1": \[")\w+', rf"\g<1>{hashes['ziglang-0.14.1']}", before)
    assert allowed != before
    (checkout.source / "third_party/pins.bzl").write_text(allowed)
    yield pip | {"DEBIAN_MIRROR": "file:///nowhere"}
    (checkout.source / "third_party/pins.bzl").write_text(before)


def test_a_debian_package_with_another_hash_is_refused(
    checkout: Nested, compiler_served: dict[str, str], tmp_path: Path
) -> None:
    path = programs(
        tmp_path / "bin",
        apt_get="""[ "$2" = download ] || exit 0
shift 2
for package; do echo junk > "${package%%=*}_0_amd64.deb"; done""",
    )
    pinned = dict(re.findall(r'"([\w.+-]+=[\w.-]+)": "(\w+)"', pins(checkout)))
    assert len(pinned) == 3
    junk = hashlib.sha256(b"junk\n").hexdigest()
    came, (reason,) = fetch(checkout, "cc", compiler_served | {"PATH": path})
    assert not came
    assert reason in [
        f"{package}: wrong hash. third_party/pins.bzl allows {digest}, the mirror served {junk}"
        for package, digest in pinned.items()
    ]


def test_a_debian_mirror_that_does_not_answer_is_named(
    checkout: Nested, compiler_served: dict[str, str], tmp_path: Path
) -> None:
    path = programs(tmp_path / "bin", apt_get="echo 'E: no answer' >&2; exit 100")
    came, reasons = fetch(checkout, "cc", compiler_served | {"PATH": path})
    assert not came
    assert reasons == [
        "apt could not fetch from Debian bullseye: check the network and apt's sources, "
        "or build with --config=hostcc. It said: E: no answer"
    ]


def test_a_debian_package_that_does_not_come_is_missed(
    checkout: Nested, compiler_served: dict[str, str], tmp_path: Path
) -> None:
    path = programs(tmp_path / "bin", apt_get="exit 0")
    came, reasons = fetch(checkout, "cc", compiler_served | {"PATH": path})
    assert not came
    assert reasons == [
        "apt could not fetch from Debian bullseye: check the network and apt's sources, "
        "or build with --config=hostcc. It said: libstdc++-10-dev=10.2.1-6 did not come"
    ]


def test_a_machine_without_apt_is_told_of_hostcc(
    checkout: Nested, compiler_served: dict[str, str], tmp_path: Path
) -> None:
    path = programs(tmp_path / "bin", without=("apt-get",))
    came, reasons = fetch(checkout, "cc", compiler_served | {"PATH": path})
    assert not came
    assert reasons == [
        "no apt-get on the PATH: on a machine without apt build with --config=hostcc"
    ]


def test_hostcc_without_a_compiler_is_refused(
    checkout: Nested, compiler_served: dict[str, str], tmp_path: Path
) -> None:
    path = programs(tmp_path / "bin", without=("g++",))
    came, reasons = fetch(checkout, "cc", compiler_served | {"PATH": path}, "--config=hostcc")
    assert not came
    assert reasons == [
        "--config=hostcc wants g++ on the PATH: install it, or build without that flag"
    ]


def test_an_npm_package_with_another_hash_is_refused(checkout: Nested, tmp_path: Path) -> None:
    path = programs(
        tmp_path / "bin", npm="""echo '[{"filename": "x.tgz", "integrity": "sha512-other"}]'"""
    )
    came, (reason,) = fetch(checkout, "buildifier", {"PATH": path})
    assert not came
    assert reason.startswith("@bazel/buildifier@")
    assert reason.endswith("the registry served sha512-other")


def test_without_npm_the_rest_of_the_build_goes_on(checkout: Nested, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", without=("npm",))
    assert fetch(checkout, "buildifier", {"PATH": path}) == (True, [])
