"""Every parameter of everything public refuses wrong values by name, before anything changes.

The walk goes over ``inspect.signature`` of what every package has in ``__all__``. A parameter that
joins must be given a kind in its package's ``walk_*.py``, or the first test fails.
"""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

pytest.importorskip("torch")

from tests.interface.walk import WRONG, Walk, says

PACKAGES = ("accelerated_modules", "hkv", "hstu_attn", "mustafar", "causal_conv1d", "dynamicemb")


def walks() -> dict[str, Walk]:
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        found[package] = importlib.import_module(f"tests.interface.walk_{package}").WALK
    return found


WALKS = walks()
EVERY = [(p, name, parameter) for p, w in WALKS.items() for name, parameter in w.parameters()]
# What is not tried, with the reason; at most ten.
EXCEPTIONS: dict[str, str] = {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_parameter_has_a_kind(package: str) -> None:
    if package not in WALKS:
        pytest.skip(f"{package} is not installed")
    walk = WALKS[package]
    assert not {(n, p) for n, p in walk.parameters() if not walk.kind(n, p)}


def test_exceptions_are_few_and_of_parameters_that_exist() -> None:
    assert len(EXCEPTIONS) <= 10 and all(EXCEPTIONS.values())
    assert set(EXCEPTIONS) <= {f"{name}({parameter})" for _, name, parameter in EVERY}


@pytest.mark.parametrize(("package", "name", "parameter"), EVERY, ids=lambda x: x)
def test_wrong_values_are_refused_by_name(package: str, name: str, parameter: str) -> None:
    if f"{name}({parameter})" in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[f"{name}({parameter})"])
    walk = WALKS[package]
    call = walk.call(name, parameter)
    signed = inspect.signature(call.function).parameters
    kind, _, also_none = walk.kind(name, parameter).partition(" or ")
    optional = also_none == "None" or (parameter in signed and signed[parameter].default is None)
    for value in WRONG[kind]:
        if value is None and optional:
            continue
        before = call.state()
        with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
            call.function(**{**call.arguments, parameter: value})
        message = str(caught.value)
        case = f"{name}({parameter}={value!r}): {message}"
        assert re.search(rf"\b{parameter}\b", message), case
        assert says(message, value), case
        assert re.search(r"\b(must|needs|needed|allowed)\b", message), case
        assert call.state() == before, case


@pytest.mark.parametrize(("package", "name"), sorted({x[:2] for x in EVERY}), ids=lambda x: x)
def test_the_calls_that_wrong_values_go_into_succeed(package: str, name: str) -> None:
    if name.startswith("DeviceArray") and importlib.import_module("hkv").device_count() == 0:
        pytest.skip("needs a CUDA device")
    for parameter in [p for *which, p in EVERY if which == [package, name]]:
        call = WALKS[package].call(name, parameter)
        if "path" not in call.arguments:  # a file that is not there: paths are looked at before
            call.function(**call.arguments)
