"""A data set on disk: columns that are mapped into memory, and a manifest.

A folder holds ``manifest.json`` and raw little-endian arrays: ``user_ids`` (users), ``offsets``
(users + 1): the events of user u are offsets[u] to offsets[u + 1], oldest first; ``items``,
``times``, ``actions`` (events); ``catalogue`` (items), distinct, ascending; ``context.NAME``
(users). All int64, but actions, which are int32.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from hstu_training._core.files import sha256, sync

FORMAT = "hstu_training columns 1"
MANIFEST = "manifest.json"
Array = npt.NDArray[Any]


class DataError(ValueError):
    """What is wrong with a data set, where, and what was expected."""


def fail(path: object, message: str) -> NoReturn:
    raise DataError(f"hstu_training: {path}: {message}")


@dataclass
class Events:
    """A data set before it is written.

    Args:
        users, items, times, actions: (events) int64, in the order of the source.
        contexts: (users) int64 for each contextual feature, by ``context_users``.
        context_users: (users) int64 or None where there are no contexts.
        action_size: actions are in [0, action_size).
        bits: actions are bits rather than classes.
        time_unit: times per second.
    """

    users: Array
    items: Array
    times: Array
    actions: Array
    contexts: dict[str, Array]
    context_users: Array | None
    action_size: int
    bits: bool
    time_unit: int = 1


def tie_hash(users: Array, items: Array) -> Array:
    """A number for each (user, item) that no order of ids can be read from."""
    x = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + items.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: Array = x ^ (x >> np.uint64(31))
    return hashed


def ordered(events: Events, ties: str) -> Array:
    """The events by user and time; equal times by "hash" of (user, item), in the order of the
    "file", or by "item"."""
    index = np.arange(len(events.users))
    by = {"hash": tie_hash(events.users, events.items), "file": index, "item": events.items}[ties]
    return np.lexsort((index, by, events.times, events.users))


def write(folder: Path, name: str, events: Events, ties: str = "hash") -> dict[str, Any]:
    """Writes a data set; a folder that is there is replaced whole.

    Returns:
        the manifest.
    """
    for column, values in (("user", events.users), ("item", events.items)):
        if len(values) and values.min() < 0:
            row = int(np.argmax(values < 0))
            fail(name, f"{column} id of event {row} is {values[row]}; ids must be >= 0")
    if not len(events.users):
        fail(name, "there are no events")
    if events.actions.min() < 0 or events.actions.max() >= events.action_size:
        found = f"{events.actions.min()} to {events.actions.max()}"
        fail(name, f"actions must lie in [0, {events.action_size}), got {found}")
    order = ordered(events, ties)
    users = events.users[order]
    user_ids, first = np.unique(users, return_index=True)
    columns: dict[str, Array] = {
        "user_ids": user_ids,
        "offsets": np.append(first, len(users)).astype(np.int64),
        "items": events.items[order].astype(np.int64),
        "times": events.times[order].astype(np.int64),
        "actions": events.actions[order].astype(np.int32),
        "catalogue": np.unique(events.items).astype(np.int64),
    }
    if events.context_users is not None:
        where = {int(user): row for row, user in enumerate(events.context_users)}
        lacking = [user for user in user_ids.tolist() if user not in where]
        if lacking:
            fail(name, f"user {lacking[0]} has events and no contextual features")
        rows = np.array([where[user] for user in user_ids.tolist()])
        for feature, values in events.contexts.items():
            columns[f"context.{feature}"] = values[rows].astype(np.int64)
    said = {
        "dataset": name, "users": len(user_ids), "events": len(users),
        "items": len(columns["catalogue"]), "ties": ties, "time_unit": events.time_unit,
        "action_size": events.action_size, "bits": events.bits,
        "contexts": {f: int(v.max()) + 1 for f, v in events.contexts.items()},
    }  # fmt: skip
    return _write(folder, said, columns)


def _write(folder: Path, said: dict[str, Any], columns: Mapping[str, Array]) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    made.mkdir()
    try:
        files = {}
        for column, values in columns.items():
            data = np.ascontiguousarray(values)
            path = made / column
            data.tofile(path)
            sync(path)
            files[column] = {"dtype": str(data.dtype), "rows": len(data), "sha256": sha256(path)}
        manifest = {"format": FORMAT, **said, "files": files}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        sync(made / MANIFEST)
        sync(made)
        if folder.exists():
            if not (folder / MANIFEST).is_file() and any(folder.iterdir()):
                fail(folder, "the folder is there and holds something else than a data set")
            aside = made.with_name(made.name + ".old")
            os.rename(folder, aside)
            os.rename(made, folder)
            shutil.rmtree(aside)
        else:
            os.rename(made, folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return manifest


class Columns:
    """A data set, its columns mapped into memory.

    Args:
        folder: what ``write`` made.
        verify: read every file and compare its SHA-256.

    Raises:
        DataError: it is missing, truncated, altered, of another version, or no data set.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            fail(path, "there is no data set; `python -m hstu_training.preprocess` makes it")
        except ValueError as error:
            fail(path, f"the manifest cannot be read ({error})")
        if self.manifest.get("format") != FORMAT:
            fail(path, f"format {self.manifest.get('format')!r}, expected {FORMAT!r}")
        self.columns = {
            name: self._open(name, said, verify) for name, said in self.manifest["files"].items()
        }
        self.contexts: dict[str, int] = self.manifest["contexts"]
        if verify:
            self._check()

    def _open(self, name: str, said: dict[str, Any], verify: bool) -> Array:
        path = self.folder / name
        dtype = np.dtype(said["dtype"])
        if not path.is_file():
            fail(path, "the file is missing")
        size, wanted = path.stat().st_size, said["rows"] * dtype.itemsize
        if size != wanted:
            fail(path, f"{size} bytes, expected {wanted}")
        if verify and sha256(path) != said["sha256"]:
            fail(path, f"its SHA-256 is not {said['sha256']}: the file was altered")
        if not wanted:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r")

    def _check(self) -> None:
        """What no checksum says: that this is a data set at all."""
        offsets, times, items = self["offsets"], self["times"], self["items"]
        lengths = np.diff(offsets)
        if len(lengths) != self.users or (lengths <= 0).any():
            user = int(np.argmax(lengths <= 0)) if len(lengths) == self.users else len(lengths)
            fail(self.folder / "offsets", f"user {user} has no events")
        later = np.diff(times) < 0
        later[np.asarray(offsets[1:-1]) - 1] = False
        if later.any():
            fail(self.folder / "times", f"event {int(np.argmax(later)) + 1} is older than the one "
                 "before it of the same user")  # fmt: skip
        if items.min() < 0:
            fail(self.folder / "items", f"event {int(np.argmin(items))} has the negative id "
                 f"{items.min()}")  # fmt: skip

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @property
    def users(self) -> int:
        return int(self.manifest["users"])

    def lengths(self) -> Array:
        return np.diff(self["offsets"])
