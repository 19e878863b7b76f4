"""What all data sets' readers do: archives, tables of text, codes."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from hstu_training.data.columns import Array, fail

CHUNK = 1 << 20  # lines


def md5(path: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


@contextmanager
def opened(source: Path, name: str) -> Iterator[IO[str]]:
    """A text file of an archive (.zip, .tar.gz) or a folder; found by its last name.

    Raises:
        DataError: it is not there, or the archive is damaged.
    """
    try:
        if source.is_dir():
            found = sorted(source.rglob(name))
            if not found:
                fail(source, f"there is no {name} in this folder")
            with open(found[0], encoding="utf-8", errors="replace") as file:
                yield file
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                names = [n for n in archive.namelist() if n.rpartition("/")[2] == name]
                if not names:
                    fail(source, f"there is no {name} in this archive")
                with archive.open(names[0]) as raw:
                    yield io.TextIOWrapper(raw, "utf-8", errors="replace")
        elif tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:
                members = [m for m in archive.getmembers() if m.name.rpartition("/")[2] == name]
                member = archive.extractfile(members[0]) if members else None
                if member is None:
                    fail(source, f"there is no {name} in this archive")
                yield io.TextIOWrapper(member, "utf-8", errors="replace")
        else:
            fail(source, "neither a folder nor a .zip or .tar.gz archive: missing or damaged")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        fail(source, f"the archive is damaged ({error})")


def numbers(
    file: IO[str], where: str, columns: Sequence[int], separator: str = ",", skip: int = 0
) -> Array:
    """(lines, columns) float64 of a text table; whole numbers up to 2^53 are exact."""
    lines: Iterator[str] = itertools.islice(file, skip, None)
    if len(separator) > 1:
        wide, separator = separator, "\t"
        lines = (line.replace(wide, separator) for line in lines)
    parts, done = [], 0
    while chunk := list(itertools.islice(lines, CHUNK)):
        try:
            part = np.loadtxt(chunk, np.float64, delimiter=separator, usecols=columns, ndmin=2)
        except ValueError as error:
            fail(where, f"after line {done + skip}: {error}")
        parts.append(part)
        done += len(chunk)
    if not parts:
        fail(where, "the file is empty")
    return np.concatenate(parts)


def codes(values: Sequence[str]) -> Array:
    """1 + the order of each value's first appearance."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(value, len(seen) + 1) for value in values], np.int64)


def whole(values: Array) -> Array:
    return values.astype(np.int64)
