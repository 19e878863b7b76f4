"""HierarchicalKV's archive: its headers are found, and tables compile on them."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.nested import Nested, nested, scratch

ENGINE = "--//third_party/hierarchical_kv:engine=upstream"
HEADERS = ["include/merlin_hashtable.cuh", "include/merlin/types.cuh", "include/merlin/a.hpp"]
BUILD_FILES = ["include/BUILD", "include/merlin/BUILD.bazel"]


@pytest.fixture(scope="module")
def checkout() -> Iterator[Nested]:
    with scratch() as folder, nested(folder / "one") as one:
        yield one


def pinned(checkout: Nested, what: str) -> str:
    found = re.search(rf'HIERARCHICAL_KV_{what} = "(\w+)"', (pins(checkout)).read_text())
    assert found
    return found[1]


def pins(checkout: Nested) -> Path:
    return checkout.source / "third_party/pins.bzl"


def headers(checkout: Nested, distdir: str | Path | None) -> list[str] | str:
    """The files of @hierarchical_kv, or what Bazel said."""
    done = checkout.bazel(
        "query", "labels(hdrs, @hierarchical_kv)", "--http_connector_attempts=1",
        *([f"--distdir={distdir}"] if distdir else []), check=False,
    )  # fmt: skip
    return sorted(done.stdout.split()) if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def archive(checkout: Nested) -> list[str]:
    """Flags with which the pinned archive is there, and its headers."""
    distdir = os.environ.get("DISTDIR")
    found = headers(checkout, distdir)
    if isinstance(found, str):
        assert "Error downloading" in found, found
        pytest.skip("HierarchicalKV's pinned archive is not to be had: no network, no DISTDIR")
    return found


def test_build_files_among_the_headers_do_not_hide_them(checkout: Nested, tmp_path: Path) -> None:
    """With a made-up archive, since the pinned one has such files, too."""
    commit = pinned(checkout, "COMMIT")
    top = tmp_path / f"HierarchicalKV-{commit}"
    for name in HEADERS + BUILD_FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text('load("@nowhere//:a.bzl", "a")\n' if name in BUILD_FILES else "")
    made_up = tmp_path / f"{commit}.tar.gz"
    with tarfile.open(made_up, "w:gz") as tar:
        tar.add(top, top.name)
    before = pins(checkout).read_text()
    digest = hashlib.sha256(made_up.read_bytes()).hexdigest()
    pins(checkout).write_text(before.replace(pinned(checkout, "SHA256"), digest))
    try:
        found = headers(checkout, tmp_path)
    finally:
        pins(checkout).write_text(before)
    assert isinstance(found, list), found
    assert [label.partition("//:")[2] for label in found] == sorted(HEADERS)


def test_the_pinned_archive_has_headers(archive: list[str]) -> None:
    assert any(label.endswith("//:include/merlin_hashtable.cuh") for label in archive)


@pytest.mark.parametrize("value", ["float", "__half"])
def test_a_table_on_the_pinned_archive_compiles(
    checkout: Nested, archive: list[str], value: str
) -> None:
    distdir = os.environ.get("DISTDIR")
    checkout.bazel(
        "build", *checkout.overrides.values(), ENGINE, "--//tools/cuda:archs=compute_80:sm_90",
        *([f"--distdir={distdir}"] if distdir else []),
        f"//csrc/hkv:HKVVariable__int64_t_{value}_EvictStrategy__kLru",
    )  # fmt: skip
