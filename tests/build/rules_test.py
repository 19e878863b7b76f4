"""The build's own text: every attribute documented, every flag with its why, doors closed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tools.lint import tree

STARLARK = [path for path in tree.files() if path.endswith(".bzl")]
PACKAGES = [path for path in tree.files() if path.endswith("BUILD.bazel")]
# Whom other workspaces build (docs/build.md), and what every package of this one is built with.
PUBLIC = (
    "python",
    "third_party",
    "tools/cuda",
    "tools/hip",
    "tools/triton",
    "tools/release",
    "tools/wheel",
)


def text(path: str) -> str:
    return (tree.root() / path).read_text()


def calls(path: str, *names: str) -> Iterator[tuple[ast.Call, dict[str, ast.expr]]]:
    for call in ast.walk(ast.parse(text(path), path)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in names:
            yield call, {k.arg: k.value for k in call.keywords if k.arg}


def attributes(path: str) -> Iterator[tuple[str, ast.Call]]:
    """What dictionaries of the file, wherever they stand, name as attributes of rules."""
    for found in ast.walk(ast.parse(text(path), path)):
        if isinstance(found, ast.Dict):
            for key, value in zip(found.keys, found.values, strict=True):
                if isinstance(value, ast.Call) and ast.unparse(value.func).startswith("attr."):
                    assert isinstance(key, ast.Constant)
                    yield str(key.value), value


@pytest.mark.parametrize("path", STARLARK)
def test_every_rule_and_public_attribute_says_what_it_is(path: str) -> None:
    for name, call in attributes(path):
        if not name.startswith("_"):
            assert any(k.arg == "doc" for k in call.keywords), f"{path}: {name} has no doc"
    for call, keywords in calls(path, "rule", "repository_rule", "aspect", "provider"):
        assert "doc" in keywords, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", STARLARK)
def test_every_argument_of_a_public_macro_is_documented(path: str) -> None:
    for function in ast.parse(text(path), path).body:
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
            said = ast.get_docstring(function) or ""
            arguments = [a.arg for a in function.args.args]
            if function.args.kwarg:
                arguments.append("**" + function.args.kwarg.arg)
            for argument in arguments:
                assert f"\n  {argument}: " in said, f"{path}: {function.name}({argument})"


def test_every_compiler_flag_has_its_why() -> None:
    flags = re.findall(r'^    "(.*)",(.*)$', text("tools/cuda/copts.bzl"), re.MULTILINE)
    assert len(flags) > 20
    for flag, why in flags:
        assert re.fullmatch(r"  # \S.*", why), flag


@pytest.mark.parametrize("path", [*STARLARK, "tools/cc/cc.BUILD"])
def test_compiler_flags_stand_in_one_file(path: str) -> None:
    if path != "tools/cuda/copts.bzl":
        found = re.findall(r'"(-(?:[fgOW]|std|D__)(?!l,)[\w+=:-]*)"', text(path))
        assert not found, f"{path}: {found}"


@pytest.mark.parametrize("path", PACKAGES)
def test_packages_are_private_and_open_only_named_doors(path: str) -> None:
    folder = path.rpartition("/")[0]
    for _, keywords in calls(path, "package"):
        if "default_visibility" in keywords:
            assert "public" not in ast.unparse(keywords["default_visibility"]), path
    if "//visibility:public" in text(path):
        assert folder in PUBLIC or folder.split("/")[0] in PUBLIC, f"{path} is open to everybody"
