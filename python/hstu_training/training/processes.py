"""The processes of a run: who they are, and what they agree on."""

from __future__ import annotations

import datetime
import os
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = datetime.timedelta(minutes=10)


class Processes:
    """This process among those that torchrun started; alone without it.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl, and gloo for numbers of the host).
    """

    def __init__(self, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = torch.device(device)
        self.host: Any = None  # a group for numbers of the host
        self.started = False
        if device == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local)
            self.device = torch.device("cuda", local)
        if self.world > 1:
            self.begin()
            self.host = dist.new_group(backend="gloo", timeout=TIMEOUT)

    def begin(self) -> None:
        """The default process group, of one process, too, if somebody needs it."""
        if not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            given: dict[str, Any] = {}
            if self.world == 1:
                stores: Any = dist
                given = {"store": stores.HashStore(), "rank": 0, "world_size": 1}
            dist.init_process_group(backend, timeout=TIMEOUT, **given)
            self.started = True

    def end(self) -> None:
        if self.started and dist.is_initialized():
            dist.destroy_process_group()

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(self.host)

    def from_first(self, value: Any) -> Any:
        """What the first process has."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, 0, self.host)
        return values[0]

    def all(self, value: Any) -> list[Any]:
        """What every process has, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value, self.host)
        return values

    def any(self, value: bool) -> bool:
        return any(self.all(value))


class StopFlag:
    """SIGTERM, as all processes see it: after the same step.

    Each step begins an all-reduce of "was I told to stop" and reads that of the step before, so no
    process waits for another, nor for its GPU.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.told = False
        self._waiting: tuple[torch.Tensor, Any] | None = None
        self._before = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def after_step(self) -> bool:
        """Whether all stop now."""
        if self.processes.world == 1:
            return self.told
        stop = False
        if self._waiting is not None:
            number, work = self._waiting
            work.wait()
            stop = bool(number.item())
        flag = torch.tensor([int(self.told)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, self.processes.host, async_op=True)
        self._waiting = (flag, work)
        if stop:
            work.wait()
        return stop

    def restore(self) -> None:
        if self._waiting is not None:
            self._waiting[1].wait()
            self._waiting = None
        signal.signal(signal.SIGTERM, self._before)
