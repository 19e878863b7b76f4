"""KuaiRand Pure, 1K and 27K (Kuaishou; zenodo record 10439422), from their archives as published.

The files of the two standard logs are joined on the user: who is missing in one is left out. An
action is the bits of the eight columns that are not 0. Events are sorted by time.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hstu_training.data.columns import Array, Events, fail
from hstu_training.data.sources import codes, numbers, opened, whole

ACTIONS = (
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
    "is_profile_enter",
)  # fmt: skip
CONTEXTS = (
    "user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
    "register_days_range",
)  # fmt: skip
# Users of both standard logs together, and the published number of videos (of all logs).
USERS = {"kuairand-pure": 27_285, "kuairand-1k": 1_000, "kuairand-27k": 27_285}
ITEMS = {"kuairand-pure": 7_551, "kuairand-1k": 4_369_953, "kuairand-27k": 32_038_725}


def _logs(name: str) -> list[list[str]]:
    kind = name.removeprefix("kuairand-")
    parts = ["_part1", "_part2"] if kind == "27k" else [""]
    return [
        [f"log_standard_{days}_{kind}{part}.csv" for part in parts]
        for days in ("4_08_to_4_21", "4_22_to_5_08")
    ]


def _log(source: Path, file_name: str) -> Array:
    """(events, 4): user, video, time, action."""
    where = f"{source}/{file_name}"
    with opened(source, file_name) as file:
        header = file.readline().rstrip("\n").split(",")
        wanted = ("user_id", "video_id", "time_ms", *ACTIONS)
        missing = [column for column in wanted if column not in header]
        if missing:
            fail(where, f"the header has no column {missing[0]!r}")
        table = numbers(file, where, [header.index(column) for column in wanted])
    bits = (table[:, 3:] != 0) @ (1 << np.arange(len(ACTIONS)))
    return np.column_stack([whole(table[:, :3]), bits.astype(np.int64)])


def _users(source: Path, kind: str) -> tuple[Array, dict[str, Array]]:
    file_name = f"user_features_{kind}.csv"
    with opened(source, file_name) as file:
        reader = csv.DictReader(file)
        missing = [c for c in ("user_id", *CONTEXTS) if c not in (reader.fieldnames or ())]
        if missing:
            fail(f"{source}/{file_name}", f"the header has no column {missing[0]!r}")
        rows = list(reader)
    columns = {name: codes([row[name] for row in rows]) for name in CONTEXTS}
    return np.array([int(row["user_id"]) for row in rows], np.int64), columns


def read(name: str, source: Path, verify: bool) -> Events:
    """The events of an archive, or of a folder that one was unpacked to.

    Raises:
        DataError: a file or a column is missing; other counts than published, unless ``verify`` is
            False.
    """
    logs = [np.concatenate([_log(source, file) for file in files]) for files in _logs(name)]
    context_users, contexts = _users(source, name.removeprefix("kuairand-"))
    if verify:
        users = len(np.unique(np.concatenate([log[:, 0] for log in logs])))
        items = len(np.unique(np.concatenate([log[:, 1] for log in logs])))
        if users != USERS[name] or items > ITEMS[name]:
            fail(
                source, f"the standard logs have {users} users and {items} videos, those of {name} "
                f"{USERS[name]} and at most {ITEMS[name]}; --no-verify takes them nevertheless",
            )  # fmt: skip
    keep = np.intersect1d(np.intersect1d(logs[0][:, 0], logs[1][:, 0]), context_users)
    events = np.concatenate([log[np.isin(log[:, 0], keep)] for log in logs])
    if not len(events):
        fail(source, "no user is in both logs and in the user features")
    users_, items_, times, actions = events.T
    return Events(users_, items_, times, actions, contexts, context_users, 256, True, 1000)
