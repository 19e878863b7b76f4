"""A package that joins by one row and its own folder goes through every check of a release.

In a copy of the checkout the new package takes the place of all others: a check that knows one of
them by name would fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.build.nested import Nested, nested, scratch

ROW = """PACKAGES = {
    "accel-scratch": _package(
        import_name = "accel_scratch",
        max_kib = 24,
        shared_name = True,
        umbrella = "offers",
        wheels = ["//python/accel_scratch:wheel"],
    ),
}
"""
BUILD = """load("//tools:defs.bzl", "wheel")

wheel(
    name = "wheel",
    srcs = ["__init__.py"],
    description = "README.md",
    distribution = "accel-scratch",
    summary = "A package of a test",
    tag = "py3-none-any",
    visibility = ["//visibility:public"],
)
"""
INIT = """from accel_scratch._core.alone import refuse_others

refuse_others(__file__, "accel-scratch")
"""
CHECKS = [
    "//tests/build:accel_scratch_wheel_policy_test",
    "//tests/build:accelerated_modules_wheel_policy_test",
    "//tests/release:install_test",
    "//tests/release:sbom_test",
    "//tests/release:unit_names_test",
]


@pytest.fixture(scope="module")
def checkout() -> Iterator[Nested]:
    with scratch() as folder, nested(folder / "one") as one:
        package = one.source / "python/accel_scratch"
        package.mkdir()
        (package / "BUILD.bazel").write_text(BUILD)
        (package / "__init__.py").write_text(INIT)
        (package / "README.md").write_text("# accel-scratch\n")
        rows = one.source / "tools/release/wheels.bzl"
        text, found = re.subn(r"(?ms)^PACKAGES = \{$.*?^\}$\n", ROW, rows.read_text())
        assert found == 1
        rows.write_text(text)
        yield one


def checked(checkout: Nested, *flags: str) -> tuple[set[str], str]:
    """Runs the checks; returns those that passed, and what was said."""
    # The example needs hstu_attn, which this release does not have.
    only = "--test_filter=not example"
    said = checkout.bazel(
        "test",
        *checkout.overrides.values(),
        "--jobs=2",
        "--test_output=errors",
        "--keep_going",
        only,
        *flags,
        *CHECKS,
        check=False,
    )
    text = said.stdout + said.stderr
    return set(re.findall(r"^(//\S+) +(?:\(cached\) )?PASSED", text, re.MULTILINE)), text


def test_every_check_of_a_release_passes(checkout: Nested) -> None:
    passed, said = checked(checkout)
    assert passed == set(CHECKS), said


def test_the_umbrella_offers_it_as_an_extra(checkout: Nested) -> None:
    (wheel,) = checkout.source.glob("bazel-bin/python/accelerated_modules/*.whl")
    said = checkout.source / "bazel-bin/python/accelerated_modules/wheel.json"
    assert wheel.is_file() and "accel-scratch==" in said.read_text()
    assert """; extra == 'accel-scratch'""" in said.read_text()


def test_a_package_that_does_not_refuse_anothers_files_is_found(checkout: Nested) -> None:
    (checkout.source / "python/accel_scratch/__init__.py").write_text("")
    passed, said = checked(checkout)
    assert passed == set(CHECKS) - {"//tests/release:install_test"}, said
    assert "test_a_package_refuses_to_be_imported_among_the_files_of_anothers" in said
