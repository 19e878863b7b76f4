"""tools/bazel run //tools:cost [-- --tests=PATTERN]: CPU seconds of the two commands, from cold.

Runs them in an output base of their own, without the machine's ~/.bazelrc and disk cache, and
counts user and system time of every process that they start: Bazel's servers, compilers, tests,
and the builds inside tests. What is fetched first is a line of its own, and so is a build with
nothing to do. A line is printed as soon as it is known, so that a run that is stopped has said
what it knows; with --base=FOLDER what was fetched is kept for the next run.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")


def used() -> float:
    """CPU seconds of all that this process ever started, running or gone."""
    while True:  # servers whose parents are gone are this process's children
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    return gone.ru_utime + gone.ru_stime + sum(map(_running, _descendants()))


def run(command: list[str], root: Path) -> int:
    """Runs a command; servers that end meanwhile are reaped, for which Bazel waits."""
    child = subprocess.Popen(command, cwd=root)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; [] if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _descendants() -> set[int]:
    parents = {int(p): int(s[1]) for p in os.listdir("/proc") if p.isdigit() and (s := _stat(p))}
    found, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {os.getpid()}


def _running(pid: int) -> float:
    """Its own time and that of its children that are gone."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / TICK if fields else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", default="//tests/...", help="what `bazel test` is given")
    parser.add_argument("--jobs", default="2", help="of Bazel")
    parser.add_argument("--base", help="an output base to use and to keep")
    parser.add_argument("--no-release", action="store_true", help="the tests alone")
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])

    # Not below /tmp, which a sandbox hides from the builds inside tests.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with tempfile.TemporaryDirectory(prefix="cost-", dir=cache) as folder:
        bazel = ["tools/bazel", "--nohome_rc", f"--output_base={args.base or folder + '/base'}"]
        flags = ["--symlink_prefix=/", f"--jobs={args.jobs}"]
        # A test that a busy machine makes slow has its cost all the same.
        test = ["test", *flags, "--keep_going", "--test_timeout=1800", args.tests]
        wanted = [args.tests] if args.no_release else [args.tests, "//:release"]
        release = ["run", *flags, "//:release", "--", f"--out={folder}/dist", "--allow-dirty"]
        steps = {
            "fetched, analysed": ["build", *flags, "--nobuild", *wanted],
            f"bazel test {args.tests}": test,
            "bazel run //:release": release,
            "with nothing to do": ["build", *flags, *wanted],
        }
        if args.no_release:
            del steps["bazel run //:release"]
        try:
            if args.base:
                run([*bazel, "clean"], root)
            return _measured(steps, bazel, root)
        finally:
            run([*bazel, "shutdown"], root)
            unlocked = ["chmod", "-R", "u+w", folder]
            subprocess.run(unlocked, check=False, stderr=subprocess.DEVNULL)


def _measured(steps: dict[str, list[str]], bazel: list[str], root: Path) -> int:
    """Prints a line for each step and one for their sum; the greatest exit code."""
    print(f"{'':32}  CPU s  wall s", flush=True)
    worst, first = 0, used()
    for name, words in steps.items():
        before, started = used(), time.monotonic()
        end = " stopped"
        try:
            done = run([*bazel, *words], root)
            worst, end = max(worst, done), " failed" * (done != 0)
        finally:
            wall = time.monotonic() - started
            print(f"{name:32} {used() - before:6.0f}  {wall:6.1f}{end}", flush=True)
    print(f"{'all':32} {used() - first:6.0f}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
