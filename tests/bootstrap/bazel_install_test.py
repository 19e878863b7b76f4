"""The install of Bazel into the cache folder: whole or not there, and one line when it fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

Machine = Any  # the fixture's class, in conftest.py

WAITING = 'touch "$MACHINE/waiting"; sleep 60'


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def test_the_first_call_installs_and_the_next_one_fetches_nothing(machine: Machine) -> None:
    machine.can_install()
    first = machine.bazel("build", "a b")
    assert first.returncode == 0
    (prefix,) = machine.installed()
    assert first.stdout == f"<--nosystem_rc><--bazelrc={prefix}/etc/bazelrc><build><a b>"
    steps = [line.split()[1] for line in first.stderr.splitlines()]
    assert steps == [f"[{number}/6]" for number in range(1, 7)]
    second = machine.bazel("build", "a b")
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert machine.apt_calls("update") == 1


def test_no_file_of_an_install_names_the_staging_folder(machine: Machine) -> None:
    machine.can_install()
    machine.bazel("info")
    (prefix,) = machine.installed()
    assert not (prefix / "fetched").exists()
    for path in prefix.rglob("*"):
        assert path.is_dir() or b"staging-" not in path.read_bytes(), path


def test_a_change_of_the_installer_installs_anew(machine: Machine) -> None:
    machine.can_install()
    machine.bazel("info")
    machine.pin("# another pin")
    machine.bazel("info")
    assert machine.apt_calls("update") == 2
    assert len(machine.installed()) == 2


@pytest.mark.parametrize("step", ["update", "install", "download"])
def test_an_install_that_is_killed_leaves_nothing_that_counts_as_done(
    machine: Machine, step: str
) -> None:
    machine.can_install()
    working = (machine.bin / "apt-get").read_text()
    machine.program("apt-get", f'case " $* " in *" {step} "*) {WAITING} ;; esac\n{working}')
    killed = machine.start("info")
    wait_for(machine.root / "waiting")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [path.name.split("-")[0] for path in machine.installed()] == ["staging"]

    machine.program("apt-get", working)
    assert machine.bazel("info").stdout.endswith("<info>")
    assert [path.name.split("-")[0] for path in machine.installed()] == ["bazel"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_install_that_is_interrupted_cleans_up_and_says_so(
    machine: Machine, number: signal.Signals
) -> None:
    machine.can_install()
    machine.program("apt-get", WAITING)
    stopped = machine.start("info")
    wait_for(machine.root / "waiting")
    os.killpg(stopped.pid, number)
    _, err = stopped.communicate(timeout=30)
    assert stopped.returncode != 0
    assert "tools/bazel: interrupted" in err
    assert "Traceback" not in err
    assert machine.installed() == []


def test_a_folder_without_its_bazel_is_installed_again(machine: Machine) -> None:
    machine.can_install()
    machine.bazel("info")
    (prefix,) = machine.installed()
    shutil.rmtree(prefix / "bin")
    assert machine.bazel("info").stdout.endswith("<info>")


def test_two_calls_at_once_install_once_and_both_go_on(machine: Machine) -> None:
    machine.can_install()
    working = (machine.bin / "apt-get").read_text()
    machine.program("apt-get", f'touch "$MACHINE/waiting"; sleep 0.5\n{working}')
    first = machine.start("info")
    wait_for(machine.root / "waiting")
    second = machine.start("info")
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [out.endswith("<info>") for out, _ in outputs] == [True, True]
    assert outputs[1][1] == "tools/bazel: waiting for another install of Bazel to end\n"
    assert machine.apt_calls("update") == 1


def test_no_pip_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.program("python3", f'unset PYTHONPATH; exec "{sys.executable}" -S "$@"')
    assert "has no pip: install it" in machine.refusal()


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb"])
def test_a_machine_without_apt_is_refused_in_one_line(machine: Machine, tool: str) -> None:
    machine.can_install()
    (machine.bin / tool).unlink()
    assert f"no {tool} on the PATH: put bazel 7.7.1 or bazelisk" in machine.refusal()


def test_apt_without_a_network_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.program(
        "apt-get",
        "echo 'W: Failed to fetch InRelease  Temporary failure resolving the host' >&2\n"
        "echo 'E: Some index files failed to download.' >&2; exit 100",
    )
    line = machine.refusal()
    assert "Temporary failure resolving the host" in line
    assert "see that the network and the machine's Debian mirror answer" in line
    assert machine.installed() == []


@pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="this Python has no pip")
class TestRealPip:
    """What pip itself says, without any index to ask."""

    def with_folder(self, machine: Machine) -> Path:
        machine.can_install()
        del machine.env["PYTHONPATH"]
        folder: Path = machine.root / "find-links"
        folder.mkdir()
        machine.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
        machine.pin(f'WHEELS = {{"thing==1.0": "{"ab" * 32}"}}')
        return folder

    def test_pip_without_an_index_is_refused_in_one_line(self, machine: Machine) -> None:
        self.with_folder(machine)
        line = machine.refusal()
        assert "pip cannot fetch thing==1.0" in line
        assert "see that the network and pip's package index answer" in line
        assert machine.installed() == []

    def test_a_wrong_hash_names_the_package_and_both_hashes(self, machine: Machine) -> None:
        folder = self.with_folder(machine)
        with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("thing.py", "")
        found = subprocess.run(
            ["sha256sum", *folder.iterdir()], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        line = machine.refusal()
        assert "thing==1.0" in line
        assert "ab" * 32 in line
        assert found in line
        assert machine.installed() == []


def test_a_suite_that_moved_to_another_bazel_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.program("apt-get", 'echo "Inst bazel-bootstrap (7.7.10-1 Debian:testing [amd64])"')
    line = machine.refusal()
    assert "carries Bazel 7.7.10-1, .bazelversion wants 7.7.1" in line
    assert "put bazel 7.7.1 or bazelisk on the PATH" in line


def test_too_little_free_space_is_refused_before_anything_is_fetched(machine: Machine) -> None:
    machine.can_install()
    machine.pin("NEEDED_MB = 10**12")
    line = machine.refusal()
    assert f"is full: make {10**12} MB free there" in line
    assert not (machine.root / "apt-get.log").exists()


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb", "pip"])
def test_a_program_that_runs_out_of_disk_is_refused_in_one_line(
    machine: Machine, tool: str
) -> None:
    """The programs' own words are simulated; the test below fills a real file system."""
    machine.can_install()
    if tool == "pip":
        machine.pip("raise SystemExit('ERROR: [Errno 28] No space left on device')")
    else:
        machine.program(
            tool, "echo 'E: Write error - write (28: No space left on device)' >&2; exit 1"
        )
    assert "is full" in machine.refusal()
    assert machine.installed() == []


def test_a_disk_that_fills_up_during_the_install_is_refused_in_one_line(machine: Machine) -> None:
    """In a tmpfs of 1 MB, where a wheel does not fit once it is unpacked."""
    machine.can_install()
    machine.pin("NEEDED_MB = 0")
    with zipfile.ZipFile(machine.root / "wheels/big.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("big", bytes(4 << 20))
    (machine.home / ".cache").mkdir()
    mount = f'mount -t tmpfs -o size=1M none "{machine.home}/.cache"'
    private = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*private, mount], capture_output=True).returncode != 0:
        pytest.skip("no private tmpfs can be mounted here")
    left = 'ls "$HOME/.cache/accelerated-modules"'
    script = f'{mount}; P=$PATH; PATH={machine.bin}; "{machine.entry}" info; PATH=$P; {left}'
    env = {**machine.env, "PATH": os.environ["PATH"]}
    done = subprocess.run([*private, script], env=env, capture_output=True, text=True)
    assert "is full: make 0 MB free there" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == ["install.lock"]


def test_a_cache_folder_that_cannot_be_written_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.env["XDG_CACHE_HOME"] = "/sys/cache"  # not even root can make a folder there
    line = machine.refusal()
    assert "cannot write to /sys/cache" in line
    assert "set XDG_CACHE_HOME" in line


def test_a_cache_path_that_programs_cannot_hold_is_refused_in_one_line(machine: Machine) -> None:
    machine.can_install()
    machine.env["XDG_CACHE_HOME"] = str(machine.root / "a b")
    assert "set XDG_CACHE_HOME to a path of plain letters" in machine.refusal()


def mirror(machine: Machine, name: str, text: str) -> str:
    """The archive that the installer takes from these apt sources, or its refusal."""
    del machine.env["DEBIAN_MIRROR"]
    etc = machine.root / "apt"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list.d/a-vendor.list").write_text("deb http://vendor.invalid/apt any main\n")
    (etc / name).write_text(text)
    code = "import install, pathlib, sys; print(install.mirror(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, etc],
        cwd=machine.checkout / "tools/bootstrap",
        env=machine.env | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "deb http://a.invalid/debian suite main\n"),
        ("sources.list", "deb [arch=amd64 signed-by=/k] http://a.invalid/debian suite main\n"),
        ("sources.list.d/debian.sources", "Types: deb\nURIs: http://a.invalid/debian\n"),
    ],
)
def test_the_mirror_is_the_one_that_the_machines_own_apt_sources_name(
    machine: Machine, name: str, text: str
) -> None:
    assert mirror(machine, name, text) == "http://a.invalid/debian"


@pytest.mark.parametrize(
    "uris", ["URIs: http://a.invalid/debian-security", "# URIs: http://a/debian"]
)
def test_apt_sources_without_a_debian_archive_are_refused(machine: Machine, uris: str) -> None:
    assert "set DEBIAN_MIRROR" in mirror(machine, "sources.list.d/debian.sources", uris)


@pytest.mark.skipif("BOOTSTRAP_END_TO_END" not in os.environ, reason="BOOTSTRAP_END_TO_END not set")
def test_end_to_end_the_real_install_builds_a_workspace(machine: Machine, tmp_path: Path) -> None:
    """Fetches 150 MB. Set BOOTSTRAP_END_TO_END=1 to run it."""
    host = os.environ | {"HOME": str(machine.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    host.pop("XDG_CACHE_HOME", None)
    machine.env = host
    (machine.checkout / "MODULE.bazel").touch()
    (machine.checkout / "BUILD.bazel").write_text(
        'genrule(name = "g", outs = ["g.txt"], cmd = "echo built > $@")\n'
    )
    root = f"--output_user_root={tmp_path}/out"
    try:
        assert machine.bazel("--version", timeout=300).stdout.strip() == "bazel 7.7.1"
        assert machine.bazel(root, "info", "release", timeout=300).stdout == "release 7.7.1\n"
        done = machine.bazel(root, "build", "//:g", timeout=300)
        assert done.returncode == 0, done.stderr
        assert (machine.checkout / "bazel-bin/g.txt").read_text() == "built\n"
    finally:
        machine.bazel(root, "shutdown")
