"""Python in processes of its own, also in ones that are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def environment(first: Path | None = None) -> dict[str, str]:
    """This process's environment; what lies in ``first`` is imported before everything else."""
    path = [str(first)] if first else []
    if "PYTHONPATH" in os.environ:
        path.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def python(
    *arguments: str | Path, first: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter on ``arguments`` (["-c", code], ["-m", module, ...])."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(first) | variables,
    )


def killed(code: str, rounds: int, within: float = 0.1, first: Path | None = None) -> Iterator[int]:
    """Runs ``code`` and kills it (SIGKILL) up to ``within`` seconds after its first line of output.

    Yields the number of each round, for the caller to look at what is left.
    """
    draw = random.Random(rounds)
    for number in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(first)
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline(), f"the code ends before it prints a line: {code}"
            time.sleep(draw.uniform(0, within))
            assert child.poll() is None, f"the code ends before it is killed: {code}"
            child.kill()
        yield number
