"""Runs pytest on the files named on the command line, as a Bazel test."""

from __future__ import annotations

import os
import sys

import pytest


def main() -> int:
    args = ["-p", "no:cacheprovider", "-q", "-rs", "--import-mode=importlib"]
    if out := os.environ.get("XML_OUTPUT_FILE"):
        args.append("--junitxml=" + out)
    if only := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        args += ["-k", only]
    return pytest.main(args + sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
