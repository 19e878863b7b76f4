"""A release folder: wheels, conda packages, SHA256SUMS, provenance.json; the same every time."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python.accel_core.files import sync
from tools.release import conda
from tools.release.refused import Refused
from tools.wheel import make_wheel

SUMS = "SHA256SUMS"
PROVENANCE = "provenance.json"
BUILD_TYPE = "urn:accelerated-modules:release:v1"


@dataclass(frozen=True)
class Source:
    """The checkout that the release is made from."""

    commit: str
    dirty: bool


def load_facts(path: Path, workspace: Path) -> dict[str, Any]:
    """What facts.bzl wrote, and the Bazel that tools/bazel accepts."""
    facts: dict[str, Any] = json.loads(path.read_text())
    facts["tools"]["bazel"] = (workspace / ".bazelversion").read_text().strip()
    return facts


def git(workspace: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", workspace, *args], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Refused(f"git {args[0]} failed in {workspace}: {said}")
    return done.stdout


def source(workspace: Path, allow_dirty: bool) -> Source:
    """The commit of the checkout; uncommitted changes are refused unless allowed."""
    commit = git(workspace, "rev-parse", "HEAD").strip()
    changed = git(workspace, "status", "--porcelain").splitlines()
    if changed and not allow_dirty:
        raise Refused(
            f"the git tree is dirty ({len(changed)} paths, the first: {changed[0][3:]}): commit, "
            "or release with --allow-dirty, which marks the version +dirty"
        )
    return Source(commit, bool(changed))


def check_outside(workspace: Path, out: Path) -> None:
    """Refuses a folder in the checkout that git sees: the next release would find a dirty tree."""
    place, root = out.resolve(), workspace.resolve()
    if place.is_relative_to(root):
        # A file below it: git need not find the folder to know that it is one.
        ignored = ["git", "-C", root, "check-ignore", "-q", place / "file"]
        if subprocess.run(ignored, stderr=subprocess.DEVNULL).returncode != 0:
            raise Refused(f"{out} lies in the checkout and git does not ignore it: name another")


def check_changelog(changelog: Path, version: str, date: str) -> None:
    """CHANGELOG.md must have an entry with text for this version and this date."""
    text = changelog.read_text() if changelog.is_file() else ""
    entries = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    entry = next((e for e in entries if e.startswith(f"[{version}]")), None)
    if entry is None:
        raise Refused(f"{changelog.name} has no entry '## [{version}] - {date}': write it")
    head, _, body = entry.partition("\n")
    if head.strip() != f"[{version}] - {date}":
        found = f"{changelog.name} has '## {head.strip()}'"
        raise Refused(f"{found}, version.bzl says {version}, {date}: make them agree")
    if not body.strip():
        raise Refused(f"the entry of {version} in {changelog.name} is empty: say what changed")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_wheels(wheels: list[Path], folder: Path, version: str, local: str | None) -> list[Path]:
    """Copies the wheels; `local` becomes the local part of their version (0.1.0+dirty)."""
    copies = []
    for wheel in wheels:
        name = wheel.name
        if local:
            name = name.replace(f"-{version}-", f"-{version}+{local}-", 1)
            restamp(wheel, folder / name, version, f"{version}+{local}")
        else:
            shutil.copyfile(wheel, folder / name)
            (folder / name).chmod(0o644)
        copies.append(folder / name)
    return sorted(copies)


def restamp(wheel: Path, out: Path, old: str, new: str) -> None:
    """The same wheel under another version: folder name, METADATA, == pins, SBOM, RECORD."""
    distribution = wheel.name.split("-")[0]
    before, after = (f"{distribution}-{v}.dist-info" for v in (old, new))
    files = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            place = name.replace(before, after, 1) if name.startswith(before + "/") else name
            if name == f"{before}/METADATA":
                head, end, body = data.decode().partition("\n\n")
                mark = re.compile(rf"(^Version: |==){re.escape(old)}(?=$|;)", re.M)
                head = mark.sub(rf"\g<1>{new}", head)
                data = (head + end + body).encode()
            elif name.startswith(f"{before}/sboms/"):
                key = '"versionInfo": "{}"'
                data = data.replace(key.format(old).encode(), key.format(new).encode())
            if name != f"{before}/RECORD":
                files[place] = data
    record = f"{after}/RECORD"
    files[record] = make_wheel.record(files, record).encode()
    make_wheel.write(out, files, after)


def statement(facts: dict[str, Any], src: Source, hashes: dict[str, str]) -> dict[str, Any]:
    """An in-toto statement with a SLSA v1 provenance predicate. No clock, no host: only inputs."""
    dependencies: list[dict[str, Any]] = [
        {"name": "source", "digest": {"gitCommit": src.commit}},
    ]
    for name, pin in sorted(facts["pins"].items()):
        for digest in pin["sha256"]:
            dependencies.append({"name": name, "uri": pin["purl"], "digest": {"sha256": digest}})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": hashes[name]}} for name in sorted(hashes)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": "tools/bazel run //:release",
                    "flags": facts["flags"],
                    "source": {"gitCommit": src.commit, "uncommittedChanges": src.dirty},
                    "version": facts["version"],
                },
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILD_TYPE + ":tools/bazel", "version": facts["tools"]},
            },
        },
    }


def write_distribution(
    folder: Path, wheels: list[Path], facts: dict[str, Any], src: Source, recipe: Path | None
) -> None:
    """Fills an empty folder with the release; without a recipe it has no conda packages."""
    local = "dirty" if src.dirty else None
    copy_wheels(wheels, folder, facts["version"], local)
    if recipe:
        version = facts["version"] + (f"+{local}" if local else "")
        conda.build(recipe, folder, version, facts["release_date"], folder / "conda")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files_of(folder).items()}
    text = json.dumps(statement(facts, src, hashes), indent=2) + "\n"
    (folder / PROVENANCE).write_text(text)
    hashes[PROVENANCE] = sha256(folder / PROVENANCE)
    (folder / SUMS).write_text("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below the folder; signatures (SHA256SUMS.*) are not part of what is compared."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(SUMS + ".")
    }


def differences(ours: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    """What differs between two release folders, one line for each file."""
    lines = []
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            lines.append(f"{name}: missing")
        elif name not in ours:
            lines.append(f"{name}: not part of the release")
        elif ours[name] != theirs[name]:
            lines.append(f"{name}: {_how(ours[name], theirs[name])}")
    return lines


def _how(a: bytes, b: bytes) -> str:
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    return f"differs from byte {at} on ({len(b)} bytes, rebuilt {len(a)} bytes)"


@contextmanager
def folder_in_one_step(out: Path) -> Iterator[Path]:
    """A new folder that appears at `out` whole or not at all; equal contents there are kept."""
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is not a folder: name another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        if out.is_dir() and any(out.iterdir()):
            lines = differences(files_of(temporary), files_of(out))
            if lines:
                mend = "name another --out or remove it"
                raise Refused(f"{out} holds something else ({lines[0]}): {mend}")
            return
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        temporary.chmod(0o755)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _paths(text: str) -> list[Path]:
    return [Path(path) for path in text.split()]


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--facts", type=Path, required=True, help=argparse.SUPPRESS)
    made.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--wheels", type=_paths, required=True, help=argparse.SUPPRESS)
    return made


def workspace() -> Path:
    try:
        return Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    except KeyError:
        raise Refused("start it with `tools/bazel run`") from None


def user_path(path: Path) -> Path:
    """A path as the user wrote it, relative to where they started Bazel."""
    return Path(os.path.normpath(Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), path)))
