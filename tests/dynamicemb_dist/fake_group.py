"""Many ranks in one process: threads, and what passes between them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Meeting:
    """Where the ranks of a fake group lay down what they give. As many threads run at a time as
    there are cores, so that a thousand do not fight for them."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.given: dict[int, dict[Any, Any]] = {}  # number of the call -> rank -> what it gives
        self.taken: dict[int, int] = {}
        self.changed = threading.Condition()
        self.cores = threading.Semaphore(len(os.sched_getaffinity(0)))
        self.failed: list[BaseException] = []

    def run(self, work: Callable[[FakeLink], Any]) -> list[Any]:
        """``work`` of each rank."""
        results: list[Any] = [None] * self.world

        def one(rank: int) -> None:
            with self.cores:
                try:
                    results[rank] = work(FakeLink(self, rank))
                except BaseException as error:  # noqa: BLE001 - raised below
                    self.failed.append(error)
                    with self.changed:
                        self.changed.notify_all()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed:
            raise self.failed[0]
        return results

    def give(self, number: int, rank: int, what: Any) -> None:
        with self.changed:
            found = self.given.setdefault(number, {})
            found[rank] = what
            if len(found) == self.world:
                self.changed.notify_all()

    def of_all(self, number: int, made: Callable[[list[Any]], Any]) -> Any:
        """``made`` of what every rank gives in this call; waits for those that have not."""
        found = self.given[number]
        self.cores.release()
        with self.changed:
            self.changed.wait_for(lambda: self.failed or len(found) >= self.world)
            if not self.failed and "made" not in found:
                found["made"] = made([found[rank] for rank in range(self.world)])
        self.cores.acquire()
        if self.failed:
            raise RuntimeError("another rank failed")
        return found["made"]

    def done(self, number: int) -> None:
        with self.changed:
            self.taken[number] = self.taken.get(number, 0) + 1
            if self.taken[number] == self.world:
                del self.given[number], self.taken[number]


class FakeLink:
    """``dynamicemb.link.Link`` without processes."""

    group = None
    timeout = 0.0

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.world = meeting, rank, meeting.world
        self.calls = 0

    def _gave(self, what: Any) -> int:
        self.calls += 1
        self.meeting.give(self.calls, self.rank, what)
        return self.calls

    def all_to_all(
        self, given: Tensor, received: Sequence[int] | None, sent: Sequence[int] | None
    ) -> tuple[Tensor, Any]:
        equal = len(given) // self.world
        parts = list(sent) if sent is not None else [equal] * self.world
        rows = len(given) if received is None else sum(received)
        made = given.new_empty((rows, *given.shape[1:]))
        return made, (made, self._gave((given, parts)))

    def wait(self, work: Any) -> None:
        made, number = work
        made.copy_(self.meeting.of_all(number, _transposed)[self.rank])
        self.meeting.done(number)

    def on_host(self, given: Tensor) -> Any:
        return given.tolist()

    def gathered(self, given: Tensor) -> list[Tensor]:
        number = self._gave(given)
        found: list[Any] = self.meeting.of_all(number, list)
        self.meeting.done(number)
        return found

    def objects(self, given: Any) -> list[Any]:
        return self.gathered(given)

    @contextlib.contextmanager
    def failing(self, where: str) -> Iterator[None]:
        yield


def _transposed(given: list[tuple[Tensor, list[int]]]) -> tuple[Tensor, ...]:
    """What each rank gets, of what each gives to each."""
    sizes = torch.tensor([parts for _, parts in given])
    begins = sizes.flatten().cumsum(0).view(sizes.shape) - sizes
    to, begins = sizes.t().reshape(-1), begins.t().reshape(-1)
    order = torch.repeat_interleave(begins - (to.cumsum(0) - to), to) + torch.arange(int(to.sum()))
    every = torch.cat([tensor[: sum(parts)] for tensor, parts in given])
    return every[order].split(sizes.sum(0).tolist())
