"""The rules of CONTRIBUTING.md that no formatter knows."""

from __future__ import annotations

import re

import pytest

from tools.lint import counts, linters, tree

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


def test_a_package_s_page_is_short() -> None:
    # What has no room there is a page of its own, to which it leads.
    packages = {p.split("/")[1] for p in TEXTS if p.startswith("python/")}
    packages |= {"hstu_triton"}  # generative_recommenders, by its wheel's name
    pages = {p: t for p, t in TEXTS.items() if p in {f"docs/{name}.md" for name in packages}}
    assert len(pages) >= 7
    assert not [p for p, t in pages.items() if t.count("\n") > 120]


def test_every_common_header_that_needs_no_torch_has_a_test_in_cpp() -> None:
    of_torch = {"device_ops.h", "op_arguments.h", "stable_torch.h", "tensor_checks.h"}
    a_struct = {"feature.h"}  # build_info_test prints it
    headers = [p for p in TEXTS if re.fullmatch(r"csrc/common/\w+\.h", p)]
    untested = {p for p in headers if p.rpartition("/")[2] not in of_torch | a_struct}
    untested -= {i for p in TEXTS if re.fullmatch(r"tests/.*\.(cc|cu)", p) for i in includes(p)}
    assert headers and not untested


def test_benchmarks_are_short_and_have_no_package_s_name() -> None:
    # A script's own folder comes first where Python looks: its name would shadow the package's.
    packages = {p.split("/")[1] for p in TEXTS if p.startswith("python/")}
    files = [p for p in TEXTS if p.startswith("benchmarks/") and not p.endswith("/harness.py")]
    assert not [p for p in files if p.split("/")[1].removesuffix(".py") in packages]
    assert not [p for p in files if TEXTS[p].count("\n") > 150]


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
                build = TEXTS.get(included.rpartition("/")[0] + "/BUILD.bazel", "")
                made = included.endswith("/switches.h") and "build_switches(" in build
                known = included in TEXTS or made
                assert not included.startswith(ours) or known, f"{path}: {included}"
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


def includes(path: str) -> set[str]:
    return set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', TEXTS[path], re.MULTILINE))


def readers_of(headers: set[str]) -> set[str]:
    """The files of csrc that include one of the headers, through other headers too."""
    found = set(headers)
    csrc = [path for path in TEXTS if path.startswith("csrc/") and not path.endswith(".bazel")]
    while more := {path for path in csrc if path not in found and includes(path) & found}:
        found |= more
    return found - headers


def test_only_ops_cc_knows_torch() -> None:
    outside = {i for path in TEXTS if path.startswith("csrc/") for i in includes(path)}
    torch = {i for i in outside if i.startswith(("torch/", "ATen/", "c10/"))}
    readers = readers_of(torch)
    assert "csrc/hstu_attn/ops.cc" in readers
    shared = {path for path in readers if path.startswith("csrc/common/") and path.endswith(".h")}
    assert not [
        path
        for path in readers - shared
        if not re.fullmatch(r"csrc/\w+/(?:\w+_)?ops\.(?:cc|h)", path)
    ]


def test_only_module_cc_knows_python() -> None:
    readers = readers_of({"pybind11/pybind11.h", "pybind11/stl.h", "Python.h"})
    sources = [path for path in readers if not path.endswith(".h")]
    assert not [
        path for path in sources if not re.fullmatch(r"csrc/\w+/(binding/)?module\.cc", path)
    ]


def test_packages_of_csrc_share_nothing_but_common() -> None:
    for path in TEXTS:
        if path.startswith("csrc/"):
            room = path.split("/")[1]
            rooms = {i.split("/")[1] for i in includes(path) if i.startswith("csrc/")}
            # The one exception: rows of dynamic embeddings live in the hash table.
            hkv = {"hkv"} if path.startswith("csrc/dynamicemb/dynamic_variable.") else set()
            assert rooms <= {room, "common"} | hkv, path


def test_nothing_else_names_the_version() -> None:
    version = re.search(r'^VERSION = "(.+)"$', TEXTS["version.bzl"], re.MULTILINE)
    assert version
    said = ("CHANGELOG.md", "version.bzl", "docs/measurements/")  # what was, and what is
    pins = ("MODULE.bazel", "third_party/", "tools/bootstrap/", "tests/")  # others' versions
    named = rf"(?<![\w.]){re.escape(version[1])}(?![\w.])"
    found = [line for line in offences(named) if not line.startswith(said + pins)]
    assert not found


@pytest.mark.parametrize("name", [n for n, c in counts.CEILINGS.items() if c is not None])
def test_nothing_is_said_more_often_than_before(name: str) -> None:
    places, ceiling = counts.all_counts(TEXTS)[name], counts.CEILINGS[name]
    assert ceiling is not None and len(places) <= ceiling, "\n".join([name, *places])


def test_the_counts_see_what_they_count() -> None:
    # Cut in the middle, so that this file is none of the places.
    args = "q, k, v, alpha, rab, func"
    seen = counts.all_counts(
        {
            "python/hstu_attn/a.py": f"def f({args}): ...\ng({args})\nh = ({args})\n",
            "csrc/hstu_attn/ops.cc": "void f(int q, int k, int v, float alpha, R rab, F func) {\n"
            + "  g({q, k, v, alpha, rab, func});\n}\n",
            "csrc/hkv/a.h": "#ifdef HKV_DISABLE_X\n// insert_and_evict\nclass Buffer {\n};\n",
            "csrc/hkv/b.h": "void insert_and_evict(int n) {\n" + "\n" * 120 + "}\n",
            "tests/a.py": "sys" + ".path.append('x')\n",
        }
    )
    assert {name: len(places) for name, places in seen.items() if name != "product_lines"} == {
        "attention_lists": 5,
        "insert_and_evict_files": 1,
        "long_functions": 1,
        "switch_conditions": 1,
        "sys_path_lines": 1,
        "stray_definitions": 1,
    }
