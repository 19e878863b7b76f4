"""Training programs in forks of the test's process, which has imported them: an import of PyTorch
takes longer than these runs."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401 - before a fork
import torch._dynamo  # noqa: F401 - before a fork: an optimizer imports it
from hstu_training.training import build, command, trainer  # noqa: F401 - before a fork

from tests.hstu_training.runs import Program, free_port


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A program that runs, in ``program.world`` processes.

    Args:
        program: what.
        prepare: called in each process before it.
    """

    def __init__(self, program: Program, prepare: Callable[[], object] = int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        world, port = program.world, free_port()
        ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
                 "LOCAL_WORLD_SIZE": str(world)}  # fmt: skip
        self.pids = []
        for rank in range(world):
            pid = os.fork()
            if not pid:
                if world > 1:
                    os.environ.update(ranks | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
                self._become(program, prepare)
            self.pids.append(pid)

    def _become(self, program: Program, prepare: Callable[[], object]) -> None:
        status = 1
        try:
            for number in (1, 2):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                os.dup2(os.open(self._file(number), flags), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
            prepare()
            status = command.run(program.task, program.arguments)
        finally:
            if sys.exc_info()[0]:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _file(self, number: int) -> Path:
        return Path(self.folder.name, str(number))

    def said(self, number: int = 1) -> str:
        """What it has written so far."""
        return self._file(number).read_text() if self._file(number).exists() else ""

    def begun(self) -> bool:
        """Waits for the first line of progress; False: it ended without one."""
        while not re.search("^(\\[|resumed)", self.said(), re.MULTILINE):
            if os.waitid(os.P_PID, self.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.01)
        return True

    def send(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def wait(self) -> Done:
        """Until all have ended; the status is the first that is not 0."""
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        done = Done(next(filter(None, ends), 0), self.said(1), self.said(2))
        self.folder.cleanup()
        return done


def run(program: Program, prepare: Callable[[], object] = int) -> Done:
    return Forked(program, prepare).wait()


def killed(start: Callable[[Path], Program], folder: Path, kills: int) -> list[Path]:
    """Kills runs at random moments, so often in all, and starts each anew where it was.

    Args:
        start: the program that saves into a folder and goes on from there.
        folder: for folders.

    Returns:
        those of the runs that came to their end.
    """
    draw, done, ended = random.Random(4), 0, [folder / "0"]
    while done < kills:
        one = Forked(start(ended[-1]))
        one.begun()
        time.sleep(draw.uniform(0, 0.6))
        one.send(signal.SIGKILL)  # of one that has ended nobody takes note
        last = one.wait()
        if last.returncode == -signal.SIGKILL:
            done += 1
        else:
            assert last.returncode == 0, last.stderr
            ended.append(folder / str(len(ended)))
    last = run(start(ended[-1]))
    assert last.returncode == 0, last.stderr
    return ended
