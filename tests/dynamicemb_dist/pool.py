"""Processes that are started once and serve as the ranks of every group that a test asks for."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 20  # seconds, of a collective


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def join(rank: int, world: int, port: int, timeout: float = TIMEOUT) -> None:
    """Makes this process a rank of a gloo group of this machine."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=timeout), world, rank
    )


def _serve(rank: int, world: int, port: int, timeout: float, pipe: Any) -> None:
    join(rank, world, port, timeout)
    limit = timedelta(seconds=timeout)
    groups = {w: dist.new_group(range(w), limit) for w in range(1, world + 1)}
    pipe.send("ready")
    while (call := pipe.recv()) is not None:
        function, size, arguments = call
        try:
            pipe.send((True, function(groups[size], *arguments)))
        except Exception as error:  # noqa: BLE001 - the test decides what it means
            pipe.send((False, (f"{type(error).__name__}: {error}", traceback.format_exc())))


class Pool:
    """``world`` processes; a function runs on the first W of them, as a group of W."""

    def __init__(self, world: int, preload: list[str], timeout: float = TIMEOUT) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(preload)
        port = free_port()
        self.pipes: list[Any] = []
        self.processes = []
        for rank in range(world):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world, port, timeout, there), daemon=True
            )
            process.start()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            assert pipe.poll(120), "a process of the pool does not start"
            assert pipe.recv() == "ready"

    def both(self, function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
        """(went well, result or (error, traceback)) of each rank."""
        for pipe in self.pipes[:size]:
            pipe.send((function, size, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes[:size]):
            assert pipe.poll(120), f"rank {rank} of {size} does not answer"
            answers.append(pipe.recv())
        return answers

    def run(self, function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
        """``function(group, *arguments)`` of each rank."""
        answers = self.both(function, size, *arguments)
        for well, said in answers:
            assert well, said[1]
        return [said for _, said in answers]

    def errors(self, function: Callable[..., Any], size: int, *arguments: Any) -> list[str]:
        """What each rank raises."""
        answers = self.both(function, size, *arguments)
        assert not any(well for well, _ in answers), "a rank raises nothing"
        return [said[0] for _, said in answers]

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
