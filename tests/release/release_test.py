"""A release of two wheels from a throw-away git checkout: what is written, and what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from tests.common.processes import python

if "FACTS" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/release/... builds what it looks at", allow_module_level=True
    )

WHEELS = [Path(os.environ["SMALL_WHEEL"]).resolve(), Path(os.environ["META_WHEEL"]).resolve()]
FACTS = Path(os.environ["FACTS"]).resolve()
VERSION = json.loads(FACTS.read_text())["version"]
DATE = json.loads(FACTS.read_text())["release_date"]
ENTRY = f"# Changelog\n\n## [{VERSION}] - {DATE}\n\nFirst.\n"
WHO = ("AUTHOR", "COMMITTER")
GIT_ENV = {f"GIT_{who}_{what}": "x" for who in WHO for what in ("NAME", "EMAIL")}

# Stands for Bazel in the checkouts: "builds" the wheels that lie ready outside.
BAZEL = f"""#!/bin/sh
case "$*" in *shutdown) exit ;; *--compilation_mode=opt*) ;; *) exit 1 ;; esac
while [ "$1" != -- ]; do shift; done
shift
BUILD_WORKSPACE_DIRECTORY=$PWD; export BUILD_WORKSPACE_DIRECTORY
cd {os.getcwd()} && exec {sys.executable} -m tools.release.release \
  --facts={FACTS} --wheels="{WHEELS[0]} {WHEELS[1]}" --example=none "$@"
"""


def git(checkout: Path, *args: str) -> str:
    env = {**os.environ, **GIT_ENV}
    return subprocess.check_output(["git", "-C", checkout, *args], env=env, text=True).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "tools").mkdir(parents=True)
    (folder / "CHANGELOG.md").write_text(ENTRY)
    (folder / ".bazelversion").write_text("7.7.1\n")
    (folder / "tools/bazel").write_text(BAZEL)
    (folder / "tools/bazel").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def call(program: str, checkout: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Calls release or verify as `bazel run` does."""
    wheels = " ".join(map(str, WHEELS))
    arguments = ["-m", f"tools.release.{program}", f"--facts={FACTS}", f"--wheels={wheels}"]
    if program == "release":
        arguments += ["--example=none"]
    environment = {**GIT_ENV, "BUILD_WORKSPACE_DIRECTORY": str(checkout)}
    return python(*arguments, *map(str, args), first=Path.cwd(), **environment)


def release(checkout: Path, out: Path, *args: object) -> None:
    done = call("release", checkout, "--out", out, "--no-example", *args)
    assert done.returncode == 0, done.stderr


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_release_lists_every_file_with_its_hash(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    names = {path.name for path in (tmp_path / "dist").iterdir()}
    assert names == {"SHA256SUMS", "provenance.json", *(wheel.name for wheel in WHEELS)}
    checked = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "dist")
    assert checked.returncode == 0
    for wheel in WHEELS:
        assert (tmp_path / "dist" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_provenance_names_commit_pins_flags_and_tools(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    text = (tmp_path / "dist/provenance.json").read_text()
    statement = json.loads(text)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in statement["subject"]:
        data = (tmp_path / "dist" / subject["name"]).read_bytes()
        assert subject["digest"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert {s["name"] for s in statement["subject"]} == {wheel.name for wheel in WHEELS}
    build = statement["predicate"]["buildDefinition"]
    source = {"gitCommit": git(checkout, "rev-parse", "HEAD"), "uncommittedChanges": False}
    assert build["externalParameters"]["source"] == source
    flags = build["externalParameters"]["flags"]
    assert "--//tools/cuda:archs=compute_80:sm_80+sm_90+compute_80" in flags
    pins = {d["name"]: d for d in build["resolvedDependencies"]}
    assert {"nvidia-cuda-nvcc", "nvidia-cutlass", "ziglang", "torch"} <= pins.keys()
    assert all(d["digest"].get("sha256") or d["digest"]["gitCommit"] for d in pins.values())
    assert statement["predicate"]["runDetails"]["builder"]["version"]["bazel"] == "7.7.1"
    assert str(tmp_path) not in text


def test_two_releases_of_a_commit_are_equal_byte_by_byte(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "a/dist")
    subprocess.run(["git", "clone", "-q", checkout, tmp_path / "other"], check=True)
    release(tmp_path / "other", tmp_path / "b")
    for path in (tmp_path / "a/dist").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_dirty_tree_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new.txt").write_text("x")
    said = refusal(call("release", checkout, "--out", tmp_path / "dist"))
    assert "dirty" in said and "new.txt" in said and "--allow-dirty" in said
    assert not (tmp_path / "dist").exists()


def test_allow_dirty_marks_the_version_everywhere(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new.txt").write_text("x")
    release(checkout, tmp_path / "dist", "--allow-dirty")
    wheels = sorted((tmp_path / "dist").glob("*.whl"))
    assert [w.name.split("-")[1] for w in wheels] == [f"{VERSION}+dirty"] * 2
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        dist_info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
        metadata = Metadata.from_email(files[f"{dist_info}/METADATA"])
        assert str(metadata.version) == f"{VERSION}+dirty"
        for requirement in metadata.requires_dist or []:
            if requirement.name != "torch":
                assert str(requirement.specifier) == f"=={VERSION}+dirty"
        (sbom,) = [json.loads(d) for n, d in files.items() if n.startswith(f"{dist_info}/sboms/")]
        assert sbom["packages"][0]["versionInfo"] == f"{VERSION}+dirty"
        record = files[f"{dist_info}/RECORD"].decode().splitlines()
        rows = {row[0]: row[1] for row in csv.reader(record)}
        assert rows.keys() == files.keys()
        for name, digest in rows.items():
            want = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
            assert digest in (f"sha256={want.decode()}", "")
    said = refusal(call("verify", checkout, tmp_path / "dist"))
    assert "uncommitted changes" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# Changelog\n", "no entry"),
        (f"## [{VERSION}] - 1999-01-01\n\nFirst.\n", "1999-01-01"),
        (f"## [{VERSION}] - {DATE}\n\n## [0.0.1] - 1999-01-01\n\nOld.\n", "empty"),
    ],
)
def test_a_changelog_without_the_version_is_refused(
    checkout: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (checkout / "CHANGELOG.md").write_text(text)
    git(checkout, "commit", "-qam", "changelog")
    said = refusal(call("release", checkout, "--out", tmp_path / "dist"))
    assert reason in said and "CHANGELOG.md" in said and VERSION in said


def test_a_folder_with_other_contents_is_refused_and_kept(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/mine.txt").write_text("mine")
    said = refusal(call("release", checkout, "--out", tmp_path / "dist"))
    assert "holds something else" in said
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["mine.txt"]


def test_the_same_release_again_changes_nothing(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dist").iterdir()}
    release(checkout, tmp_path / "dist")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "dist").iterdir()}


def test_a_release_that_fails_leaves_nothing_behind(checkout: Path, tmp_path: Path) -> None:
    said = refusal(call("release", checkout, "--out", tmp_path / "new/dist", "--sign", "false"))
    assert "--sign failed" in said
    assert list((tmp_path / "new").iterdir()) == []


def test_the_signing_command_sees_the_sums(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist", "--sign", "sh -c 'cp $0 $0.sig'")
    dist = tmp_path / "dist"
    assert (dist / "SHA256SUMS.sig").read_bytes() == (dist / "SHA256SUMS").read_bytes()
    assert call("verify", checkout, dist).returncode == 0


def test_verify_accepts_the_release_of_the_present_tree(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    done = call("verify", checkout, tmp_path / "dist")
    assert done.returncode == 0 and "every byte" in done.stdout, done.stderr


@pytest.mark.parametrize("wheel", [w.name for w in WHEELS])
def test_verify_finds_one_altered_byte(checkout: Path, tmp_path: Path, wheel: str) -> None:
    release(checkout, tmp_path / "dist")
    altered = tmp_path / "dist" / wheel
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    said = refusal(call("verify", checkout, tmp_path / "dist"))
    assert wheel in said and "altered" in said


def test_verify_finds_an_altered_byte_under_new_sums(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    altered = tmp_path / "dist" / WHEELS[0].name
    old = hashlib.sha256(altered.read_bytes()).hexdigest()
    data = bytearray(altered.read_bytes())
    data[1000] ^= 1
    altered.write_bytes(data)
    provenance = tmp_path / "dist/provenance.json"
    was = hashlib.sha256(provenance.read_bytes()).hexdigest()
    new = hashlib.sha256(data).hexdigest()
    provenance.write_text(provenance.read_text().replace(old, new))
    sums = (tmp_path / "dist/SHA256SUMS").read_text().replace(old, new)
    sums = sums.replace(was, hashlib.sha256(provenance.read_bytes()).hexdigest())
    (tmp_path / "dist/SHA256SUMS").write_text(sums)
    said = refusal(call("verify", checkout, tmp_path / "dist"))
    assert f"{WHEELS[0].name}: differs from byte 1000 on" in said
    assert WHEELS[1].name not in said


def test_verify_names_missing_and_added_files(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    (tmp_path / "dist/added.whl").write_bytes(b"")
    assert "added.whl: not listed" in refusal(call("verify", checkout, tmp_path / "dist"))
    (tmp_path / "dist/added.whl").unlink()
    (tmp_path / "dist" / WHEELS[1].name).unlink()
    assert f"{WHEELS[1].name}: missing" in refusal(call("verify", checkout, tmp_path / "dist"))


def test_verify_rebuilds_the_commit_that_was_released(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    (checkout / "later.txt").write_text("x")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "later")
    done = call("verify", checkout, tmp_path / "dist")
    assert done.returncode == 0, done.stderr
    assert "a fresh checkout" in done.stdout


def test_verify_hands_no_forged_flag_to_bazel(checkout: Path, tmp_path: Path) -> None:
    release(checkout, tmp_path / "dist")
    provenance = tmp_path / "dist/provenance.json"
    was = hashlib.sha256(provenance.read_bytes()).hexdigest()
    text = provenance.read_text().replace("--compilation_mode=opt", "--run_under=/bin/evil")
    provenance.write_text(text)
    sums = tmp_path / "dist/SHA256SUMS"
    sums.write_text(sums.read_text().replace(was, hashlib.sha256(text.encode()).hexdigest()))
    said = refusal(call("verify", checkout, tmp_path / "dist"))
    assert "--run_under=/bin/evil" in said


def test_verify_refuses_what_is_no_release(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    assert "not a release" in refusal(call("verify", checkout, tmp_path / "dist"))
