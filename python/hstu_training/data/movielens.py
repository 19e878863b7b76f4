"""MovieLens 100K, 1M and 20M (GroupLens), from their archives as published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hstu_training.data.columns import Array, Events, fail
from hstu_training.data.sources import codes, md5, numbers, opened, whole


@dataclass(frozen=True)
class Published:
    md5: str
    users: int
    items: int
    events: int


PUBLISHED = {
    "ml-100k": Published("0e33842e24a9c977be4e0107933c0723", 943, 1682, 100_000),
    "ml-1m": Published("c4d9eecfca2ab87c1945afe126590906", 6040, 3706, 1_000_209),
    "ml-20m": Published("cd245b17a1ae2cc31bb14903e1204af3", 138_493, 26_744, 20_000_263),
}
_FILES = {"ml-100k": "u.data", "ml-1m": "ratings.dat", "ml-20m": "ratings.csv"}
_SEPARATORS = {"ml-100k": "\t", "ml-1m": "::", "ml-20m": ","}


def _ratings(name: str, source: Path) -> Array:
    if source.suffix == ".inter":  # RecBole's form of the same rows: a header of typed names
        with open(source, encoding="utf-8") as file:
            return numbers(file, str(source), (0, 1, 2, 3), "\t", 1)
    file_name = _FILES[name]
    with opened(source, file_name) as file:
        skip = 1 if name == "ml-20m" else 0
        return numbers(file, f"{source}/{file_name}", (0, 1, 2, 3), _SEPARATORS[name], skip)


def _users(source: Path) -> tuple[Array, dict[str, Array]]:
    """users.dat of ml-1m: id::sex::age::occupation::zip."""
    with opened(source, "users.dat") as file:
        rows = [line.rstrip("\n").split("::") for line in file]
    if any(len(row) != 5 for row in rows):
        fail(f"{source}/users.dat", "every line must have 5 fields separated by ::")
    names = ("sex", "age_group", "occupation", "zip_code")
    columns = {name: codes([row[i + 1] for row in rows]) for i, name in enumerate(names)}
    return np.array([int(row[0]) for row in rows], np.int64), columns


def read(name: str, source: Path, verify: bool) -> Events:
    """The events of an archive (or of a folder that one was unpacked to).

    Raises:
        DataError: a damaged archive; another one than published, unless ``verify`` is False.
    """
    wanted = PUBLISHED[name]
    if verify and source.is_file() and source.suffix == ".zip" and md5(source) != wanted.md5:
        fail(source, f"its MD5 is {md5(source)}, that of {name} is {wanted.md5}; --no-verify takes "
             "it nevertheless")  # fmt: skip
    table = _ratings(name, source)
    users, items, rating, times = table.T
    if verify:
        found = (len(np.unique(users)), len(np.unique(items)), len(users))
        expected = (wanted.users, wanted.items, wanted.events)
        if found != expected:
            fail(source, f"users, items and events are {found}, those of {name} {expected}; "
                 "--no-verify takes it nevertheless")  # fmt: skip
    size, step = (10, 2) if name == "ml-20m" else (5, 1)
    actions = whole(np.round(rating * step)) - 1
    contexts: dict[str, Array] = {}
    context_users = None
    if name == "ml-1m":
        context_users, contexts = _users(source)
    return Events(
        whole(users), whole(items), whole(times), actions, contexts, context_users, size, False
    )
