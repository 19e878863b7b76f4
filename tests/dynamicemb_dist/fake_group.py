"""Many ranks in one process: threads that take turns, and what passes between them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Meeting:
    """Where the ranks of a fake group lay down what they give. One thread runs at a time, in the
    order of ranks, so that a thousand do not fight for two cores."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.given: dict[int, dict[Any, Any]] = {}  # number of the call -> rank -> what it gives
        self.taken: dict[int, int] = {}
        self.turns = [threading.Semaphore(0) for _ in range(world)]
        self.failed: list[BaseException] = []

    def run(self, work: Callable[[FakeLink], Any]) -> list[Any]:
        """``work`` of each rank."""
        results: list[Any] = [None] * self.world

        def one(rank: int) -> None:
            self.turns[rank].acquire()
            try:
                if not self.failed:
                    results[rank] = work(FakeLink(self, rank))
            except BaseException as error:  # noqa: BLE001 - raised below
                self.failed.append(error)
            self._next(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        self.turns[0].release()
        for thread in threads:
            thread.join()
        if self.failed:
            raise self.failed[0]
        return results

    def _next(self, rank: int) -> None:
        self.turns[(rank + 1) % self.world].release()

    def give(self, number: int, rank: int, what: Any) -> None:
        self.given.setdefault(number, {})[rank] = what

    def of_all(self, number: int, rank: int) -> dict[Any, Any]:
        """What every rank gives in this call; waits for those that have not."""
        while len(self.given[number]) < self.world:
            self._next(rank)
            self.turns[rank].acquire()
            if self.failed:
                raise RuntimeError("another rank failed")
        return self.given[number]

    def done(self, number: int) -> None:
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
        every = self.meeting.of_all(number, self.rank)
        if "came" not in every:
            every["came"] = _transposed([every[rank] for rank in range(self.world)])
        made.copy_(every["came"][self.rank])
        self.meeting.done(number)

    def on_host(self, given: Tensor) -> Any:
        return given.tolist()

    def gathered(self, given: Tensor) -> list[Tensor]:
        number = self._gave(given)
        every = self.meeting.of_all(number, self.rank)
        found = [every[rank] for rank in range(self.world)]
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
