"""What of the collection is installed, and whether it fits together."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import TextIO

NAME = "accelerated-modules"


def _requirements() -> dict[str, str]:
    """Distribution name -> version specifier, of what this package depends on."""
    found = {}
    for requirement in metadata.requires(NAME) or []:
        match = re.fullmatch(r"([\w.-]+)\s*\(?([<>=!~][^;)]*)?\)?", requirement)
        if match:
            found[match[1]] = (match[2] or "").strip()
    return found


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.match(r"\d+(\.\d+)*", version)[0].split("."))  # type: ignore[index]


def _fits(installed: str, wanted: str) -> bool:
    if wanted.startswith("=="):
        return installed == wanted[2:]
    if wanted.startswith(">="):
        return _release(installed) >= _release(wanted[2:])
    return True


def problems() -> list[str]:
    """One sentence for each package that is missing or of the wrong version; [] if all is well.

    Reads package metadata alone and imports nothing.
    """
    own = metadata.version(NAME)
    found = []
    for name, wanted in _requirements().items():
        installed = _installed(name)
        mend = f"pip install --force-reinstall --no-deps {name}{wanted}"
        if name == "torch":
            mend = f"pip install 'torch{wanted}'"
        if installed is None:
            found.append(f"{NAME} {own} needs {name}{wanted}, which is not installed: {mend}")
        elif not _fits(installed, wanted):
            found.append(f"{NAME} {own} needs {name}{wanted}, {installed} is installed: {mend}")
    return found


def _torch_lines() -> list[str]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken torch is what the report is for
        return [f"torch        does not import: {type(error).__name__}: {error}"]
    lines = [f"torch        {torch.__version__}, CUDA {torch.version.cuda or 'none'}"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            lines.append(f"GPU {index}        {name}, compute capability {major}.{minor}")
    else:
        lines.append("GPU          none is visible to PyTorch")
    return lines


def _own_report(module: str) -> tuple[bool, str]:
    """What ``python -m module`` prints; in a process of its own, as a broken library may crash."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode == 0, done.stdout.rstrip()


def show_versions(file: TextIO | None = None) -> bool:
    """Prints what is installed, for a bug report: the machine, PyTorch, each package's own report.

    Args:
        file: where to; standard output if None.

    Returns:
        True if every package is there, at the right version, and imports.
    """
    out = sys.stdout if file is None else file
    wrong = problems()
    libc, libc_version = platform.libc_ver()
    print(f"{NAME} {metadata.version(NAME)}", file=out)
    print(f"Python       {platform.python_version()} ({sys.executable})", file=out)
    print(f"system       {platform.platform()}, {libc} {libc_version}", file=out)
    for line in _torch_lines():
        print(line, file=out)
    for name in _requirements():
        if name == "torch" or _installed(name) is None:
            continue
        good, said = _own_report(name.replace("-", "_"))
        print(f"\n{name} {_installed(name)}", file=out)
        print("\n".join(f"    {line}" for line in said.splitlines()), file=out)
        if not good:
            wrong.append(f"python -m {name.replace('-', '_')} fails; its last line says why")
    for sentence in wrong:
        print(f"\nPROBLEM: {sentence}", file=out)
    return not wrong
