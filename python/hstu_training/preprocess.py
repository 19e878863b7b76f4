"""Makes a folder that training reads out of a published archive, a CSV file, or nothing.

    python -m hstu_training.preprocess --dataset ml-1m --input ml-1m.zip --output data/ml-1m
    python -m hstu_training.preprocess --dataset synthetic-kuairand-1k --output data/kuairand-1k

Nothing is downloaded. GroupLens' terms allow MovieLens for research, with acknowledgement, without
redistribution and without commercial use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hstu_training.data import columns, csv_file, kuairand, movielens, synthetic
from hstu_training.data.columns import DataError

DATASETS = (*movielens.PUBLISHED, *kuairand.USERS, "csv")
SYNTHETIC = tuple(f"synthetic-{name}" for name in synthetic.SHAPES)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hstu_training.preprocess", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--dataset", required=True, choices=[*DATASETS, *SYNTHETIC])
    parser.add_argument("--input", type=Path, help="the archive as published, or its folder")
    parser.add_argument("--output", type=Path, required=True, help="a folder; replaced whole")
    parser.add_argument("--no-verify", action="store_true", help="take other checksums and counts")
    parser.add_argument(
        "--ties", choices=["hash", "file", "item"],
        help="the order of events of one user and time: by a hash of (user, item); as in the file "
        "(what ml-100k has, whose file is shuffled); by item id, which inflates NDCG",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of synthetic data")
    parser.add_argument("--users", type=int, help="of synthetic data")
    parser.add_argument("--over", type=int, default=1, help="synthetic lengths and items over this")
    return parser


def read(name: str, source: Path, verify: bool) -> columns.Events:
    """The events of a published data set or of a CSV file."""
    if not source.exists():
        columns.fail(source, "there is no such file or folder")
    if name in movielens.PUBLISHED:
        return movielens.read(name, source, verify)
    if name in kuairand.USERS:
        return kuairand.read(name, source, verify)
    return csv_file.read(source)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 after an error, which is printed."""
    parser = _arguments()
    given = parser.parse_args(arguments)
    try:
        if given.dataset in SYNTHETIC:
            if given.over < 1 or (given.users is not None and given.users < 1):
                parser.error(f"--over and --users must be >= 1, got {given.over}, {given.users}")
            events = synthetic.make(
                given.dataset.removeprefix("synthetic-"), given.seed, given.users, given.over
            )
        else:
            if given.input is None:
                parser.error(f"--input is needed for --dataset={given.dataset}")
            events = read(given.dataset, given.input, not given.no_verify)
        ties = given.ties or ("file" if given.dataset == "ml-100k" else "hash")
        if ties == "item":
            print(
                "warning: --ties=item sorts events of one time by item id, an order that a model "
                "can learn: NDCG comes out too high", file=sys.stderr,
            )  # fmt: skip
        manifest = columns.write(given.output, given.dataset, events, ties)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{given.output}: {manifest['users']:,} users, {manifest['items']:,} items, "
        f"{manifest['events']:,} events"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
