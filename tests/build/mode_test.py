"""The small wheel in the other modes. Slow: tools/bazel test //tests/build:mode_test runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.nested import Nested, nested, scratch
from tests.common.processes import python


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


def test_workspace_mode_gives_the_bytes_of_module_mode(folder: Path) -> None:
    with nested(folder / "module") as module:
        module.build()
        with nested(folder / "workspace") as workspace:
            workspace.flags = ["--config=workspace"]
            workspace.canonical = ""
            workspace.build()
            assert module.wheel() == workspace.wheel()


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ on this machine")
def test_hostcc_gives_a_wheel_that_keeps_the_policy(folder: Path) -> None:
    """Fetches the compiler's repository anew: --config=hostcc makes another one of it."""
    with nested(folder / "hostcc") as hostcc:
        hostcc.flags = ["--config=hostcc"]
        del hostcc.overrides["cc"]
        actions = hostcc.build()
        assert "CudaCompile" in {action.mnemonic for action in actions}
        assert_policy(hostcc)


def assert_policy(checkout: Nested) -> None:
    (wheel,) = (checkout.source / "bazel-bin/tests/build/small").glob("*.whl")
    test = Path(__file__).with_name("wheel_policy_test.py")
    checked = python("-m", "pytest", "-q", "-p", "no:cacheprovider", test, WHEELS=str(wheel))
    assert checked.returncode == 0, checked.stdout
