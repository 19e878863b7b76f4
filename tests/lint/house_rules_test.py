"""The rules of CONTRIBUTING.md that no formatter knows."""

from __future__ import annotations

import re

from tools.lint import linters, tree

TEXTS = {
    path: text
    for path in tree.files()
    if (text := (tree.root() / path).read_bytes().decode(errors="replace")) or True
}
DEVICE = ("*.cu", "*.cuh", "*.cu.tpl")


def offences(pattern: str, patterns: tuple[str, ...] = ("*",)) -> list[str]:
    return [
        f"{path}:{text.count(chr(10), 0, found.start()) + 1}: {found[0].strip()}"
        for path, text in TEXTS.items()
        if linters.matches(path, patterns)
        for found in re.finditer(pattern, text, re.MULTILINE)
    ]


def test_the_tree_is_seen() -> None:
    assert {"MODULE.bazel", "README.md", "tools/bazel"} <= set(TEXTS)


def test_device_code_has_no_anonymous_namespace() -> None:
    # Their mangled names hold a hash of the path, and two builds would differ.
    assert not offences(r"^\s*(?:inline )?namespace\s*\{", DEVICE)


def test_no_file_names_a_path_of_one_machine() -> None:
    # Written so that this file does not name one.
    folders = "|".join(["root", "work", "home/[a-z]+", "Users/[A-Za-z]+"])
    assert not offences(rf"""(?<![\w.$}})\]*>-])/(?:{folders})/(?!\*)[\w.]""")


def test_no_file_names_the_host_of_a_package_index() -> None:
    hosts = ["pypi", "pythonhosted", "npmjs", "anaconda", "deb.debian", "debian", "ubuntu"]
    assert not offences(rf"https?://[\w.-]*(?:{'|'.join(hosts)})\.\w+")
    assert not offences(r"(?:--|\b)(?:extra-)?index-url[= ]\s*\S*://")


def test_no_file_is_big() -> None:
    assert not [path for path in TEXTS if (tree.root() / path).stat().st_size > 512 << 10]


def test_every_file_is_text() -> None:
    for path, text in TEXTS.items():
        assert "\ufffd" not in text or path.endswith(".png"), path


def test_build_files_are_short() -> None:
    names = ("BUILD.bazel", "*.BUILD")
    long = [p for p, t in TEXTS.items() if linters.matches(p, names) and t.count("\n") > 120]
    assert not long


def test_headers_are_included_once_and_bring_no_names() -> None:
    headers = ("*.h", "*.cuh", "*.hpp")
    assert not offences(r"^\s*using namespace", headers)
    assert not [
        p for p, t in TEXTS.items() if linters.matches(p, headers) and "#pragma once" not in t
    ]


def test_includes_are_written_from_the_root() -> None:
    ours = ("benchmarks/", "csrc/", "examples/", "tests/", "tools/")
    for path, text in TEXTS.items():
        if linters.matches(path, linters.CPP_FILES):
            for included in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
                assert not included.startswith(ours) or included in TEXTS, f"{path}: {included}"
                beside = (tree.root() / path).parent / included
                assert not beside.exists(), f"{path}: {included} is not written from the root"


def test_python_files_postpone_annotations() -> None:
    wanted = "from __future__ import annotations"
    code = [
        p for p, t in TEXTS.items() if p.endswith(".py") and re.search(r"^(def|class) ", t, re.M)
    ]
    assert not [p for p in code if wanted not in TEXTS[p]]


def test_release_code_has_no_line_info() -> None:
    assert not offences("-line" + "info", ("*.bzl", "BUILD.bazel"))


def test_nothing_vendored_lies_in_third_party() -> None:
    allowed = (*linters.BAZEL_FILES, "*.sh", "*.md", "*.txt")
    for path, text in TEXTS.items():
        if path.startswith("third_party/") and not linters.matches(path, allowed):
            name = path.rpartition("/")[2]
            assert text.startswith(f"// File: {name}\n"), f"{path} is not of this project"
