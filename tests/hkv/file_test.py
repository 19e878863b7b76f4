"""save and load: what comes back, and what a damaged file does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hkv
import numpy as np
import pytest

Rows = Callable[..., np.ndarray]


def filled(engine: Any, rows: Rows, n: int = 1000, **options: Any) -> Any:
    table = engine.table(2000, evict_strategy="customized", **options)
    keys = np.arange(n, dtype=np.int64)
    table.insert_or_assign(
        engine.put(keys), engine.put(rows(keys)), engine.put(keys.astype(np.uint64) + 5)
    )
    return table


def test_a_loaded_table_has_the_same_rows_and_scores(
    engine: Any, rows: Rows, tmp_path: Path
) -> None:
    path = tmp_path / "table.hkv"
    assert filled(engine, rows).save(path) == 1000
    assert os.listdir(tmp_path) == ["table.hkv"]
    table = engine.table(1500, evict_strategy="customized")
    assert table.load(path) == 1000
    keys = np.arange(1000, dtype=np.int64)
    scores = engine.put(np.zeros(1000, np.uint64))
    out, founds = table.find(engine.put(keys), scores=scores)
    assert engine.get(founds).all()
    np.testing.assert_array_equal(engine.get(out), rows(keys))
    np.testing.assert_array_equal(engine.get(scores), keys + 5)


def test_an_empty_table_has_a_file(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    assert engine.table(10).save(path) == 0
    assert path.stat().st_size == 64
    assert engine.table(10).load(path) == 0


@pytest.mark.parametrize("where", [0, 8, 36, 44, 50, 63, 64, -1])
def test_a_damaged_file_changes_nothing(
    engine: Any, rows: Rows, tmp_path: Path, where: int
) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    table = engine.table(2000, evict_strategy="customized")
    with pytest.raises(RuntimeError, match=r"table\.hkv"):
        table.load(path)
    assert table.size() == 0


def test_a_cut_file_and_a_wrong_table_are_named(rows: Rows, tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    for options, words in [
        ({"evict_strategy": "lru"}, "evict strategy customized, the table has lru"),
        ({"evict_strategy": "customized", "value_dtype": "float16"}, "value type float32"),
        ({"evict_strategy": "customized", "key_dtype": "uint64"}, "key type int64"),
        ({"evict_strategy": "customized", "dim": 5}, "dim 4, the table has 5"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            engine.table(2000, **options).load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="bytes long; 1000 rows need"):
        engine.table(2000, evict_strategy="customized").load(path)
    with pytest.raises(RuntimeError, match="cannot be opened"):
        engine.table(10).load(tmp_path / "absent")
    with pytest.raises(RuntimeError, match="cannot be created"):
        engine.table(10).save(tmp_path / "absent" / "table.hkv")


def test_files_move_between_host_and_gpu(rows: Rows, tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "table.hkv"
    filled(engine, rows).save(path)
    host = hkv.HashTable(2000, 4, evict_strategy="customized", device="cpu")
    assert host.load(path) == 1000
    keys = np.arange(1000, dtype=np.int64)
    np.testing.assert_array_equal(host.find(keys)[0], rows(keys))


def rounds(default: int, many: int) -> int:
    """HKV_MANY_ROUNDS=1 asks for the long run."""
    return many if os.environ.get("HKV_MANY_ROUNDS") else default


SAVER = """
import sys
import hkv
import numpy as np

table = hkv.HashTable(20_000, 64, evict_strategy="customized", device="cpu")
keys = np.arange(20_000, dtype=np.int64)
mark = int(sys.argv[2])
table.insert_or_assign(
    keys, np.full((20_000, 64), mark, np.float32), np.full(20_000, mark, np.uint64)
)
print("ready", flush=True)
while True:
    table.save(sys.argv[1])
    if len(sys.argv) > 3:
        break
"""


def marks(path: Path) -> set[float]:
    """The marks of a file of SAVER; it is whole, or load() raises."""
    table = hkv.HashTable(20_000, 64, evict_strategy="customized", device="cpu")
    n = table.load(path)
    values = table.export_batch(table.capacity).values
    assert n == len(values) > 19_000
    return set(np.unique(values).tolist())


def test_a_killed_save_leaves_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.hkv"
    subprocess.run([sys.executable, "-c", SAVER, path, "0", "once"], check=True)
    for number in range(1, rounds(8, 200) + 1):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, path, str(number)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            threading.Event().wait(0.001 * (number * 7 % 40))
            child.kill()
        assert marks(path) <= set(range(number + 1)) and len(marks(path)) == 1
    subprocess.run([sys.executable, "-c", SAVER, path, "0", "once"], check=True)
    assert os.listdir(tmp_path) == ["table.hkv"]


def test_of_two_savers_one_wins(tmp_path: Path) -> None:
    """Threads of one process: their process ids are equal, as those of two containers may be."""
    path = tmp_path / "table.hkv"
    keys = np.arange(20_000, dtype=np.int64)
    tables = []
    for mark in (1, 2):
        table = hkv.HashTable(20_000, 64, evict_strategy="customized", device="cpu")
        table.insert_or_assign(
            keys, np.full((20_000, 64), mark, np.float32), np.full(20_000, mark, np.uint64)
        )
        tables.append(table)
    for _ in range(rounds(10, 200)):
        savers = [threading.Thread(target=table.save, args=(path,)) for table in tables]
        for saver in savers:
            saver.start()
        for saver in savers:
            saver.join()
        assert marks(path) in ({1.0}, {2.0})
        assert os.listdir(tmp_path) == ["table.hkv"]


def test_a_name_that_a_dead_saver_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".accel-0123456789abcdef.tmp").write_bytes(b"half a file")
    (tmp_path / ".accel-mine.tmp").write_bytes(b"of somebody else")
    small_table().save(tmp_path / "table.hkv")
    assert sorted(os.listdir(tmp_path)) == [".accel-mine.tmp", "table.hkv"]


def small_table() -> hkv.HashTable:
    table = hkv.HashTable(10, 4, device="cpu")
    table.insert_or_assign(np.arange(5, dtype=np.int64), np.ones((5, 4), np.float32))
    return table


def test_the_mode_of_a_file_is_kept_and_a_new_one_follows_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "table.hkv"
    before = os.umask(0o027)
    try:
        small_table().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        small_table().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "table.hkv", tmp_path / "link"
    link.symlink_to("there/table.hkv")
    for _ in range(2):  # first to a file that is not there yet
        small_table().save(link)
        assert link.is_symlink() and target.is_file() and not target.is_symlink()
    assert os.listdir(tmp_path / "there") == ["table.hkv"]
    assert hkv.HashTable(10, 4, device="cpu").load(link) == 5


def test_what_is_not_a_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in [(pipe, "is a pipe"), (tmp_path, "is a folder"),
                        (Path("/dev/null"), "is a device")]:  # fmt: skip
        before = path.stat().st_mode
        with pytest.raises(RuntimeError, match=words):
            small_table().save(path)
        with pytest.raises(RuntimeError, match=words):
            small_table().load(path)
        assert path.stat().st_mode == before
    assert os.listdir(tmp_path) == ["pipe"]


def test_names_hold_255_bytes_and_no_nul(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    assert small_table().save(path) == 5 == small_table().load(path)
    for call in (small_table().save, small_table().load):
        with pytest.raises(ValueError, match=r"path is .* without a NUL"):
            call(str(tmp_path / "a\0b"))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(("rows", "dim"), [(200_000, 256), (300, 65_536)])
def test_a_save_takes_little_memory(tmp_path: Path, rows: int, dim: int) -> None:
    code = f"""
import resource, sys, hkv, numpy as np
table = hkv.HashTable({rows}, {dim}, device="cpu")
values = np.ones(({rows} // 10, {dim}), np.float32)
for part in range(10):
    table.insert_or_assign(np.arange(len(values)) + part * len(values), values)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table.save(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 64 << 10  # KiB
