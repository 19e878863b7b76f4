"""conda_step.py STEP ARGUMENT...: one step of conda packaging in a process of its own.

py-rattler's worker thread can crash CPython while it shuts down (PyO3/pyo3-async-runtimes#40), so
every step prints its result as JSON and leaves with os._exit.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
MINORS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def lint(recipe: str) -> list[str]:
    """Parses and renders the recipe: unknown keys and licences that are not SPDX are errors."""
    return [variant.recipe.package.name for variant in _render(recipe)]


def _render(recipe: str) -> list[Any]:
    from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

    config = RenderConfig(platform=PlatformConfig(target_platform="linux-64"))
    return Stage0Recipe.from_file(Path(recipe)).render(VariantConfig(), config)


def build(recipe: str, out: str, test: str, *channels: str) -> list[str]:
    """Builds every output of the recipe into `out`; `test` is "native" or "skip"."""
    from rattler_build import ToolConfiguration
    from rattler_build.progress import SimpleProgressCallback

    packages: list[str] = []
    for variant in _render(recipe):
        strategy: Any = test
        result = variant.run_build(
            tool_config=ToolConfiguration(test_strategy=strategy),
            output_dir=out,
            channels=list(channels),
            progress_callback=SimpleProgressCallback(),  # what failed is among its lines
            package_format="conda:1",  # conda.py compresses it anew
            no_include_recipe=True,
        )
        packages += [str(path) for path in result.packages]
    return packages


def index(channel: str) -> None:
    """Writes the repodata of a channel folder."""
    from rattler.index import index_fs

    asyncio.run(index_fs(Path(channel), force=True))


def install(prefix: str, channels: str, *specs: str) -> list[list[str]]:
    """Solves and installs into a prefix; the machine is as CONDA_OVERRIDE_* say.

    `channels` is blank-separated. Returns name, version, build and URL of each package.
    """
    from rattler import Gateway, VirtualPackage, VirtualPackageOverrides, solve
    from rattler import install as install_records

    async def go() -> list[list[str]]:
        cache = tempfile.mkdtemp(dir=Path(prefix).parent)
        machine = VirtualPackage.detect(VirtualPackageOverrides.from_env())
        records = await solve(
            channels.split(),
            list(specs),
            gateway=Gateway(cache_dir=cache),
            platforms=["linux-64", "noarch"],
            virtual_packages=[package.into_generic() for package in machine],
        )
        await install_records(records, prefix, cache_dir=cache, show_progress=False)
        return [[r.name.normalized, str(r.version), str(r.build), str(r.url)] for r in records]

    return asyncio.run(go())


SHIM = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
PYTHONPATH="$here/lib/python{minor}/site-packages${{PYTHONPATH:+:$PYTHONPATH}}"
export PYTHONPATH PYTHONNOUSERSITE=1
exec {python} "$@"
"""


def placeholders(channel: str) -> None:
    """A channel that stands in for conda-forge where it cannot be reached.

    Its packages are empty, but for `python`: bin/python runs the interpreter of this process, with
    the prefix's site-packages first: what is installed there finds this interpreter's torch. There
    is one `python` for each minor version, the interpreter is this one in all of them.
    """
    out = Path(channel)
    (out / "noarch").mkdir(parents=True, exist_ok=True)
    for minor in MINORS:
        tag = f"cp{minor.replace('.', '')}"
        shim = SHIM.format(minor=minor, python=sys.executable)
        files = {f"bin/{name}": shim for name in ("python", "python3", f"python{minor}")}
        # pip check is to see this interpreter's torch, and not what that one may lack.
        torch = f"lib/python{minor}/site-packages/torch-2.10.0.dist-info/METADATA"
        files[torch] = "Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n"
        abi = [f"python_abi {minor}.* *_{tag}"]
        _placeholder(out, "python", f"{minor}.0", "h0_0_cpython", depends=abi, files=files)
        pin = [f"python {minor}.* *_cpython"]
        _placeholder(out, "python_abi", minor, f"0_{tag}", constrains=pin)
    pip = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'
    _placeholder(out, "pip", "26.0", depends=["python"], files={"bin/pip": pip})
    _placeholder(out, "numpy", "2.0.0")
    for name, version in (("gin-config", "0.5.0"), ("matplotlib", "3.10.0")):  # for pip check, too
        info = f"site-packages/{name.replace('-', '_')}-{version}.dist-info/METADATA"
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files = {f"lib/python{minor}/{info}": text for minor in MINORS}
        _placeholder(out, name, version, files=files)
    for version, cuda, build in [
        ("2.10.0", ["cuda-version >=13.0,<14"], "cuda130_generic_py311_h0_200"),
        ("2.9.0", ["cuda-version >=13.0,<14"], "cuda130_generic_py311_h0_200"),
        ("2.10.0", ["cuda-version >=12.9,<13"], "cuda129_generic_py311_h0_200"),
        ("2.10.0", [], "cpu_generic_py311_h0_0"),
    ]:
        _placeholder(out, "pytorch", version, build, depends=["python", *cuda])
    for version in ("12.9", "13.0", "13.1"):
        _placeholder(out, "cuda-version", version, constrains=[f"__cuda >={version.split('.')[0]}"])
    index(channel)


def _placeholder(
    channel: Path,
    name: str,
    version: str,
    build: str = "h0_0",
    depends: list[str] | None = None,
    constrains: list[str] | None = None,
    files: dict[str, str] | None = None,
) -> None:
    from rattler_build import assemble_package

    with tempfile.TemporaryDirectory() as folder:
        for place, text in {f"share/{name}/placeholder": "", **(files or {})}.items():
            path = Path(folder, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if place.startswith("bin/") else 0o644)
        out = channel / "linux-64"
        out.mkdir(exist_ok=True)
        assemble_package(
            name=name,
            version=version,
            target_platform="linux-64",
            build_string=build,
            output_dir=out,
            files_dir=Path(folder),
            depends=depends or [],
            constrains=constrains or [],
            timestamp=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
            compression_level=1,
            detect_prefix=False,
            license="LicenseRef-placeholder",
            summary="an empty package for tests",
        )


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step for step in (build, index, install, lint, placeholders)
}

if __name__ == "__main__":
    code = 0
    try:
        print(json.dumps(STEPS[sys.argv[1]](*sys.argv[2:])))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process ends below
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
