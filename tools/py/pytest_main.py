"""Runs pytest on the files named on the command line, as a Bazel test."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path


def add_layer(folder: str) -> None:
    """Puts a folder of packages, and what its .pth files name, before the environment's own."""
    before = list(sys.path)
    site.addsitedir(folder)
    sys.path[:] = [path for path in sys.path if path not in before] + before
    # What a test starts finds them, too.
    path = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)


def main() -> int:
    for layer in reversed(os.environ.get("PYTHON_LAYER", "").split()):  # of pytest_test(env = ...)
        add_layer(Path(layer).read_text().splitlines()[0])
    import pytest  # it may be the layer's

    args = ["-p", "no:cacheprovider", "-q", "-rs", "--import-mode=importlib"]
    args += ["-p", "tests.common.plugin"]
    if out := os.environ.get("XML_OUTPUT_FILE"):
        args.append("--junitxml=" + out)
    if only := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        args += ["-k", only]
    return int(pytest.main(args + sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
