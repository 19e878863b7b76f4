"""tools/bazel run //tools:compile_report: prints the table and says where the bar chart is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        if path.suffix == ".txt":
            print(path.read_text())
    for path in map(Path, sys.argv[1:]):
        if path.suffix != ".txt":
            print(os.path.realpath(path))


if __name__ == "__main__":
    main()
