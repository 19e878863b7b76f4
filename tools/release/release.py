"""tools/bazel run //:release -- [--out dist]: everything that a release manager uploads.

Bazel has built the wheels when this starts. It checks the checkout and the changelog, makes conda
packages of the wheels, writes all of it with SHA256SUMS and provenance.json to --out in one step,
and runs the example from the wheels.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.release import distribution
from tools.release.refused import Refused


def run_example(example: Path, dist: Path) -> None:
    """Installs the wheels into a fresh folder, as pip does, and runs the example against them."""
    with tempfile.TemporaryDirectory() as fresh:
        site = Path(fresh, "site")
        wheels = sorted(dist.glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        pip += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(site)]
        subprocess.run(pip + [str(wheel) for wheel in wheels], check=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RUNFILES"))}
        env["PYTHONPATH"] = str(site)
        print(f"\n$ python {example.name}", flush=True)
        if subprocess.run([sys.executable, "-B", example.resolve()], cwd=fresh, env=env).returncode:
            raise Refused(f"{example.name} failed against the wheels in {dist}; see above")


def main() -> None:
    parser = distribution.parser(__doc__)
    parser.add_argument("--example", type=Path, required=True, help="the program to run at the end")
    parser.add_argument("--out", type=Path, help="folder to write; default: dist in the workspace")
    parser.add_argument("--allow-dirty", action="store_true", help="mark the version +dirty")
    parser.add_argument("--no-example", action="store_true", help="do not run the example")
    parser.add_argument("--sign", metavar="COMMAND", help="run COMMAND SHA256SUMS there")
    args = parser.parse_args()

    workspace = distribution.workspace()
    out = distribution.user_path(args.out) if args.out else workspace / "dist"
    distribution.check_outside(workspace, out)
    facts = distribution.load_facts(args.facts, workspace)
    src = distribution.source(workspace, args.allow_dirty)
    changelog = workspace / "CHANGELOG.md"
    distribution.check_changelog(changelog, facts["version"], facts["release_date"])
    with distribution.folder_in_one_step(out) as folder:
        distribution.write_distribution(folder, args.wheels, facts, src, args.recipe)
        if args.sign:
            command = [*shlex.split(args.sign), distribution.SUMS]
            if subprocess.run(command, cwd=folder).returncode:
                raise Refused(f"--sign failed: {shlex.join(command)}")
    print(f"{out}:")
    for name, data in distribution.files_of(out).items():
        print(f"{len(data):>12,}  {name}")
    if not args.no_example:
        run_example(args.example, out)


if __name__ == "__main__":
    try:
        main()
    except Refused as reason:
        sys.exit(f"release: {reason}")
