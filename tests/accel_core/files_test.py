"""A file is the old one or the new one, whatever happens to its writer."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from python.accel_core import files
from tests.common.processes import killed


@pytest.fixture(params=["nameless", "named"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without files that have no name, which not every file system has."""
    if request.param == "named":
        monkeypatch.setattr(files, "_nameless", lambda folder, mode: -1)


@pytest.mark.usefixtures("writer")
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        files.write(tmp_path / "new", b"data")
    finally:
        os.umask(previous)
    assert (tmp_path / "new").read_bytes() == b"data"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.usefixtures("writer")
def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("writer")
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")
    with pytest.raises(KeyError), files.writing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_symbolic_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    files.write(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/file").read_bytes() == b"data"


def test_a_name_of_the_greatest_length_is_written(tmp_path: Path) -> None:
    files.write(tmp_path / ("n" * 255), b"data")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"data"


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        words = re.escape(f"path is '{path}'; it must be a regular file")
        with pytest.raises(ValueError, match=words):
            files.write(path, b"")
    with pytest.raises(ValueError, match="must not hold a NUL"):
        files.write(f"{tmp_path}/a\0b", b"")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.usefixtures("writer")
def test_of_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    for _ in range(10):
        writers = [threading.Thread(target=files.write, args=(path, data)) for data in contents]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        assert path.read_bytes() in contents and os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"0" * 1_000_000)
    code = f"""
import itertools
import files
print("ready", flush=True)
for n in itertools.count():
    files.write({str(path)!r}, str(n % 10).encode() * 1_000_000)
"""
    for _ in killed(code, rounds=8, first=Path(files.__file__).parent):
        data = path.read_bytes()
        assert len(data) == 1_000_000 and len(set(data)) == 1
