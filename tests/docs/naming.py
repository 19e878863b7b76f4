"""Whether something that a page names exists in the checkout."""

from __future__ import annotations

import re

from tools.lint import tree

# Names that macros and comprehensions make: package -> which of its texts spell the parts.
_MADE = (r"(HSTU_DISABLE)_(\w+)", r"(wheel)_(\d+)", r"(hierarchical_kv)(_compile)_test")


def path(name: str) -> bool:
    """A file or folder; <placeholder> and * stand for any name."""
    pattern = re.sub(r"<[^>/]+>|\{[^}/]+\}", "*", name.rstrip("/"))
    return any(tree.root().glob(pattern))


def config(name: str) -> bool:
    return re.search(rf"^\w+:{name} ", (tree.root() / ".bazelrc").read_text(), re.M) is not None


def label(name: str) -> bool:
    """A target, a build setting or a pattern of targets of this workspace."""
    package, _, target = name.removeprefix("//").partition(":")
    package = re.sub(r"/?\.\.\.$", "", package)
    if name.endswith("..."):
        return path(package)
    folder = tree.root() / package
    if not (folder / "BUILD.bazel").exists():
        return False
    target = target or package.rpartition("/")[2]
    if (folder / target).exists():
        return True
    files = [folder / "BUILD.bazel", *folder.glob("*.bzl")]
    spelled = "\n".join(file.read_text() for file in files)
    if re.search(rf'"{re.escape(target)}"', spelled):
        return True
    for pattern in _MADE:
        if made := re.fullmatch(pattern, target):
            known = re.search(rf'"{re.escape(made[2])}"', spelled) or made[2].isdigit()
            return bool(known and re.search(rf'"?{made[1]}_?"?', spelled))
    return False
