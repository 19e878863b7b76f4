"""Batches as a function of (seed, epoch, step): no state, so any step can be asked for first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hstu_training.data.columns import Array, Columns, fail
from hstu_training.data.generated import Generated
from hstu_training.data.shuffler import balanced, even, visible_pairs
from hstu_training.ops.counter import mix


@dataclass(frozen=True)
class Task:
    """How sequences become tokens.

    Args:
        ranking: items and actions by turns, actions are predicted; else items, the next is.
        split: "users", "leave_one_out" or "last".
        history: events that are kept, candidates apart; the most recent ones.
        candidates: events at the end that see the history alone (ranking).
        contexts: contextual features, a token each at the front.
        contextual_mask: contexts see the whole history.
        with_times: times are wanted.
    """

    ranking: bool
    split: str
    history: int
    candidates: int
    contexts: tuple[str, ...]
    contextual_mask: bool = True
    with_times: bool = False

    @property
    def max_tokens(self) -> int:
        """The longest sequence in tokens."""
        events = self.history * (2 if self.ranking else 1)
        return events + self.candidates + len(self.contexts)


@dataclass
class Batch:
    """The sequences of one process in one step, on one device.

    Args:
        features: ids of each table's lookups: contexts (batch), "item" and "action" (events).
        order: (tokens) int64: where each token stands in [contexts ... | items | actions].
        cu, max_len, contexts, targets, cu_targets, max_targets, target_rows: of ``Sequences``.
        read_rows: (outputs) int64: tokens that are predicted from; None: all ``target_rows``.
        labels: (outputs) int64 actions, or next items.
        groups: (outputs) int64 users.
        slots, positions: (tokens) int64: the sequence in the global batch, the place in it.
        times, next_times: (tokens) int64 seconds or None.
        places: (tokens) int64: those that are encoded, all candidates' being the first one's.
        seen: (n) int64 sequence and item pairs in the history, for evaluation (retrieval).
        count: outputs that count; 0 where a process has no sequence and computes a stand-in.
        pairs: visible pairs of the attention, for its cost.
        sequences: how many of the sequences count.
    """

    features: dict[str, Tensor]
    order: Tensor
    cu: Tensor
    max_len: int
    contexts: Tensor | None
    targets: Tensor | None
    cu_targets: Tensor | None
    max_targets: int
    target_rows: Tensor | None
    read_rows: Tensor | None
    labels: Tensor
    groups: Tensor
    slots: Tensor
    positions: Tensor
    times: Tensor | None
    next_times: Tensor | None
    seen: tuple[Tensor, Tensor] | None
    count: int
    pairs: int
    sequences: int
    places: Tensor | None = None

    def map(self, move: Any) -> Batch:
        """The same with every tensor moved."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return move(value)
            if isinstance(value, dict):
                return {key: move(one) for key, one in value.items()}
            if isinstance(value, tuple):
                return tuple(map(move, value))
            return value

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})


def _ranges(begins: Array, lengths: Array) -> Array:
    """[begin, begin + length) of each, one behind the other."""
    starts = np.cumsum(lengths) - lengths
    return np.asarray(np.arange(lengths.sum()) + np.repeat(begins - starts, lengths))


def _sums(lengths: Array) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


class BatchMaker:
    """Makes batches of one data set.

    Args:
        columns: the data.
        task: how it is used.
        part: "train", "valid" or "test".

    Raises:
        DataError: no user is long enough.
    """

    def __init__(self, columns: Columns | Generated, task: Task, part: str) -> None:
        self.columns, self.task, self.part = columns, task, part
        lengths, offsets = columns.lengths(), np.asarray(columns["offsets"][:-1])
        first, last = self._window(lengths)
        users = np.flatnonzero(last - first >= self._shortest(part))
        if task.split == "users":
            eligible = np.flatnonzero(lengths > max(task.candidates, 1))
            cut = int(0.7 * len(eligible))
            users = eligible[:cut] if part == "train" else eligible[cut:]
        if not len(users):
            fail(columns.folder, f"no user has events enough for split={task.split!r}")
        self.users = users
        self.begin, self.length = (offsets + first)[users], (last - first)[users]
        self.candidates = self._candidates(part)

    def _shortest(self, part: str) -> int:
        return 2 if not self.task.ranking else 1 + (0 if part == "train" else 1)

    def _candidates(self, part: str) -> int:
        return 0 if self.task.split == "last" and part == "train" else self.task.candidates

    def _window(self, lengths: Array) -> tuple[Array, Array]:
        """The events [first, last) of each user that this part uses."""
        task, last = self.task, lengths.copy()
        if task.split == "leave_one_out":
            last = lengths - {"train": 2, "valid": 1, "test": 0}[self.part]
        elif task.split == "last":
            last = lengths - (task.candidates if self.part == "train" else 0)
            last = np.where(lengths > task.candidates, last, 0)
        extra = self._candidates(self.part) if task.ranking else 1  # the event that is foretold
        return np.maximum(last - task.history - extra, 0), np.maximum(last, 0)

    def __len__(self) -> int:
        return len(self.users)

    def tokens_of(self, chosen: Array) -> Array:
        """Tokens of each sequence."""
        length = self.length[chosen]
        if not self.task.ranking:
            return length - 1 + len(self.task.contexts)
        candidates = self._targets(length)
        return 2 * (length - candidates) + candidates + len(self.task.contexts)

    def _targets(self, length: Array) -> Array:
        return np.minimum(length - 1, self.candidates) if self.candidates else 0 * length

    def costs(self, chosen: Array) -> Array:
        """The attention's visible pairs of each sequence."""
        targets = self._targets(self.length[chosen]) if self.task.ranking else 0 * chosen
        contexts = len(self.task.contexts) if self.task.contextual_mask else 0
        return visible_pairs(self.tokens_of(chosen), contexts, targets)

    def make(self, chosen: Array, slots: Array, evaluating: bool = False) -> Batch:
        """The batch of some sequences, which stand at ``slots`` of the global batch."""
        count = len(chosen)
        if not count:  # a process without a sequence computes one that counts for nothing
            chosen, slots = np.zeros(1, np.int64), np.zeros(1, np.int64)
        made = (self._ranking if self.task.ranking else self._retrieval)(chosen, slots, evaluating)
        if not count:
            made = replace(made, count=0, sequences=0, pairs=0)
        return made

    def _base(self, chosen: Array, slots: Array, per_event: Array, events: Array) -> dict[str, Any]:
        """What both tasks have: ``per_event`` (sequences) tokens behind the contexts."""
        names = self.task.contexts
        features = {
            name: self.columns[f"context.{name}"][self.users[chosen]] if name != "user_id"
            else self.columns["user_ids"][self.users[chosen]]
            for name in names
        }  # fmt: skip
        features["item"] = self.columns["items"][events]
        lengths = per_event + len(names)
        owner = np.repeat(np.arange(len(chosen)), lengths)
        positions = _ranges(np.zeros_like(lengths), lengths)
        contexts = len(names) if self.task.contextual_mask else 0
        return {
            "features": features, "cu": _sums(lengths), "max_len": int(lengths.max()),
            "contexts": np.full(len(chosen), contexts, np.int32) if contexts else None,
            "targets": None, "cu_targets": None, "max_targets": 0, "target_rows": None,
            "slots": slots[owner], "positions": positions, "times": None, "next_times": None,
            "places": positions,
            "seen": None, "pairs": int(self.costs(chosen).sum()), "sequences": len(chosen),
        }  # fmt: skip

    def _places(self, sequences: int, per_event: Array) -> tuple[Array, Array]:
        """Where tokens of events stand among all tokens, and those of contexts."""
        width = len(self.task.contexts)
        starts = _sums(per_event + width)[:-1].astype(np.int64)
        behind = _ranges(starts + width, per_event)
        front = (starts[:, None] + np.arange(width)[None]).ravel()
        return behind, front

    def _order(self, sequences: int, behind: Array, front: Array, source: Array) -> Array:
        """``order`` of a batch; ``source``: where each event's token stands behind contexts."""
        width = len(self.task.contexts)
        order = np.empty(len(behind) + len(front), np.int64)
        order[behind] = sequences * width + source
        of_context = np.arange(width)[None] * sequences + np.arange(sequences)[:, None]
        order[front] = of_context.ravel()
        return order

    def _retrieval(self, chosen: Array, slots: Array, evaluating: bool) -> Batch:
        length = self.length[chosen] - 1
        events = _ranges(self.begin[chosen], length)
        base = self._base(chosen, slots, length, events)
        behind, front = self._places(len(chosen), length)
        base["order"] = self._order(len(chosen), behind, front, np.arange(len(events)))
        read, after = behind, events + 1
        if evaluating:
            ends = np.cumsum(length) - 1
            read, after = behind[ends], events[ends] + 1
            owner = np.repeat(np.arange(len(chosen)), self._whole(chosen))
            past = _ranges(self.columns["offsets"][self.users[chosen]], self._whole(chosen))
            base["seen"] = (owner, self.columns["items"][past])
        base["read_rows"], base["labels"] = read, self.columns["items"][after]
        if self.task.with_times:
            self._add_times(base, behind, events, chosen)
        per_output = np.ones_like(length) if evaluating else length
        return _batch(base, np.repeat(self.columns["user_ids"][self.users[chosen]], per_output))

    def _whole(self, chosen: Array) -> Array:
        """How many events each user has before the one that is foretold, history or not."""
        begin = self.begin[chosen] - self.columns["offsets"][self.users[chosen]]
        return np.asarray(begin + self.length[chosen] - 1)

    def _add_times(self, base: dict[str, Any], behind: Array, events: Array, chosen: Array) -> None:
        unit = int(self.columns.manifest["time_unit"])
        tokens = int(base["cu"][-1])
        starts = np.repeat(self.columns["times"][self.begin[chosen]], np.diff(base["cu"]))
        for name, at in (("times", events), ("next_times", events + 1)):
            values = starts.astype(np.int64).copy()  # contexts: the first event's
            values[behind] = self.columns["times"][at]
            base[name] = values[:tokens] // unit

    def _ranking(self, chosen: Array, slots: Array, evaluating: bool) -> Batch:
        length = self.length[chosen]
        targets = self._targets(length)
        history = length - targets
        events = _ranges(self.begin[chosen], length)
        past = _ranges(self.begin[chosen], history)
        base = self._base(chosen, slots, 2 * history + targets, events)
        base["features"]["action"] = self.columns["actions"][past].astype(np.int64)
        behind, front = self._places(len(chosen), 2 * history + targets)
        # The source of each token behind the contexts: item 0, action 0, item 1, ..., candidates.
        starts = np.cumsum(2 * history + targets) - (2 * history + targets)
        source = np.empty(len(behind), np.int64)
        item_starts, action_starts = np.cumsum(length) - length, np.cumsum(history) - history
        inner = _ranges(np.zeros_like(history), history)
        by_history = np.repeat(np.arange(len(chosen)), history)
        item_places = starts[by_history] + 2 * inner
        source[item_places] = item_starts[by_history] + inner
        source[item_places + 1] = len(events) + action_starts[by_history] + inner
        ends = _ranges(starts + 2 * history, targets)
        source[ends] = _ranges(item_starts + history, targets)
        base["order"] = self._order(len(chosen), behind, front, source)
        users = self.columns["user_ids"][self.users[chosen]]
        if self.candidates:
            first = np.diff(base["cu"]) - targets
            base["places"] = np.minimum(base["positions"], np.repeat(first, np.diff(base["cu"])))
            base.update(
                targets=targets.astype(np.int32), cu_targets=_sums(targets),
                max_targets=int(targets.max()), target_rows=behind[ends], read_rows=None,
                labels=self.columns["actions"][_ranges(self.begin[chosen] + history, targets)],
            )  # fmt: skip
            return _batch(base, np.repeat(users, targets))
        base.update(read_rows=behind[item_places], labels=self.columns["actions"][past])
        return _batch(base, np.repeat(users, history))


def _batch(base: dict[str, Any], groups: Array) -> Batch:
    def tensor(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            wide = value if value.dtype == np.int32 else value.astype(np.int64)
            return torch.from_numpy(np.array(wide))
        if isinstance(value, dict):
            return {key: tensor(one) for key, one in value.items()}
        return tuple(map(tensor, value)) if isinstance(value, tuple) else value

    made = Batch(**{name: tensor(v) for name, v in base.items()}, groups=tensor(groups), count=0)
    made.labels = made.labels.long()
    made.count = len(made.labels)
    return made


class Order:
    """Which sequences make which batch.

    Args:
        maker: of the batches.
        batch_size: sequences of one process.
        rank, world: of this process.
        seed: of the order.
        shuffle: anew in each epoch; else in the data's order.
        balance: divide a global batch by the attention's cost.
    """

    def __init__(
        self, maker: BatchMaker, batch_size: int, rank: int = 0, world: int = 1, seed: int = 0,
        shuffle: bool = True, balance: bool = False,
    ) -> None:  # fmt: skip
        self.maker, self.rank, self.world, self.seed = maker, rank, world, seed
        self.size, self.shuffle, self.balance = batch_size * world, shuffle, balance
        self.per_epoch = -(-len(maker) // self.size)
        self._order: tuple[int, Array] | None = None

    def _epoch(self, epoch: int) -> Array:
        if self._order is None or self._order[0] != epoch:
            order = np.arange(len(self.maker))
            if self.shuffle:
                order = np.random.Generator(np.random.Philox(mix(self.seed, epoch))).permutation(
                    len(self.maker)
                )
            self._order = (epoch, order)
        return self._order[1]

    def global_batch(self, step: int) -> Array:
        """The sequences of all processes in a step; an epoch's last batch is filled up from its
        first sequences, so that every step has as many."""
        epoch, place = divmod(step, self.per_epoch)
        order = self._epoch(epoch)
        return order[(place * self.size + np.arange(self.size)) % len(order)]

    def __call__(self, step: int) -> Batch:
        """The batch of this process in a step of training."""
        chosen = self.global_batch(step)
        divide = balanced if self.balance else even
        mine = divide(self.maker.costs(chosen), self.world)[self.rank]
        return self.maker.make(chosen[mine], mine)

    def evaluation(self, step: int) -> Batch:
        """The batch of this process in a step of evaluation: every sequence once, in order."""
        chosen = np.arange(step * self.size, min((step + 1) * self.size, len(self.maker)))
        mine = even(chosen, self.world)[self.rank]
        return self.maker.make(chosen[mine], mine, evaluating=True)


def ahead(
    make: Any, first: int, last: int, workers: int, depth: int, finish: Any
) -> Iterator[Batch]:
    """``finish(make(step))`` for steps from first to last, made ahead by threads, in order.

    ``depth`` 0: nothing is made ahead.
    """
    if depth == 0:
        for step in range(first, last):
            yield finish(make(step))
        return

    def made(step: int) -> Batch:
        batch: Batch = finish(make(step))
        return batch

    with ThreadPoolExecutor(workers, "batches") as pool:
        waiting: deque[Future[Batch]] = deque()
        step = first
        try:
            while waiting or step < last:
                while step < last and len(waiting) < depth:
                    waiting.append(pool.submit(made, step))
                    step += 1
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
