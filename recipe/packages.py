"""tools/bazel run //recipe:packages -- CHANNEL add FILE... | take-back NAME... | check

What is in a channel folder: adds packages that are built already, takes some back (NAME is
<subdir>/<file>), or compares every file with the index. Builds nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.release import channel, distribution
from tools.release.refused import Refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channel", type=Path, metavar="CHANNEL")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("add").add_argument("files", type=Path, nargs="+", metavar="FILE")
    verbs.add_parser("take-back").add_argument("names", nargs="+", metavar="NAME")
    verbs.add_parser("check")
    args = parser.parse_args()

    folder = distribution.user_path(args.channel)
    if args.verb == "add":
        distribution.check_outside(distribution.workspace(), folder)
        files = [distribution.user_path(file) for file in args.files]
        for place in channel.publish(files, folder):
            print(f"{distribution.sha256(place)}  {place}")
    elif not folder.is_dir():
        raise Refused(f"{folder} is not a folder: name a channel")
    elif args.verb == "take-back":
        channel.take_back(args.names, folder)
    elif wrong := channel.problems(folder):
        raise Refused("the index is not true:\n" + "\n".join(wrong))
    else:
        print(f"{folder}: every package is what the index says")


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        sys.exit(f"packages: {reason}")
