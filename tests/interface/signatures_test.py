"""Public signatures and op schemas are those that were recorded: what programs call stays.

``python tests/interface/signatures_test.py`` writes the record anew, for a change that is meant.
Names may join freely; what the record holds must be there, with the same parameters and defaults.
Annotations are left out, as they bind no caller.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).with_name("signatures.json")
PACKAGES = ("accelerated_modules", "hkv", "hstu_attn")


def signature(function: Any) -> str:
    if not inspect.isclass(function) and not inspect.isfunction(function):
        return "a name"  # a value, a property, a function of an extension module
    signed = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signed.parameters.values()]
    return str(signed.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def members(kind: type) -> dict[str, str]:
    """The signatures of a class and of its public methods; the values of an enum."""
    if issubclass(kind, enum.Enum):
        return {name: str(int(member.value)) for name, member in kind.__members__.items()}
    found = {"": signature(kind)}
    for name in dir(kind):
        if name == "__len__" or not name.startswith("_"):
            member = inspect.getattr_static(kind, name)
            function = member.__func__ if isinstance(member, classmethod) else member
            found[name] = signature(function)
    return found


def public(package: str) -> dict[str, str]:
    """Every name in a package's ``__all__``, with its signature if it has one."""
    module = importlib.import_module(package)
    found = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) and thing.__module__.startswith(package):
            for member, text in members(thing).items():
                found[f"{name}.{member}".rstrip(".")] = text
        else:
            found[name] = "a name" if inspect.isclass(thing) else signature(thing)
    return found


def schemas() -> dict[str, str]:
    import hstu_attn  # noqa: F401 - defines the ops
    import torch

    every = torch._C._jit_get_all_schemas()
    return {s.name: str(s) for s in every if s.name.startswith("hstu_attn::")}


def assert_holds(found: dict[str, str], recorded: dict[str, str]) -> None:
    assert recorded
    assert {name: found.get(name, "gone") for name in recorded} == recorded


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_signatures_are_the_recorded_ones(package: str) -> None:
    pytest.importorskip(package)
    assert_holds(public(package), json.loads(RECORD.read_text())[package])


def test_the_op_schemas_are_the_recorded_ones() -> None:
    pytest.importorskip("hstu_attn")
    assert_holds(schemas(), json.loads(RECORD.read_text())["torch.ops"])


if __name__ == "__main__":
    record = {package: public(package) for package in PACKAGES} | {"torch.ops": schemas()}
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
