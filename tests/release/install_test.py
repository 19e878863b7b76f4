"""What a user does with a release: pip, no network, and the example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

if "EXAMPLE" not in os.environ:
    pytest.skip(
        "tools/bazel test //tests/release/... builds what it looks at", allow_module_level=True
    )

ROWS: dict[str, dict[str, Any]] = json.loads(Path(os.environ["PACKAGES"]).read_text())
WHEELS = [Path(path) for row in ROWS.values() for path in row["wheels"]]
OFFERED = [name for name, row in ROWS.items() if row["umbrella"] == "offers"]
SHARED = [row["import_name"] for row in ROWS.values() if row["shared_name"]]
EXAMPLE = Path(os.environ["EXAMPLE"])
GIN = Path(os.environ["GIN"])


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of others' packages, into which pip put accelerated-modules."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python*/site-packages")
    others = [metadata.distribution(name).locate_file("") for name in ("torch", "gin-config")]
    (site / "others_are_here.pth").write_text("".join(f"{place}\n" for place in others))
    dist = tmp_path_factory.mktemp("dist")
    for wheel in WHEELS:
        (dist / wheel.name).symlink_to(wheel.resolve())
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "-q"]
    pip += ["--find-links", dist, "--disable-pip-version-check"]
    pip += [f"accelerated-modules[{','.join(OFFERED)}]"]
    subprocess.run(pip, check=True, env=clean())
    return python


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}


def run(python: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [python, *args]
    return subprocess.run(command, env=clean(), cwd="/", capture_output=True, text=True)


def test_the_report_finds_nothing_wrong(python: Path) -> None:
    done = run(python, "-m", "accelerated_modules")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROBLEM" not in done.stdout


def test_the_packages_come_from_the_environment(python: Path) -> None:
    for module in [row["import_name"] for row in ROWS.values()]:
        done = run(python, "-c", f"import {module}; print({module}.__file__)")
        assert done.stdout.startswith(str(python.parents[1])), done.stderr


@pytest.mark.parametrize("module", SHARED)
def test_a_package_refuses_to_be_imported_among_the_files_of_anothers(
    python: Path, module: str
) -> None:
    (folder,) = python.parents[1].glob(f"lib/python*/site-packages/{module}")
    foreign = folder / "of_another_distribution.py"
    foreign.write_text("")
    done = run(python, "-c", f"import {module}")
    foreign.unlink()
    assert done.returncode == 1
    assert "ImportError" in done.stderr and str(foreign) in done.stderr
    assert run(python, "-c", f"import {module}").returncode == 0


def test_the_example_runs_on_the_cpu(python: Path) -> None:
    done = run(python, EXAMPLE.resolve())
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.skipif("hstu-training" not in ROWS, reason="hstu-training is not in this release")
def test_the_environment_trains_without_torchrec(python: Path, tmp_path: Path) -> None:
    missing = "import importlib.util as u; assert u.find_spec('torchrec') is None"
    assert run(python, "-c", missing).returncode == 0
    made = ["--dataset=synthetic-ml-100k", f"--output={tmp_path}/data", "--users=12", "--over=16"]
    done = run(python, "-m", "hstu_training.preprocess", *made)
    assert done.returncode == 0, done.stderr
    bindings = [f'DatasetArgs.dataset_path="{tmp_path}/data"', "TrainerArgs.max_train_iters=3",
                "TrainerArgs.max_eval_iters=1"]  # fmt: skip
    given = [f"--gin-config-file={GIN.resolve()}", "--device=cpu", f"--output={tmp_path}/out"]
    given += [f"--gin-bindings={binding}" for binding in bindings]
    done = run(python, "-m", "hstu_training.pretrain_gr_retrieval", *given)
    assert done.returncode == 0 and "3/3" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "out/training.png").is_file()


def test_pip_finds_the_environment_consistent(python: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "check", "--disable-pip-version-check"]
    done = subprocess.run(pip, capture_output=True, text=True, env=clean())
    # "hkv 0.3.0 requires numpy, which is not installed."
    ours = [line for line in done.stdout.splitlines() if line.split(" ")[0] in ROWS]
    assert not ours, ours


def test_uninstalling_removes_every_file(python: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "uninstall", "-q", "-y"]
    subprocess.run([*pip, *ROWS], check=True, env=clean())
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    folders = [row["import_name"] for row in ROWS.values()]
    infos = [f"{name.replace('-', '_')}-*" for name in ROWS]
    assert not [path for mark in folders + infos for path in site.glob(mark)]
