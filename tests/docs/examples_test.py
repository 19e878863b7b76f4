"""What the pages, the docstrings and examples/ show, runs and prints what they say."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hstu_attn
import pytest
import torch

from tests.docs import shown

PACKAGES = ["accelerated_modules", "causal_conv1d", "dynamicemb", "hkv", "hstu_attn"]
EXAMPLES = sorted(path.name for path in shown.ROOT.glob("examples/[!_]*.py"))
EXAMPLES.append("causal_conv1d/example_usage.py")


def code_of(page: str) -> list[str]:
    return shown.blocks((shown.ROOT / page).read_text(), "python")


WITH_CODE = [page for page in shown.PAGES if code_of(page)]


def modules(package: str) -> Iterator[ModuleType]:
    top = importlib.import_module(package)
    yield top
    for folder in map(Path, top.__path__):
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            if parts[-1] in ("__init__", "__main__"):
                continue
            try:
                yield importlib.import_module(".".join(parts))
            except ImportError as error:  # of TorchRec's packages, which these tests do without
                assert "torchrec" in str(error), error


def examples_of(package: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for module in modules(package):
        for example in finder.find(module):
            found[example.name] = example
    return [found[name] for name in sorted(found) if found[name].examples]


def test_readme_has_code_to_run() -> None:
    assert "README.md" in WITH_CODE


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str) -> None:
    names: dict[str, Any] = {"__name__": page}
    for block in code_of(page):
        shown.run(block, names)


def test_a_line_that_prints_something_else_is_found() -> None:
    with pytest.raises(AssertionError):
        shown.run("print(1 + 1)  # 3", {})


@pytest.mark.parametrize("package", PACKAGES)
def test_the_examples_of_docstrings_are_right(package: str) -> None:
    examples = examples_of(package)
    assert examples, f"no docstring of {package} has an example"
    for example in examples:
        said: list[str] = []
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
        runner.run(example, out=said.append)
        assert not said, "".join(said)


@pytest.mark.parametrize("name", [n for n in hstu_attn.__all__ if n.endswith("_func")])
def test_every_attention_function_has_an_example(name: str) -> None:
    assert any(e.name.endswith(f".{name}") for e in examples_of("hstu_attn"))


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs(example: str, where: str, tmp_path: Path) -> None:
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"needs a PyTorch that finds the GPU; {torch.__version__} does not")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if where == "cpu" else {}
    command = [sys.executable, "-B", shown.ROOT / "examples" / example]
    env = os.environ | hidden
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"device: {where}" in done.stdout, done.stdout
