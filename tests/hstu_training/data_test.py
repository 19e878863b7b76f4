"""Archives of the published formats become the right columns, and wrong ones are refused."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hstu_training import preprocess
from hstu_training.data import kuairand, movielens
from hstu_training.data.columns import Columns, DataError

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,"
    "register_days,register_days_range,onehot_feat0"
)


def movielens_archive(path: Path, name: str) -> Path:
    """Three users; user 3 is seen once. Times are not sorted; two of user 1's are equal."""
    rows = [(1, 20, 5, 100), (2, 10, 1, 50), (1, 10, 3, 90), (1, 30, 4, 100), (3, 30, 2, 1),
            (2, 20, 4, 40)]  # fmt: skip
    files = {}
    if name == "ml-100k":
        files["ml-100k/u.data"] = "".join("\t".join(map(str, r)) + "\n" for r in rows)
    elif name == "ml-1m":
        files["ml-1m/ratings.dat"] = "".join("::".join(map(str, r)) + "\n" for r in rows)
        files["ml-1m/users.dat"] = "1::F::1::10::48067\n2::M::56::16::70072\n3::F::25::10::48067\n"
    else:
        lines = "".join(f"{u},{m},{r - 0.5},{t}\n" for u, m, r, t in rows)
        files["ml-20m/ratings.csv"] = "userId,movieId,rating,timestamp\n" + lines
    with zipfile.ZipFile(path / f"{name}.zip", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path / f"{name}.zip"


def kuairand_archive(path: Path, name: str) -> Path:
    """User 5 is in both logs and has features, 6 in one, 7 in both without features."""
    kind = name.removeprefix("kuairand-")
    folder = {"pure": "KuaiRand-Pure", "1k": "KuaiRand-1K", "27k": "KuaiRand-27K"}[kind]

    def log(rows: list[tuple[int, int, int, str]]) -> str:
        lines = [f"{u},{v},20220408,1,{t},{a[:6].replace('', ',')[1:-1]},{a[6]},9,9,0,0,{a[7]},0,1"
                 for u, v, t, a in rows]  # fmt: skip
        return "\n".join([LOG, *lines]) + "\n"

    first = [(5, 101, 3000, "10000000"), (6, 102, 10, "10000000"), (7, 1, 1, "10000000")]
    second = [(5, 103, 1000, "01000001"), (7, 2, 2, "10000000"), (5, 104, 4000, "00000010")]
    parts = ["_part1", "_part2"] if kind == "27k" else [""]
    files = {f"user_features_{kind}.csv": f"{USERS}\n6,low,0,0,0,1,a,1,b,1,c,1,d,\n"
             "5,high,0,0,0,1,a,1,e,1,c,1,f,\n"}  # fmt: skip
    for days, rows in (("4_08_to_4_21", first), ("4_22_to_5_08", second)):
        for i, part in enumerate(parts):
            files[f"log_standard_{days}_{kind}{part}.csv"] = log(rows[i :: len(parts)])
    (path / folder / "data").mkdir(parents=True)
    for file, text in files.items():
        (path / folder / "data" / file).write_text(text)
    with tarfile.open(path / f"{folder}.tar.gz", "w:gz") as archive:
        archive.add(path / folder, folder)
    return path / f"{folder}.tar.gz"


def made(name: str, source: Path, output: Path, *more: str) -> Columns:
    arguments = ["--dataset", name, "--input", str(source), "--output", str(output)]
    assert preprocess.main([*arguments, *more]) == 0
    return Columns(output)


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "ml-20m"])
def test_movielens_archives_are_read(name: str, tmp_path: Path) -> None:
    archive = movielens_archive(tmp_path, name)
    data = made(name, archive, tmp_path / "data", "--no-verify", "--ties=file")
    assert data["user_ids"].tolist() == [1, 2, 3] and data["offsets"].tolist() == [0, 3, 5, 6]
    assert data["items"].tolist() == [10, 20, 30, 20, 10, 30]
    assert data["times"].tolist() == [90, 100, 100, 40, 50, 1]
    actions = [2, 4, 3, 3, 0, 1]
    half_stars = [2 * a for a in actions]  # stars - 0.5, twice, from 0 on
    assert data["actions"].tolist() == (half_stars if name == "ml-20m" else actions)
    if name == "ml-1m":
        found = {n: data[f"context.{n}"].tolist() for n in data.contexts}
        assert found == {"sex": [1, 2, 1], "age_group": [1, 2, 3], "occupation": [1, 2, 1],
                         "zip_code": [1, 2, 1]}  # fmt: skip


@pytest.mark.parametrize("name", sorted(kuairand.USERS))
def test_kuairand_archives_are_read(name: str, tmp_path: Path) -> None:
    data = made(name, kuairand_archive(tmp_path, name), tmp_path / "data", "--no-verify")
    assert data["user_ids"].tolist() == [5] and data.manifest["bits"]
    assert data["items"].tolist() == [103, 101, 104]
    assert data["times"].tolist() == [1000, 3000, 4000]
    assert data["actions"].tolist() == [2 + 128, 1, 64]
    assert data["context.user_active_degree"].tolist() == [2]
    assert data["context.friend_user_num_range"].tolist() == [1]
    assert data.manifest["time_unit"] == 1000


def test_a_folder_is_read_like_its_archive(tmp_path: Path) -> None:
    kuairand_archive(tmp_path, "kuairand-1k")
    data = made("kuairand-1k", tmp_path / "KuaiRand-1K", tmp_path / "data", "--no-verify")
    assert data["items"].tolist() == [103, 101, 104]


def test_ties_go_by_file_item_or_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "events.csv"
    lines = "".join(f"1,{item},7\n" for item in range(50, 0, -1))
    source.write_text("user_id,item_id,timestamp\n" + lines)
    orders = {}
    for ties in ("file", "item", "hash"):
        data = made("csv", source, tmp_path / ties, f"--ties={ties}")
        orders[ties] = data["items"].tolist()
        warned = "NDCG comes out too high" in capsys.readouterr().err
        assert warned == (ties == "item")
    assert orders["file"] == list(range(50, 0, -1)) and orders["item"] == list(range(1, 51))
    assert abs(np.corrcoef(orders["hash"], range(50))[0, 1]) < 0.5


def test_csv_files_and_processed_sequences_are_read(tmp_path: Path) -> None:
    source = tmp_path / "events.csv"
    source.write_text("user_id,item_id,timestamp,action,city\n9,5,2,1,x\n9,6,1,0,x\n4,5,3,2,y\n")
    data = made("csv", source, tmp_path / "a")
    assert data["items"].tolist() == [5, 6, 5] and data["actions"].tolist() == [2, 0, 1]
    assert data["context.city"].tolist() == [2, 1]
    peer = tmp_path / "processed_seqs.csv"
    peer.write_text('user_id,movie_id,rating,unix_timestamp,sex\n9,"[6, 5]","[0, 4]","[1, 2]",1\n')
    data = made("csv", peer, tmp_path / "b")
    assert data["items"].tolist() == [6, 5] and data["actions"].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user_id,item_id,timestamp\n1,-5,2\n", "line 2: ids must be >= 0, got 1 and -5"),
        ("user_id,item_id,timestamp\n1,5\n", "line 2 has not 3 fields"),
        ("user_id,item_id,timestamp\n1,x,2\n", "item_id must be a whole number, got 'x'"),
        ("user_id,item_id\n1,5\n", "no column 'timestamp'"),
        ("user_id,item_id,timestamp\n", "there are no events"),
        ('user_id,video_id,action_weights,time_ms\n1,"[1, 2]","[0, 0]","[9, 3]"\n',
         "time_ms is not sorted"),
        ('user_id,video_id,action_weights,time_ms\n1,[],[],[]\n', "the user has no events"),
        ('user_id,video_id,action_weights,time_ms\n1,"[1]","[999]","[9]"\n', "actions must lie in"),
    ],
)  # fmt: skip
def test_wrong_csv_files_are_refused_by_name(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "events.csv"
    source.write_text(text)
    given = ["--dataset=csv", f"--input={source}", f"--output={tmp_path / 'data'}"]
    assert preprocess.main(given) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".data*"))


def test_another_archive_is_refused_by_its_checksum_and_its_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = movielens_archive(tmp_path, "ml-100k")
    given = ["--dataset=ml-100k", f"--input={archive}", f"--output={tmp_path / 'data'}"]
    assert preprocess.main(given) == 1
    assert "that of ml-100k is 0e33842e24a9c977be4e0107933c0723" in capsys.readouterr().err
    monkeypatch.setattr(movielens, "md5", lambda path: movielens.PUBLISHED["ml-100k"].md5)
    assert preprocess.main(given) == 1
    assert "are (3, 3, 6), those of ml-100k (943, 1682, 100000)" in capsys.readouterr().err
    logs = kuairand_archive(tmp_path, "kuairand-1k")
    given = ["--dataset=kuairand-1k", f"--input={logs}", f"--output={tmp_path / 'data'}"]
    assert preprocess.main(given) == 1
    assert "have 3 users and 6 videos" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "byte"])
def test_a_damaged_archive_is_refused_by_name(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = movielens_archive(tmp_path, "ml-100k")
    data = bytearray(archive.read_bytes())
    at = data.find(b"20\t5")
    data[at] ^= 1
    archive.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    given = ["--dataset=ml-100k", f"--input={archive}", f"--output={tmp_path / 'data'}"]
    assert preprocess.main([*given, "--no-verify"]) == 1
    assert "damaged" in capsys.readouterr().err and not (tmp_path / "data").exists()


def small(tmp_path: Path) -> Path:
    made("ml-1m", movielens_archive(tmp_path, "ml-1m"), tmp_path / "data", "--no-verify")
    return tmp_path / "data"


def test_damaged_columns_are_refused_by_name(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for name in ("items", "offsets", "context.sex"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-8])
        with pytest.raises(DataError, match=rf"{name}: {len(whole) - 8} bytes, expected"):
            Columns(folder)
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=rf"{name}: its SHA-256"):
            Columns(folder)
        (folder / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: the file is missing"):
            Columns(folder)
        (folder / name).write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "other 2"}))
    with pytest.raises(DataError, match="format 'other 2', expected 'hstu_training columns 1'"):
        Columns(folder)
    with pytest.raises(DataError, match=r"hstu_training\.preprocess"):
        Columns(folder / "none")


def test_columns_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    from hstu_training._core.files import sha256

    for name, change, said in (
        ("times", [5, 1], "older than the one before"),
        ("items", [-1, 3], "negative id -1"),
        ("offsets", [0, 0, 5, 6], "user 0 has no events"),
    ):
        folder = small(tmp_path)
        values = np.fromfile(folder / name, np.int64)
        values[: len(change)] = change
        values.tofile(folder / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name]["sha256"] = sha256(folder / name)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=said):
            Columns(folder)
        for file in tmp_path.glob("*.zip"):
            file.unlink()


def test_a_folder_of_something_else_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    given = ["--dataset=synthetic-ml-100k", f"--output={tmp_path / 'mine'}", "--users=9"]
    assert preprocess.main(given) == 1
    assert "something else than a data set" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
