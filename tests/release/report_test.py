"""accelerated_modules says in one sentence what does not fit together."""

from __future__ import annotations

import io
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from tests.common.processes import environment, python

accelerated_modules = pytest.importorskip("accelerated_modules")
report = accelerated_modules.report

VERSION = metadata.version("accelerated-modules")
OTHERS = [name for name in report._requirements() if name != "torch"]

broken = pytest.mark.skipif(
    report._installed(OTHERS[0]) is not None, reason="every package is installed"
)


def installed(folder: Path, name: str, version: str, code: str = "") -> None:
    """A package that is nothing but metadata and a `python -m` program."""
    module = name.replace("-", "_")
    (folder / f"{module}-{version}.dist-info").mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{module}-{version}.dist-info/METADATA").write_text(text)
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text("")
    (folder / module / "__main__.py").write_text(code or f"print('report of {name}')")


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in OTHERS:
        installed(tmp_path, name, VERSION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment(tmp_path)["PYTHONPATH"])
    return tmp_path


def test_the_collection_is_not_empty() -> None:
    assert OTHERS


def test_a_whole_install_has_no_problem(everything: Path) -> None:
    assert accelerated_modules.problems() == []


@broken
def test_a_missing_package_is_named_with_its_mend() -> None:
    lines = [line for line in accelerated_modules.problems() if OTHERS[0] in line]
    assert lines == [
        f"accelerated-modules {VERSION} needs {OTHERS[0]}=={VERSION}, which is not installed: "
        f"pip install --force-reinstall --no-deps {OTHERS[0]}=={VERSION}"
    ]


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, OTHERS[0], "0.0.1")
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = [line for line in accelerated_modules.problems() if OTHERS[0] in line]
    assert "0.0.1 is installed" in line


def test_an_old_torch_is_named(everything: Path) -> None:
    (everything / "torch-2.9.1.dist-info").mkdir()
    metadata_file = everything / "torch-2.9.1.dist-info/METADATA"
    metadata_file.write_text("Name: torch\nVersion: 2.9.1+cu130\n")
    (line,) = accelerated_modules.problems()
    assert "torch>=2.10" in line and "2.9.1+cu130 is installed" in line


def test_in_a_conda_environment_the_mend_is_condas(tmp_path: Path) -> None:
    site = str(metadata.distribution("accelerated-modules").locate_file(""))
    shutil.copytree(site, tmp_path / "site")
    (info,) = (tmp_path / "site").glob("accelerated_modules-*.dist-info")
    (info / "INSTALLER").write_text("conda\n")
    installed(tmp_path / "site", "torch", "2.9.1")
    program = "import accelerated_modules as a; print(*a.problems(), sep='\\n')"
    done = python("-c", program, first=tmp_path / "site")
    mends = {line.rpartition(": ")[2] for line in done.stdout.splitlines()}
    torch = report._requirements()["torch"]
    assert mends == {f"conda install 'pytorch{torch}'"} | {
        f"conda install '{name}=={VERSION}'" for name in OTHERS
    }
    assert "pip install" not in done.stderr and "conda install" in done.stderr


def test_a_newer_torch_with_a_local_version_fits() -> None:
    assert report._fits("2.13.0+cpu", ">=2.10") and not report._fits("2.9.1", ">=2.10")


def test_importing_imports_no_other_package() -> None:
    program = "import sys, accelerated_modules; print('torch' in sys.modules)"
    assert python("-W", "ignore", "-c", program).stdout.strip() == "False"


@broken
def test_importing_beside_a_broken_install_warns() -> None:
    done = python("-c", "import accelerated_modules")
    assert done.returncode == 0 and "which is not installed" in done.stderr


def test_the_report_holds_the_report_of_every_package(everything: Path) -> None:
    out = io.StringIO()
    assert accelerated_modules.show_versions(out)
    for name in ["torch", "Python", *OTHERS]:
        assert name in out.getvalue()
    assert f"report of {OTHERS[0]}" in out.getvalue()


def test_a_package_that_crashes_is_reported(everything: Path) -> None:
    module = OTHERS[0].replace("-", "_")
    (everything / module / "__main__.py").write_text("import os; print('dying'); os.abort()")
    done = python("-m", "accelerated_modules", first=everything)
    assert done.returncode == 1
    assert f"PROBLEM: python -m {module} fails" in done.stdout
