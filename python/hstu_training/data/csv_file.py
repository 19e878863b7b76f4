"""One's own events as a CSV file, and the sequences that recsys-examples' preprocessor writes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hstu_training.data.columns import Events, fail
from hstu_training.data.sources import codes

_ITEMS = {"video_id": ("time_ms", "action_weights", 256, True, 1000),
          "movie_id": ("unix_timestamp", "rating", 10, False, 1)}  # fmt: skip
_NEEDED = ("user_id", "item_id", "timestamp")


def _integer(path: Path, line: int, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        fail(path, f"line {line}: {name} must be a whole number, got {text!r}")


def read(path: Path) -> Events:
    """A CSV file with a header.

    With ``user_id,item_id,timestamp`` an event a line; ``action`` or ``rating`` (whole numbers from
    0 on) is optional, every other column is a contextual feature of the user. With ``video_id`` or
    ``movie_id`` a user a line, lists of numbers, as ``processed_seqs.csv`` has them.

    Raises:
        DataError: the file, line and what is wrong there.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            for item in _ITEMS:
                if item in names:
                    return _sequences(path, reader, names, item)
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                fail(path, f"the header has no column {missing[0]!r}; it has {names}")
            return _lines(path, reader, names)
    except FileNotFoundError:
        fail(path, "the file is not there")


def _lines(path: Path, reader: Any, names: list[str]) -> Events:
    action = next((name for name in ("action", "rating") if name in names), None)
    others = [name for name in names if name not in (*_NEEDED, action)]
    rows: list[tuple[int, int, int, int]] = []
    contexts: dict[int, list[str]] = {}
    for line, row in enumerate(reader, 2):
        if None in row or None in row.values():
            fail(path, f"line {line} has not {len(names)} fields")
        user, item, time = (_integer(path, line, name, row[name]) for name in _NEEDED)
        if min(user, item) < 0:
            fail(path, f"line {line}: ids must be >= 0, got {user} and {item}")
        rows.append((user, item, time, _integer(path, line, action, row[action]) if action else 0))
        contexts.setdefault(user, [row[name] for name in others])
    if not rows:
        fail(path, "there are no events")
    users, items, times, actions = np.array(rows, np.int64).T
    columns = {
        name: codes([values[i] for values in contexts.values()]) for i, name in enumerate(others)
    }
    where = np.array(list(contexts), np.int64) if others else None
    size = int(actions.max()) + 1
    return Events(users, items, times, actions, columns, where, size, False)


def _sequences(path: Path, reader: Any, names: list[str], item: str) -> Events:
    time, action, size, bits, unit = _ITEMS[item]
    lists = (item, time, action)
    others = [n for n in names if n not in (*lists, "user_id", "play_time_ms", "duration_ms")]
    others = [n for n in others if n and not n.startswith("Unnamed")]  # pandas' index
    parts: list[Any] = []
    users: list[int] = []
    contexts: list[list[str]] = []
    for line, row in enumerate(reader, 2):
        try:
            events = np.array([json.loads(row[name]) for name in lists], np.float64)
        except (TypeError, ValueError) as error:
            fail(path, f"line {line}: {', '.join(lists)} must be lists of one length ({error})")
        if not events.shape[1:] or not events.shape[1]:
            fail(path, f"line {line}: the user has no events")
        if (np.diff(events[1]) < 0).any():
            fail(path, f"line {line}: {time} is not sorted")
        user = _integer(path, line, "user_id", row["user_id"])
        users.append(user)
        parts.append(np.vstack([np.full(events.shape[1], user), events]).astype(np.int64))
        contexts.append([row[name] for name in others])
    if not parts:
        fail(path, "there are no users")
    user_ids, items, times, actions = np.concatenate(parts, 1)
    columns = {name: codes([values[i] for values in contexts]) for i, name in enumerate(others)}
    where = np.array(users, np.int64) if others else None
    return Events(user_ids, items, times, actions, columns, where, size, bits, unit)
