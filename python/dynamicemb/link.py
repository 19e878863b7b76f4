"""What passes between the ranks of a process group: all-to-alls, who failed, how many bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.utils._python_dispatch import TorchDispatchMode

from dynamicemb.host_copy import leaving

LAST_WORDS = 5.0  # seconds that a rank waits for the reports of the others after a failure


class Link:
    """A process group as the exchange uses it.

    A collective that fails is an error that names the ranks which did not take part: each rank that
    is stuck says so in the group's store, and whoever says nothing is to blame.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.world: int = dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("dynamicemb: process_group does not hold this rank")
        self.timeout = _timeout(group)
        self._asked: tuple[Tensor, Any, int] | None = None
        self._store = c10d.PrefixStore("dynamicemb", c10d._get_process_group_store(group))

    def all_to_all(
        self,
        given: Tensor,
        received: Sequence[int] | None,
        sent: Sequence[int] | None,
        into: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Starts an exchange of rows: what will come, and what to ``wait`` for.

        Args:
            given: (sum of sent, ...), rank by rank; its shape and dtype but for the first size are
                the same on all ranks.
            received, sent: rows from and to each rank; None: equal parts.
            into: what will hold them; default: a new tensor.
        """
        rows = given.shape[0] if received is None else sum(received)
        made = given.new_empty((rows, *given.shape[1:])) if into is None else into
        with self._blamed():
            work = dist.all_to_all_single(
                made,
                given.contiguous(),
                None if received is None else list(received),
                None if sent is None else list(sent),
                group=self.group,
                async_op=True,
            )
        return made, (work, given)

    def wait(self, work: Any) -> None:
        with self._blamed():
            work[0].wait()

    def on_host(self, given: Tensor) -> Any:
        """The values of a tensor that other ranks have a part in."""
        if given.device.type == "cpu":
            return given.tolist()
        there, event = leaving(given)
        end = time.monotonic() + self.timeout
        while not event.query():
            if time.monotonic() > end:
                raise _Stuck(f"dynamicemb: {self._blame()} (no answer in {self.timeout:g} s)")
        return there.tolist()

    def look_at(self, most: Tensor, limit: int) -> None:
        """Raises where a rank asked another for more keys than the limit: now on the CPU, in the
        next step on a GPU, which is not waited for."""
        self._look(wait=False)
        if most.device.type == "cpu":
            self._asked = most, None, limit
        else:
            self._asked = (*leaving(most), limit)
        self._look(wait=most.device.type == "cpu")

    def _look(self, wait: bool) -> None:
        asked = self._asked
        if asked is None or not (wait or asked[1] is None or asked[1].query()):
            return
        self._asked = None
        for rank, (most, whom) in enumerate(asked[0].tolist()):
            if most > asked[2]:
                raise ValueError(
                    f"dynamicemb: rank {rank} asks rank {whom} for {most} keys, "
                    f"max_keys_per_rank is {asked[2]}; nothing of that step was updated"
                )

    def gathered(self, given: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(given) for _ in range(self.world)]
        with self._blamed():
            dist.all_gather(parts, given, group=self.group)
        return parts

    def rows(self, given: Tensor) -> Tensor:
        """Those of all ranks, one rank after the other, on the CPU."""
        where = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        sizes = [int(n) for n in self.gathered(torch.tensor([len(given)], device=where))]
        mine = given.new_zeros((max(sizes), *given.shape[1:]), device=where)
        mine[: len(given)] = given
        return torch.cat(
            [part[:n].cpu() for part, n in zip(self.gathered(mine), sizes, strict=True)]
        )

    def objects(self, given: Any) -> list[Any]:
        parts: list[Any] = [None] * self.world
        with self._blamed():
            dist.all_gather_object(parts, given, group=self.group)
        return parts

    @contextlib.contextmanager
    def failing(self, where: str) -> Iterator[None]:
        """What is raised within is told to the other ranks, for their errors to say."""
        try:
            yield
        except _Stuck:
            raise
        except Exception as error:
            with contextlib.suppress(Exception):
                text = f"{type(error).__name__} in its {where}: {error}"
                self._store.set(f"failed/{self.rank}", text)
            raise

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise _Stuck(f"dynamicemb: {self._blame()} ({error})") from error

    def _blame(self) -> str:
        others = [r for r in range(self.world) if r != self.rank]
        try:
            self._store.set(f"stuck/{self.rank}", "1")
            end = time.monotonic() + LAST_WORDS
            while True:
                silent = [r for r in others if not self._store.check([f"stuck/{r}"])]
                for r in silent:
                    if self._store.check([f"failed/{r}"]):
                        return f"rank {r} failed: {self._store.get(f'failed/{r}').decode()}"
                if not silent or time.monotonic() > end:
                    break
                time.sleep(0.05)
        except (RuntimeError, OSError):
            return "rank 0 failed: it keeps the group's store, which does not answer"
        if not silent:
            return f"an exchange of rank {self.rank} failed, and no rank is silent"
        return f"rank {', '.join(map(str, silent))} failed: it takes no part in an exchange"


def _timeout(group: Any) -> float:
    """Seconds after which the group's collectives fail."""
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    options = getattr(group._get_backend(torch.device(device)), "options", None)
    given = getattr(options, "_timeout", None) or dist.default_pg_timeout
    return float(given.total_seconds())


class _Stuck(RuntimeError):
    """A collective failed; another rank is to blame."""


def agreed(link: Link, said: Mapping[str, Any], own: int) -> int:
    """Checks that all ranks say the same, by one all-gather; gives rank 0's ``own``.

    Raises:
        ValueError: on every rank, with the first rank and the first thing that differ.
    """
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in said.items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).digest()
    device = "cuda" if dist.get_backend(link.group) == "nccl" else "cpu"
    words = [*torch.frombuffer(bytearray(digest), dtype=torch.int64).tolist(), own]
    every = [part.tolist() for part in link.gathered(torch.tensor(words, device=device))]
    if any(part[:-1] != every[0][:-1] for part in every):
        told = link.objects(texts)
        for rank, other in enumerate(told):
            for name in sorted(set(told[0]) | set(other)):
                if other.get(name) != told[0].get(name):
                    raise ValueError(
                        f"dynamicemb: ranks differ in {name}: rank 0 has {told[0].get(name)}, rank "
                        f"{rank} has {other.get(name)}"
                    )
    return int(every[0][-1])


_SENT = {  # collective -> which argument is handed over; the group is the next
    "alltoall_base_": 1, "alltoall_": 1, "_reduce_scatter_base_": 1, "reduce_scatter_": 1,
    "_allgather_base_": 1, "allgather_": 1, "allreduce_": 0, "broadcast_": 0,
}  # fmt: skip


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _tensors(one)


class LinkBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that this process hands to collectives for other ranks, also TorchRec's.

    Within ``with LinkBytes() as counted:`` ``counted.bytes`` are those of each collective, of
    whatever process group, ``counted.calls`` their number, ``counted.total`` the sum of bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: dict[str, int] = {}
        self.calls: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        namespace, _, name = str(func).partition(".")
        name = name.partition(".")[0]
        if namespace == "c10d" and name in _SENT:
            self.bytes[name] = self.bytes.get(name, 0) + self._crossing(name, args)
            self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))

    def _crossing(self, name: str, args: tuple[Any, ...]) -> int:
        group = dist.ProcessGroup.unbox(args[_SENT[name] + 1])
        rank, world = group.rank(), group.size()
        sizes = [t.nbytes for t in _tensors(args[_SENT[name]])]
        total = sum(sizes)
        if name == "alltoall_base_" and args[4]:
            rows = sum(args[4])
            return total - (total // rows * args[4][rank] if rows else 0)
        if name == "alltoall_":
            return total - sizes[rank]
        if name in ("alltoall_base_", "_reduce_scatter_base_", "reduce_scatter_"):
            return total * (world - 1) // world
        return total * (world - 1)
