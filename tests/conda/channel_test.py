"""A channel folder that several people write to, and one that is in trouble."""

from __future__ import annotations

import bz2
import ctypes
import io
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

if "README" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/conda/... builds what it looks at", allow_module_level=True
    )

from tests.common.processes import environment
from tools.release import channel, conda, distribution
from tools.release.refused import Refused

README = Path(os.environ["README"]).resolve()


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def package(
    folder: Path,
    name: str,
    payload: bytes = b"",
    kind: str = ".conda",
    subdir: str = "linux-64",
) -> Path:
    """A conda package of one file."""
    index = {"name": name, "version": "1.0", "build": "0", "build_number": 0}
    index |= {"subdir": subdir, "depends": []}
    info = {"info/index.json": json.dumps(index).encode(), "info/paths.json": b'{"paths": []}'}
    path = folder / f"{name}-1.0-0{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    if kind == ".tar.bz2":
        path.write_bytes(bz2.compress(tar_of(info | {"share/file": payload})))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        for part, files in {"pkg": {"share/file": payload}, "info": info}.items():
            archive.writestr(f"{part}-{name}-1.0-0.tar.zst", zstd.compress(tar_of(files)))
    return path


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def index(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "linux-64/repodata.json").read_bytes())
    return read


def start(
    *args: object, program: str = "packages", before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Starts recipe/packages.py, or channel.py, as `bazel run` does."""
    checkout = os.environ["TEST_TMPDIR"] + "/checkout"
    return subprocess.Popen(
        [sys.executable, "-m", f"recipe.{program}", *map(str, args)],
        env={**environment(), "BUILD_WORKSPACE_DIRECTORY": checkout},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def refusal(process: subprocess.Popen[str]) -> str:
    """The one line that a program ends with when it refuses."""
    _, said = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if "waiting" not in line]
    assert process.returncode == 1 and len(lines) == 1, said
    return lines[0]


def add(folder: Path, packages: list[Path]) -> subprocess.Popen[str]:
    return start(folder, "add", *packages)


@pytest.fixture
def mine(tmp_path: Path) -> list[Path]:
    return [package(tmp_path / "mine", f"part{i}", os.urandom(100_000)) for i in range(6)]


@pytest.fixture
def others(tmp_path: Path) -> list[Path]:
    return [package(tmp_path / "others", f"part{i}", os.urandom(100_000)) for i in range(6)]


def test_the_index_says_what_rattlers_indexer_says(tmp_path: Path, mine: list[Path]) -> None:
    foreign = package(tmp_path / "mine", "foreign", b"old", ".tar.bz2")
    channel.publish([*mine, foreign], tmp_path / "ours")
    packages = shutil.ignore_patterns("repodata*")
    shutil.copytree(tmp_path / "ours", tmp_path / "rattlers", ignore=packages)
    conda.step("index", tmp_path / "rattlers")
    ours, theirs = index(tmp_path / "ours"), index(tmp_path / "rattlers")
    for kind in ("packages", "packages.conda"):
        assert ours[kind].keys() == theirs[kind].keys() != set()
        for name, entry in theirs[kind].items():
            entry.pop("indexed_timestamp")
            assert ours[kind][name].items() >= entry.items()
    compressed = (tmp_path / "ours/linux-64/repodata.json.zst").read_bytes()
    assert json.loads(zstd.decompress(compressed)) == ours
    assert (tmp_path / "ours/noarch/repodata.json").is_file()


@pytest.mark.parametrize("round", range(4))
def test_of_two_writers_with_other_contents_one_is_refused(
    tmp_path: Path, mine: list[Path], others: list[Path], round: int
) -> None:
    folder = tmp_path / "channel"
    writers = {"mine": add(folder, mine), "others": add(folder, others)}
    for process in writers.values():
        process.wait(timeout=60)
    (winner,) = [name for name, process in writers.items() if process.returncode == 0]
    (loser,) = writers.keys() - {winner}
    assert "is published with other contents: raise the version" in refusal(writers[loser])
    for path in mine:
        published = (folder / "linux-64" / path.name).read_bytes()
        assert published == (tmp_path / winner / path.name).read_bytes()
    assert channel.problems(folder) == []


@pytest.mark.parametrize("round", range(2))
def test_two_writers_of_the_same_packages_both_succeed(
    tmp_path: Path, mine: list[Path], round: int
) -> None:
    writers = [add(tmp_path / "channel", mine) for _ in range(2)]
    for process in writers:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in said, said
    assert channel.problems(tmp_path / "channel") == []


def test_two_writers_of_different_packages_both_get_into_the_index(
    tmp_path: Path, mine: list[Path]
) -> None:
    folder = tmp_path / "channel"
    for process in [add(folder, mine[:3]), add(folder, mine[3:])]:
        assert process.wait(timeout=60) == 0
    assert index(folder)["packages.conda"].keys() == {path.name for path in mine}


@pytest.mark.parametrize("round", range(4))
def test_a_killed_writer_leaves_no_lock_and_no_trace(
    tmp_path: Path, mine: list[Path], round: int
) -> None:
    folder = tmp_path / "channel"
    channel.publish([package(tmp_path, "earlier")], folder)
    writer = add(folder, mine)
    while not list(folder.glob(".new-*")) and writer.poll() is None:
        time.sleep(0.0005)
    time.sleep(random.Random(round).uniform(0, 0.02))
    writer.kill()
    writer.communicate()
    for name, entry in index(folder)["packages.conda"].items():
        assert channel.describe(folder / "linux-64" / name) == entry
    channel.publish(mine, folder)
    assert channel.problems(folder) == []
    assert not [name for name in names(folder) if ".new" in name or name.endswith(".tmp")]
    assert len(index(folder)["packages.conda"]) == 7


def test_a_published_package_never_changes(
    tmp_path: Path, mine: list[Path], others: list[Path]
) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine[:1], folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(Refused, match="published with other contents: raise the version"):
        channel.publish([mine[1], others[0]], folder)
    assert before == {name: (folder / name).read_bytes() for name in names(folder)}
    (folder / "linux-64" / mine[0].name).unlink()
    with pytest.raises(Refused, match="published with other contents"):
        channel.publish(others[:1], folder)
    channel.publish(mine[:1], folder)
    assert before == {name: (folder / name).read_bytes() for name in names(folder)}


@pytest.mark.parametrize("kind", [".conda", ".tar.bz2"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_damaged_package_of_somebody_else_is_named_and_nothing_is_copied(
    tmp_path: Path, mine: list[Path], kind: str, keep: float
) -> None:
    folder = tmp_path / "channel"
    foreign = package(folder / "linux-64", "foreign", b"x", kind)
    data = foreign.read_bytes()
    foreign.write_bytes(data[: int(keep * len(data))])
    said = refusal(add(folder, mine))
    assert f"{foreign} is damaged or no conda package" in said and "remove it" in said
    assert names(folder) == {".lock", f"linux-64/{foreign.name}"}


def test_a_changed_bit_in_a_new_package_is_seen(tmp_path: Path) -> None:
    path = package(tmp_path, "foreign", os.urandom(1000))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refused, match=r"foreign-1\.0-0\.conda is damaged"):
        channel.publish([path], tmp_path / "channel")


def test_a_package_under_another_ones_name_is_refused(tmp_path: Path) -> None:
    path = package(tmp_path, "foreign").rename(tmp_path / "part-1.0-0.conda")
    with pytest.raises(Refused, match=r"holds linux-64/foreign-1\.0-0: give it its own name"):
        channel.publish([path], tmp_path / "channel")
    path = package(tmp_path, "foreign", subdir="../linux-64")
    with pytest.raises(Refused, match=r"holds \.\./linux-64/foreign"):
        channel.publish([path], tmp_path / "channel")


def test_a_package_for_another_platform_goes_into_its_own_folder(tmp_path: Path) -> None:
    path = package(tmp_path, "foreign", subdir="linux-aarch64")
    (place,) = channel.publish([path], tmp_path / "channel")
    assert place == tmp_path / "channel/linux-aarch64" / path.name
    assert channel.problems(tmp_path / "channel") == []


def test_a_truncated_package_of_ours_is_called_damaged(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine, folder)
    place = folder / "linux-64" / mine[2].name
    place.write_bytes(place.read_bytes()[:1000])
    said = refusal(add(folder, mine))
    assert f"{place} is damaged" in said and "version" not in said
    place.unlink()
    channel.publish(mine, folder)
    assert channel.problems(folder) == []


def test_a_damaged_index_is_named(tmp_path: Path, mine: list[Path]) -> None:
    channel.publish(mine[:1], tmp_path / "channel")
    place = tmp_path / "channel/linux-64/repodata.json"
    for text in ("{", "[]"):
        place.write_text(text)
        assert f"{place} is damaged" in refusal(add(tmp_path / "channel", mine))
        assert names(tmp_path / "channel") >= {f"linux-64/{mine[0].name}"}


def test_a_full_disk_leaves_the_channel_as_it_was(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine[:1], folder)
    before = names(folder)
    room = mine[1].stat().st_size - 1

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    said = refusal(start(folder, "add", *mine, before=no_room))
    assert str(folder) in said and "make room and try again" in said
    assert names(folder) == before and channel.problems(folder) == []


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine[:1], folder)
    before = names(folder)

    def as_a_user() -> None:
        # root loses the right to write everywhere with its next program; others never had it.
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE

    folder.chmod(0o555)
    try:
        said = refusal(start(folder, "add", *mine, before=as_a_user))
    finally:
        folder.chmod(0o755)
    assert f"{folder}/.new-" in said and "Permission denied" in said
    assert "get the right to write" in said
    assert names(folder) == before


def test_a_channel_that_is_a_file_is_named(tmp_path: Path, mine: list[Path]) -> None:
    (tmp_path / "channel").write_text("")
    said = refusal(add(tmp_path / "channel", mine))
    assert said.endswith(f"{tmp_path}/channel is not a folder: name another channel")
    said = refusal(add(tmp_path / "channel/below", mine))
    assert f"{tmp_path}/channel" in said


def test_a_missing_package_is_named(tmp_path: Path, mine: list[Path]) -> None:
    said = refusal(add(tmp_path / "channel", [*mine, tmp_path / "absent-1.0-0.conda"]))
    assert f"{tmp_path}/absent-1.0-0.conda: No such file or directory" in said
    assert names(tmp_path / "channel") == {".lock"}


def test_a_port_in_use_is_named_before_anything_is_built(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        args = ["--facts=absent", "--wheels=", f"--out={tmp_path}/channel", "--serve"]
        said = refusal(start(*args, f"--port={port}", program="channel"))
    assert f"127.0.0.1:{port}: Address already in use: name another --port" in said
    assert not (tmp_path / "channel").exists()


def test_a_channel_that_would_dirty_the_checkout_is_refused(
    tmp_path: Path, mine: list[Path]
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("/dist/\n")
    with pytest.raises(Refused, match="lies in the checkout and git does not ignore it"):
        distribution.check_outside(tmp_path, tmp_path / "channel")
    distribution.check_outside(tmp_path, tmp_path / "dist")
    distribution.check_outside(tmp_path, tmp_path / "dist/channel")
    distribution.check_outside(tmp_path / "below", tmp_path / "channel")
    inside = Path(os.environ["TEST_TMPDIR"], "checkout/channel")
    assert f"{inside} lies in the checkout" in refusal(add(inside, mine))
    args = ["--facts=absent", "--wheels=", f"--out={inside}"]
    assert f"{inside} lies in the checkout" in refusal(start(*args, program="channel"))
    assert not inside.exists()


def test_other_indexers_files_do_not_stay_old(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine[:1], folder)
    conda.step("index", folder)  # leaves shards
    for name in ("current_repodata.json", "current_repodata.json.zst", "repodata.json.bz2"):
        (folder / "linux-64" / name).write_text("old")
    (folder / "linux-64/index.html").write_text("for people")
    channel.publish(mine[1:2], folder)
    there = {name for name in names(folder / "linux-64") if not name.endswith(".conda")}
    assert there == {"repodata.json", "repodata.json.zst", "index.html"}


def test_what_others_say_in_the_index_stays(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine[:2], folder)
    changed = index(folder)
    changed["packages.conda"][mine[0].name]["depends"] = ["python <3.14"]
    (folder / "linux-64/repodata.json").write_text(json.dumps(changed))
    package(folder / "linux-64", "foreign", b"", ".tar.bz2")
    channel.publish(mine, folder)
    assert index(folder)["packages.conda"][mine[0].name]["depends"] == ["python <3.14"]
    assert index(folder)["packages"].keys() == {"foreign-1.0-0.tar.bz2"}


def test_a_package_that_is_taken_back_is_gone_for_ever(tmp_path: Path, mine: list[Path]) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine, folder)
    name = f"linux-64/{mine[0].name}"
    taken = start(folder, "take-back", name)
    assert taken.wait(timeout=60) == 0
    assert name not in names(folder) and mine[0].name not in index(folder)["packages.conda"]
    # As conda-index does, which knows nothing of it.
    shutil.rmtree(folder / "noarch")
    (folder / "linux-64/repodata.json").unlink()
    assert f"{folder / name} was taken back: raise the version" in refusal(add(folder, mine))
    for wrong in (name, mine[1].name, "linux-64/absent-1.0-0.conda", "linux-64/repodata.json"):
        assert f"{Path(wrong).name} is n" in refusal(start(folder, "take-back", wrong))
    channel.publish(mine[1:], folder)
    assert channel.problems(folder) == []


def test_a_release_checks_the_channel_by_the_command_of_the_page(
    tmp_path: Path, mine: list[Path]
) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine, folder)
    sums = [f"{distribution.sha256(path)}  conda/linux-64/{path.name}\n" for path in mine]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/SHA256SUMS").write_text("".join([*sums, f"{'0' * 64}  some.whl\n"]))
    (command,) = re.findall(r"^    (sed .*sha256sum -c.*)$", README.read_text(), re.M)
    command = command.replace("/srv/conda/accelerated", str(folder))
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path).returncode == 0
    (folder / "linux-64" / mine[3].name).write_bytes(b"other")
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path).returncode == 1


def test_check_finds_every_file_that_is_not_what_the_index_says(
    tmp_path: Path, mine: list[Path]
) -> None:
    folder = tmp_path / "channel"
    channel.publish(mine, folder)
    good = start(folder, "check")
    assert good.communicate(timeout=60)[0].endswith("every package is what the index says\n")
    altered, missing = (folder / "linux-64" / path.name for path in mine[:2])
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    missing.unlink()
    package(folder / "linux-64", "foreign")
    bad = start(folder, "check")
    said = bad.communicate(timeout=60)[1]
    assert bad.returncode == 1
    assert f"{altered}: damaged" in said and f"{missing}: missing" in said
    assert "foreign-1.0-0.conda: not in the index" in said
    assert len(said.splitlines()) == 4
