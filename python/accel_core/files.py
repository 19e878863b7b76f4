"""Files that are whole or not there: written under no name or one of their own, synced, renamed.

The last rename wins, whoever writes beside; what was at the path stays until then.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def sync(path: str | os.PathLike[str]) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _target(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """Where a path leads, symbolic links followed, and the mode of the file there, if any."""
    if "\0" in os.fspath(path):
        raise ValueError(f"path is {os.fspath(path)!r}; it must not hold a NUL character")
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(mode):
        raise ValueError(f"path is {os.fspath(path)!r}; it must be a regular file or a new one")
    return target, stat.S_IMODE(mode)


def _nameless(folder: Path, mode: int) -> int:
    """A file without a name, gone when its writer dies; -1 where the file system has none."""
    with suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, mode)
    return -1


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at ``path`` when the block ends well.

    It has the mode of the file that it replaces, else what the umask leaves.

    Raises:
        ValueError: ``path`` is a folder, a device, a pipe, or holds a NUL.
        OSError: it cannot be written; ``path`` is as it was.
    """
    target, mode = _target(path)
    temporary = target.with_name(f".accel-{secrets.token_hex(8)}")
    least = 0o666 if mode is None else 0o600  # the umask makes it less
    handle = _nameless(target.parent, least)
    named = handle < 0
    if named:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, least)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(handle, mode)
            os.fsync(handle)
            if not named:
                # With a dir_fd, which an absolute path ignores: else Python follows no link.
                os.link(f"/proc/self/fd/{handle}", temporary, src_dir_fd=handle)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync(target.parent)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """``writing`` of bytes that are there already."""
    with writing(path) as file:
        file.write(data)
