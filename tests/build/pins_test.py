"""Everything that a build fetches is pinned by a hash, in both modes from the same pins."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tools.lint import tree

SHA256 = re.compile("[0-9a-f]{64}")
SHA512 = re.compile("sha512-[A-Za-z0-9+/]{86}==")
# Starlark's syntax is a subset of Python's.
STARLARK = [f for f in tree.files() if f.endswith((".bzl", "MODULE.bazel", "WORKSPACE", ".BUILD"))]
FETCHES_BY_URL = {"http_archive", "http_file", "http_jar", "download", "download_and_extract"}
NEVER = {"git_repository", "new_git_repository", "pip_parse", "pip_install", "npm_install"}


def parsed(path: str) -> ast.Module:
    return ast.parse((tree.root() / path).read_text(), path)


def calls(node: ast.AST) -> Iterator[tuple[str, dict[str, ast.expr], ast.Call]]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            name = (
                call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
            )
            yield name, {k.arg: k.value for k in call.keywords if k.arg}, call


def constants(path: str) -> dict[str, object]:
    return {
        ast.unparse(target): ast.literal_eval(line.value)
        for line in parsed(path).body
        if isinstance(line, ast.Assign)
        for target in line.targets
    }


PINS = constants("third_party/pins.bzl")


def check_wheels(wheels: object) -> None:
    assert isinstance(wheels, dict) and wheels
    for requirement, hashes in wheels.items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", requirement), requirement
        assert hashes and all(SHA256.fullmatch(h) for h in hashes), requirement


@pytest.mark.parametrize("name", PINS)
def test_every_pin_has_a_hash(name: str) -> None:
    pin = PINS[name]
    kind = name.rpartition("_")[2]
    if kind == "WHEELS":
        check_wheels(pin)
    elif kind == "ENVS":
        assert isinstance(pin, dict) and pin
        for wheels in pin.values():
            check_wheels(wheels)
    elif kind == "DEBS":
        assert isinstance(pin, dict) and pin
        for package, digest in pin.items():
            assert re.fullmatch(r"[\w.+-]+=[\w.:+~-]+", package), package
            assert SHA256.fullmatch(digest), package
    elif kind == "NPM":
        assert re.fullmatch(r"(@[\w-]+/)?[\w-]+@\d[\w.]*", str(pin))
        assert name.replace("NPM", "INTEGRITY") in PINS
    elif kind == "COMMIT":
        assert re.fullmatch("[0-9a-f]{40}", str(pin))
        assert name.replace("COMMIT", "SHA256") in PINS
    elif kind == "INTEGRITY":
        assert SHA512.fullmatch(str(pin))
    elif kind == "SHA256":
        assert SHA256.fullmatch(str(pin))
    else:
        assert kind in ("SUITE", "VERSION"), f"{name} names something that has no hash"


def test_no_two_pins_have_the_same_hash() -> None:
    """But for one package that several environments have."""
    text = (tree.root() / "third_party/pins.bzl").read_text()
    found = re.findall(r'(?:"([^"]+)": \[?)?"((?:sha512-)?[\w+/=]{60,})"', text)
    assert len(found) > 30
    names: dict[str, list[str]] = {}
    for name, hash_ in found:
        names.setdefault(hash_, []).append(name.lower().replace("_", "-"))
    assert not [n for n in names.values() if len(n) > 1 and (len(set(n)) > 1 or "==" not in n[0])]


@pytest.mark.parametrize("path", STARLARK)
def test_nothing_is_fetched_without_a_hash(path: str) -> None:
    for name, keywords, call in calls(parsed(path)):
        where = f"{path}:{call.lineno}: {name}"
        assert name not in NEVER, where
        if name in FETCHES_BY_URL:
            assert isinstance(keywords.get("sha256", keywords.get("integrity")), ast.Name), where


def test_every_call_of_pip_asks_for_hashes_and_no_dependencies() -> None:
    wanted = {"--require-hashes", "--no-deps", "--only-binary=:all:"}
    found = 0
    for path in [*STARLARK, "tools/bootstrap/install.py"]:
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef):
                words = {w.value for w in ast.walk(function) if isinstance(w, ast.Constant)}
                if {"-m", "pip"} <= words:
                    found += 1
                    assert wanted <= words, f"{path}: {function.name}"
    assert found >= 2


def test_each_repository_takes_its_pins_from_the_pins_file() -> None:
    module = parsed("third_party/repositories.bzl")
    loaded = {
        ast.literal_eval(word)
        for name, _, call in calls(module)
        if name == "load" and ast.literal_eval(call.args[0]) == "//third_party:pins.bzl"
        for word in call.args[1:]
    }
    used = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
    assert loaded == set(PINS), "pins.bzl names what no repository uses, or the other way round"
    assert loaded <= used
    for word in ast.walk(module):
        if isinstance(word, ast.Constant) and isinstance(word.value, str):
            assert not re.search(r"[0-9a-f]{40}|==", word.value), f"line {word.lineno}"


def test_the_bazel_installer_pins_its_wheels() -> None:
    wheels = constants("tools/bootstrap/pins.py")["WHEELS"]
    assert isinstance(wheels, dict) and wheels
    for requirement, digest in wheels.items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", requirement)
        assert SHA256.fullmatch(digest), requirement


def repositories() -> set[str]:
    """The names of the repositories that the one list declares."""
    envs = PINS["PYTHON_ENVS"]
    assert isinstance(envs, dict)
    found = {f"python_env_{name}" for name in envs}
    for name, keywords, call in calls(parsed("third_party/repositories.bzl")):
        named = keywords.get("name") or (call.args[0] if name.startswith("_") else None)
        if isinstance(named, ast.Constant):
            found.add(named.value)
    return found


def arguments(path: str, function: str) -> list[list[object]]:
    return [
        [ast.literal_eval(word) for word in call.args if isinstance(word, ast.Constant)]
        for name, _, call in calls(parsed(path))
        if name == function
    ]


def test_module_mode_uses_every_repository_of_the_list() -> None:
    assert {
        name for names in arguments("MODULE.bazel", "use_repo") for name in names
    } == repositories()


def test_both_modes_make_their_repositories_by_the_same_function() -> None:
    for path in ("WORKSPACE", "third_party/extensions.bzl"):
        assert ["//third_party:repositories.bzl", "repositories"] in arguments(path, "load")
        assert arguments(path, "repositories") == [[]]


def test_both_modes_register_the_same_toolchains() -> None:
    module = arguments("MODULE.bazel", "register_toolchains")
    assert module == arguments("WORKSPACE", "register_toolchains")
    assert module[0]


def test_each_rule_set_of_module_mode_has_one_version() -> None:
    for name, keywords, _ in calls(parsed("MODULE.bazel")):
        if name == "bazel_dep":
            assert re.fullmatch(r"\d+\.\d+\.\d+", ast.literal_eval(keywords["version"]))
