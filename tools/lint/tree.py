"""The project's own files: from @tree under Bazel ($TREE is its files.sha256), else from git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def root() -> Path:
    """The checkout."""
    if tree := os.environ.get("TREE"):
        return Path(Path(tree).with_name("root.txt").read_text().strip())
    return Path(__file__).resolve().parents[2]


def files() -> list[str]:
    """Paths below root(), sorted; ignored files are not among them."""
    if tree := os.environ.get("TREE"):
        return [line[66:] for line in Path(tree).read_text().splitlines()]
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=root(),
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(path for path in set(listed.stdout.splitlines()) if (root() / path).exists())
