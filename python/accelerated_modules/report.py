"""What of the collection is installed, and whether it fits together."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import TextIO

from accelerated_modules._core.report import line, torch_lines

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


def _mend(name: str, wanted: str) -> str:
    """The command of the installer that brought this package."""
    if (metadata.distribution(NAME).read_text("INSTALLER") or "").strip() == "conda":
        return f"conda install '{'pytorch' if name == 'torch' else name}{wanted}'"
    if name == "torch":
        return f"pip install 'torch{wanted}'"
    return f"pip install --force-reinstall --no-deps {name}{wanted}"


def problems() -> list[str]:
    """One sentence for each package that is missing or of the wrong version; [] if all is well.

    Reads package metadata alone and imports nothing.
    """
    own = metadata.version(NAME)
    found = []
    for name, wanted in _requirements().items():
        installed = _installed(name)
        mend = _mend(name, wanted)
        if installed is None:
            found.append(f"{NAME} {own} needs {name}{wanted}, which is not installed: {mend}")
        elif not _fits(installed, wanted):
            found.append(f"{NAME} {own} needs {name}{wanted}, {installed} is installed: {mend}")
    return found


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
    print(line("Python", f"{platform.python_version()} ({sys.executable})"), file=out)
    print(line("system", f"{platform.platform()}, {libc} {libc_version}"), file=out)
    for text in torch_lines(lambda name, c: f"{name}, compute capability {c[0]}.{c[1]}"):
        print(text, file=out)
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
