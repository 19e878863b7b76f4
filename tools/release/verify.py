"""tools/bazel run //tools/release:verify -- DIST: rebuilds a release and compares it bit by bit.

The wheels of the present tree serve if DIST names its commit and flags and nothing is changed in
it; otherwise, and with --fresh, the commit is checked out into a new folder and built there from
nothing, with the flags that DIST names, in an output base of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.release import distribution
from tools.release.distribution import PROVENANCE, SUMS
from tools.release.refused import Refused

# No other flag of a provenance reaches Bazel: DIST may be forged.
FLAGS = (
    "--compilation_mode=",
    "--config=hostcc",
    "--copt=",
    "--cxxopt=",
    "--linkopt=",
    "--//",
)


def check_sums(dist: Path) -> None:
    """SHA256SUMS lists every file and its true hash."""
    if not (dist / SUMS).is_file():
        raise Refused(f"{dist} has no {SUMS}: not a release")
    sums = dict(line.split("  ", 1)[::-1] for line in (dist / SUMS).read_text().splitlines())
    files = distribution.files_of(dist).keys() - {SUMS}
    if missing := sorted(sums.keys() - files):
        raise Refused(f"{missing[0]}: missing, {SUMS} lists it")
    if extra := sorted(files - sums.keys()):
        raise Refused(f"{extra[0]}: not listed in {SUMS}")
    for name, digest in sums.items():
        if distribution.sha256(dist / name) != digest:
            raise Refused(f"{name}: altered, its sha256 is not the one in {SUMS}")


def claims(dist: Path) -> tuple[distribution.Source, list[str]]:
    """The source and the flags that the provenance names."""
    try:
        statement: dict[str, Any] = json.loads((dist / PROVENANCE).read_text())
        claimed = statement["predicate"]["buildDefinition"]["externalParameters"]
        source = claimed["source"]
        found = distribution.Source(source["gitCommit"], source["uncommittedChanges"])
        flags = [str(flag) for flag in claimed["flags"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(f"{dist / PROVENANCE} names no source commit: not a release") from None
    if found.dirty:
        raise Refused(f"{dist} was made from uncommitted changes: nobody can rebuild it")
    if strange := [flag for flag in flags if not flag.startswith(FLAGS)]:
        raise Refused(f"{dist / PROVENANCE} has a flag that no release has: {strange[0]}")
    return found, flags


def rebuild_fresh(workspace: Path, commit: str, flags: list[str], scratch: Path, out: Path) -> None:
    """Checks the commit out and releases from it, with no output of any earlier build at hand."""
    checkout = scratch / "checkout"
    distribution.git(workspace, "clone", "-q", "--no-checkout", "--", str(workspace), str(checkout))
    distribution.git(checkout, "checkout", "-q", "--detach", commit)
    bazel = ["tools/bazel", f"--output_base={scratch / 'output_base'}", "--max_idle_secs=5"]
    command = [*bazel, "run", *flags, "//:release", "--", "--no-example", f"--out={out}"]
    if subprocess.run(command, cwd=checkout).returncode:
        raise Refused(f"{commit} does not build in {checkout}; see above")
    subprocess.run([*bazel, "shutdown"], cwd=checkout)


def main() -> None:
    parser = distribution.parser(__doc__)
    parser.add_argument("dist", type=Path, metavar="DIST")
    parser.add_argument("--fresh", action="store_true", help="always rebuild in a new checkout")
    parser.add_argument("--scratch", type=Path, help="where the fresh checkout goes and stays")
    args = parser.parse_args()

    dist = distribution.user_path(args.dist)
    workspace = distribution.workspace()
    check_sums(dist)
    claimed, flags = claims(dist)
    facts = distribution.load_facts(args.facts, workspace)
    same = distribution.source(workspace, allow_dirty=True) == claimed and facts["flags"] == flags
    with tempfile.TemporaryDirectory() as temporary:
        ours = Path(temporary, "dist")
        if same and not args.fresh:
            how = "this checkout"
            ours.mkdir()
            distribution.write_distribution(ours, args.wheels, facts, claimed, args.recipe)
        else:
            how = "a fresh checkout"
            scratch = distribution.user_path(args.scratch) if args.scratch else Path(temporary)
            rebuild_fresh(workspace, claimed.commit, flags, scratch, ours)
        lines = distribution.differences(distribution.files_of(ours), distribution.files_of(dist))
    if lines:
        raise Refused(f"{dist} is not what {how} of {claimed.commit} gives:\n" + "\n".join(lines))
    print(f"{dist}: every byte is what {how} of {claimed.commit} gives")


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        sys.exit(f"verify: {reason}")
