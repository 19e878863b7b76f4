"""Conda packages from the wheels of a release, by recipe/recipe.yaml, the same bytes every time."""

from __future__ import annotations

import calendar
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from backports import zstd

from tools.release import conda_step
from tools.release.refused import Refused

# Another level is other bytes. 9: a fifth of the time of rattler-build's own 15 for 2 % more bytes.
ZSTD_LEVEL = 9


def step(name: str, *args: object, **env: str) -> Any:
    """Runs one step of conda_step.py in its own process and returns its result."""
    command = [sys.executable, conda_step.__file__, name, *map(str, args)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise Refused(f"conda {name} failed: {done.stderr.strip()}\n{tail}".rstrip())
    return json.loads(done.stdout.splitlines()[-1])


def build(
    recipe: Path, wheels: Path, version: str, date: str, out: Path, test: bool = True
) -> list[Path]:
    """Builds every output of the recipe from the wheels in a folder, into out/<subdir>/*.conda.

    With `test`, each package's own tests run in a fresh prefix beside placeholders of python and
    pytorch. Nothing is fetched.
    """
    env = {"ACCEL_DIST": str(wheels.resolve()), "ACCEL_VERSION": version}
    # The tests are of the package, whatever this machine has: it is told to have a driver.
    env |= {"CONDA_OVERRIDE_CUDA": "13.0", "CONDA_OVERRIDE_GLIBC": "2.28"}
    epoch = calendar.timegm(time.strptime(date, "%Y-%m-%d"))
    with tempfile.TemporaryDirectory() as temporary:
        env["RATTLER_CACHE_DIR"] = str(Path(temporary, "cache"))
        channel, built = Path(temporary, "placeholders"), Path(temporary, "built")
        built.mkdir()
        step("placeholders", channel)
        strategy = "native" if test else "skip"
        packages = step("build", recipe.resolve(), built, strategy, channel.as_uri(), **env)
        written = []
        for package in map(Path, packages):
            target = out / package.parent.name / package.name
            target.parent.mkdir(parents=True, exist_ok=True)
            normalise(package, target, epoch)
            written.append(target)
    return sorted(written)


def normalise(source: Path, target: Path, epoch: int, level: int = ZSTD_LEVEL) -> None:
    """Rewrites a .conda so that it depends on its contents alone.

    rattler-build 0.73 writes the clock into info/index.json, the tar and the zip entries, and the
    channels that it was built with into info/about.json.
    """
    stamp = time.gmtime(epoch)[:6]
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, data in parts.items():
        if name.endswith(".tar.zst"):
            parts[name] = zstd.compress(_tar(zstd.decompress(data), epoch), level=level)
    # metadata.json first and info- last, as the format asks.
    order = sorted(parts, key=lambda n: (n != "metadata.json", n.startswith("info-"), n))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in order:
            info = zipfile.ZipInfo(name, stamp)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, parts[name])


def _tar(data: bytes, epoch: int) -> bytes:
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda m: m.name):
            info = tarfile.TarInfo(member.name)
            info.mtime = epoch
            info.type, info.linkname = member.type, member.linkname
            info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            file = source.extractfile(member) if member.isreg() else None
            text = file.read() if file else b""
            if member.name == "info/index.json":
                text = _json({**json.loads(text), "timestamp": epoch * 1000})
            elif member.name == "info/about.json":
                text = _json({k: v for k, v in json.loads(text).items() if k != "channels"})
            info.size = len(text)
            target.addfile(info, io.BytesIO(text))
    return out.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


def contents(package: Path) -> dict[str, bytes]:
    """Every regular file in a .conda: info/... and the payload."""
    files = {}
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".tar.zst"):
                data = io.BytesIO(zstd.decompress(archive.read(name)))
                with tarfile.open(fileobj=data) as tar:
                    for member in tar:
                        if file := tar.extractfile(member):
                            files[member.name] = file.read()
    return files
