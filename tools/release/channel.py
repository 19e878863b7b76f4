"""A channel folder: what is published in it never changes, whoever else writes to it.

One writer at a time: a lock file is held from the first look to the last rename. Everything is made
ready in a folder of its own in the channel, then renamed into place, the packages before the index
that names them. The index, repodata.json, keeps the entries that it has, other people's too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backports import zstd

from python.accel_core.files import sync
from tools.release.refused import Refused

SUBDIRS = ("linux-64", "noarch")  # clients ask for both
INDEX = "repodata.json"
LOCK = ".lock"
TAKEN_BACK = "taken-back.txt"  # our own list: other indexers forget the `removed` of INDEX
STAGE = ".new-"
# Other indexers' files, which clients read instead of INDEX, or beside it: they would stay old.
OTHER_INDEXES = (
    "current_repodata.json*",
    "repodata.json.*",
    "repodata_*",
    "run_exports.json*",
    "shards",
)
MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get the right to write"),
}
KINDS = {".conda": "packages.conda", ".tar.bz2": "packages"}


def publish(packages: list[Path], channel: Path) -> list[Path]:
    """Adds packages to a channel folder and indexes it, wholly or not at all.

    Returns the place of each. A package that is there already, with the same bytes, stays as it is.

    Raises:
        Refused: a package was published under this name with other contents, or taken back; one in
            the channel is damaged; the folder cannot be written.
    """
    with _locked(channel) as stage:
        entries = {package: describe(package) for package in packages}
        subdirs = {entry["subdir"] for entry in entries.values()} | _subdirs(channel)
        indexes = {subdir: _index(channel, subdir) for subdir in sorted(subdirs)}
        taken_back = _taken_back(channel)
        places = []
        for package, entry in entries.items():
            name = f"{entry['subdir']}/{package.name}"
            if name in taken_back:
                raise Refused(f"{channel / name} was taken back: raise the version")
            if _is_new(channel / name, entry, indexes[entry["subdir"]]):
                _write(stage / name, package.read_bytes())
            indexes[entry["subdir"]][_kind(package)].setdefault(package.name, entry)
            places.append(channel / name)
        _finish(channel, stage, indexes, taken_back)
        return places


def take_back(names: list[str], channel: Path) -> None:
    """Removes packages, each named as <subdir>/<file>; the channel remembers the name for ever.

    Raises:
        Refused: there is no such package in the channel; the folder cannot be written.
    """
    with _locked(channel) as stage:
        indexes = {subdir: _index(channel, subdir) for subdir in _subdirs(channel)}
        for name in names:
            subdir, _, file = name.partition("/")
            index = indexes.get(subdir, {})
            if not file or file not in index.get(_kind(Path(file)), {}):
                raise Refused(f"{channel / name} is not in the index: name it as <subdir>/<file>")
            del index[_kind(Path(file))][file]
        _finish(channel, stage, indexes, _taken_back(channel).union(names))
        for name in names:
            (channel / name).unlink(missing_ok=True)


def problems(channel: Path) -> list[str]:
    """One line for each package that is not what the index says: absent, altered, not in it."""
    found = []
    for subdir in sorted(_subdirs(channel)):
        index = _index(channel, subdir)
        said = {name: entry for kind in KINDS.values() for name, entry in index[kind].items()}
        there = {path.name for path in _packages(channel / subdir)}
        for name in sorted(said.keys() | there):
            place = channel / subdir / name
            if name not in there:
                found.append(f"{place}: missing, the index has it")
            elif name not in said:
                found.append(f"{place}: not in the index")
            elif _hashes(place)["sha256"] != said[name].get("sha256"):
                found.append(f"{place}: damaged, it is not what the index says")
    return found


def describe(package: Path) -> dict[str, Any]:
    """A package's entry in the index; every byte of the file is read.

    Raises:
        Refused: it is no whole conda package, or not the one that its name says.
    """
    read = _info_of_conda if _kind(package) == "packages.conda" else _info_of_tar
    try:
        entry: dict[str, Any] = json.loads(read(package))
        name = f"{entry['name']}-{entry['version']}-{entry['build']}"
        subdir = entry["subdir"]
    except OSError as error:
        if error.errno is not None:  # of the disk; bz2 has one without a number for bad data
            raise
        raise _damaged(package, error) from None
    except Exception as error:  # noqa: BLE001 - zip, tar, two compressors, JSON: each has its own
        raise _damaged(package, error) from None
    if not package.name.startswith(f"{name}.") or not re.fullmatch(r"[a-z0-9-]+", str(subdir)):
        raise Refused(f"{package} holds {subdir}/{name}: give it its own name")
    return {**entry, **_hashes(package)}


def _damaged(package: Path, error: Exception) -> Refused:
    mend = "remove it, or put a whole copy there"
    return Refused(f"{package} is damaged or no conda package ({error}): {mend}")


def _info_of_conda(package: Path) -> bytes:
    with zipfile.ZipFile(package) as archive:
        if bad := archive.testzip():
            raise ValueError(f"{bad} has a wrong checksum")
        (info,) = [name for name in archive.namelist() if name.startswith("info-")]
        with tarfile.open(fileobj=io.BytesIO(zstd.decompress(archive.read(info)))) as tar:
            return tar.extractfile("info/index.json").read()  # type: ignore[union-attr]


def _info_of_tar(package: Path) -> bytes:
    found = b""
    with tarfile.open(package, mode="r:bz2") as tar:
        for member in tar:  # to the end: bz2 checks what is read
            if member.name == "info/index.json":
                found = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def _hashes(package: Path) -> dict[str, Any]:
    with package.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"md5": md5, "sha256": sha256, "size": package.stat().st_size}


def _is_new(place: Path, entry: dict[str, Any], index: dict[str, Any]) -> bool:
    """Whether the file must be written; what is published under its name must be the same."""
    published = index[_kind(place)].get(place.name, {}).get("sha256")
    there = _hashes(place)["sha256"] if place.exists() else None
    if published is None:
        published = there
    if published not in (None, entry["sha256"]):
        raise Refused(f"{place} is published with other contents: raise the version")
    if there not in (None, entry["sha256"]):
        raise Refused(f"{place} is damaged, the index has another sha256: remove it and try again")
    return there is None


def _kind(package: Path) -> str:
    for ending, kind in KINDS.items():
        if package.name.endswith(ending):
            return kind
    raise Refused(f"{package} is no conda package: its name ends in none of {', '.join(KINDS)}")


def _packages(folder: Path) -> list[Path]:
    return sorted(p for ending in KINDS for p in folder.glob(f"*{ending}") if p.is_file())


def _subdirs(channel: Path) -> set[str]:
    """The two that clients ask for, and others that have an index."""
    return {*SUBDIRS, *(place.parent.name for place in channel.glob(f"[!.]*/{INDEX}"))}


def _taken_back(channel: Path) -> set[str]:
    """The packages that nobody is to have any more, as <subdir>/<file>."""
    place = channel / TAKEN_BACK
    return set(place.read_text().split()) if place.exists() else set()


def _index(channel: Path, subdir: str) -> dict[str, Any]:
    """The index of a folder as it is, or an empty one."""
    place = channel / subdir / INDEX
    index: dict[str, Any] = {"info": {"subdir": subdir}, "repodata_version": 1}
    try:
        if place.exists():
            index = json.loads(place.read_bytes())
        for kind in KINDS.values():
            index.setdefault(kind, {})
    except (AttributeError, ValueError) as error:
        raise Refused(f"{place} is damaged ({error}): remove it, it is written anew") from None
    return index


def _finish(
    channel: Path, stage: Path, indexes: dict[str, dict[str, Any]], taken_back: set[str]
) -> None:
    """Brings the indexes up to date and puts all that is staged into place."""
    for subdir, index in indexes.items():
        folder, new = channel / subdir, stage / subdir
        for path in _packages(folder):  # somebody else's, not indexed yet
            if path.name not in index[_kind(path)] and f"{subdir}/{path.name}" not in taken_back:
                index[_kind(path)][path.name] = describe(path)
        for kind in KINDS.values():
            index[kind] = {
                name: entry
                for name, entry in sorted(index[kind].items())
                if (folder / name).exists() or (new / name).exists()
            }
        text = json.dumps(index, indent=2, sort_keys=True).encode()
        _write(new / INDEX, text)
        _write(new / f"{INDEX}.zst", zstd.compress(text))
    if taken_back:
        _write(stage / TAKEN_BACK, "".join(f"{name}\n" for name in sorted(taken_back)).encode())
        (stage / TAKEN_BACK).replace(channel / TAKEN_BACK)
    for subdir in indexes:
        folder, new = channel / subdir, stage / subdir
        folder.mkdir(exist_ok=True)
        for path in sorted(new.iterdir(), key=lambda p: p.name.startswith(INDEX)):
            path.replace(folder / path.name)
        for pattern in OTHER_INDEXES:
            for path in folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != f"{INDEX}.zst":
                    path.unlink()
        sync(folder)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    sync(path)


@contextmanager
def _locked(channel: Path) -> Iterator[Path]:
    """Holds the channel's lock and gives a folder to make things ready in.

    The kernel drops the lock of a writer that dies; what such a one left is removed here.
    """
    if channel.exists() and not channel.is_dir():
        raise Refused(f"{channel} is not a folder: name another channel")
    try:
        channel.mkdir(parents=True, exist_ok=True)
        with (channel / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{channel}: somebody else is writing; waiting", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in channel.glob(f"{STAGE}*"):
                shutil.rmtree(left)
            stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=channel))
            try:
                yield stage
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        mend = MENDS.get(error.errno or 0, "see to it")
        said = f"{error.filename or channel}: {error.strerror}"
        raise Refused(f"{said}: the channel is as it was, {mend} and try again") from None
