"""One step of one group of tables: what crosses the link, forth and back.

``Rows``: distinct keys cross, their rows come back and are pooled by who asked. ``Sums``:
occurrences cross, the sum of each bag's rows comes back from every rank. Both go through ``send``,
``serve`` and ``receive``, and through the last two again in the backward, in reverse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamicemb.batched_dynamicemb_function import Features, Lookup, gather
from dynamicemb.checks import check_weights
from dynamicemb.dealing import deal, transposed, transposed_sizes
from dynamicemb.ops import POOLING_NONE, ops
from dynamicemb.owner import Served
from dynamicemb.plain_rows import rows_of_tensor
from dynamicemb.types import DynamicEmbPoolingMode

if TYPE_CHECKING:
    from dynamicemb.exchange import Exchange


class Step:
    """What both ways have in common."""

    header: Tensor  # (world, words) int64: what each rank is told before anything else

    def __init__(self, group: Exchange, offsets: Tensor, weights: Tensor | None) -> None:
        self.group, self.link, self.owner = group, group.link, group.owner
        self.offsets, self.weights = offsets, weights
        self.module = group.module
        self.features = len(self.module.feature_table_map)
        self.batch = (offsets.numel() - 1) // self.features
        self.served: Served | None = None
        self.came: Tensor  # of rows, and what to wait for
        self.work: Any = None
        self.back: Any = None  # of gradients, both

    def send(self, came: Tensor, sizes: list[list[list[int]]] | None) -> None:
        """Starts the exchange of keys; ``sizes``: the headers sent and received, on the CPU."""
        raise NotImplementedError

    def look_up(self) -> Served:
        raise NotImplementedError

    def rows_cross(self, rows: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def grads_cross(self, grads: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def gathered(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        raise NotImplementedError

    def grads(
        self, grad: Tensor, rows: Tensor, weights: Tensor | None, learn: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Of what came, and of the weights."""
        raise NotImplementedError

    def bytes_either_way(self) -> list[int]:
        """Bytes to and from other ranks in a step, as ``Rows`` and as ``Sums``."""
        raise NotImplementedError

    def serve(self) -> None:
        """Looks the received keys up and starts the exchange of their rows."""
        if self.owner.trains and torch.is_grad_enabled():
            self.token: Any = _Serve.apply(self.module._anchor, self)  # type: ignore[no-untyped-call]
        else:
            self.token = None
            self._serve()

    def _serve(self) -> None:
        self.served = self.look_up()
        self.came, self.work = self.rows_cross(self.served.out)

    def receive(self) -> Tensor:
        """The rows, or pooled rows, of this rank's batch."""
        if self.token is None:
            self.link.wait(self.work)
            return self.gathered(self.came, self.weights)
        out: Tensor = _Receive.apply(self.token, self.weights, self)  # type: ignore[no-untyped-call]
        return out

    def shared(self, grad: Tensor) -> Tensor:
        if self.group.options.average_gradients:
            grad = grad / self.link.world
        return grad.to(self.group.backward_dtype)


class _Serve(torch.autograd.Function):
    """Forward: rows leave. Backward: their gradients have come."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, step: Step) -> Tensor:
        ctx.step = step
        step._serve()
        return anchor.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        step: Step = ctx.step
        with step.link.failing("backward"):
            grads, work = step.back
            step.link.wait(work)
            assert step.served is not None
            step.owner.update(step.served, grads)
            step.back = None
        return None, None


class _Receive(torch.autograd.Function):
    """Forward: rows have come. Backward: their gradients leave."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, weights: Tensor | None, step: Step) -> Tensor:
        step.link.wait(step.work)
        ctx.step = step
        ctx.save_for_backward(step.came, weights)
        return step.gathered(step.came, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        step: Step = ctx.step
        came, weights = ctx.saved_tensors
        with step.link.failing("backward"):
            learn = ctx.needs_input_grad[1]
            sums, weight_grads = step.grads(grad.contiguous(), came, weights, learn)
            step.back = step.grads_cross(step.shared(sums))
        return grad.new_empty(0), weight_grads, None


class Rows(Step):
    """Keys and rows cross."""

    def __init__(
        self, group: Exchange, values: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> None:
        module, options = group.module, group.options
        if weights is not None:
            check_weights(weights, values, module.pooling)
            weights = weights.to(module.device, group.owner.real).contiguous()
        segments = module._segments(values, offsets)
        super().__init__(group, offsets.to(torch.int64), weights)
        keys = values.contiguous().view(torch.int64)
        self.occurrences = keys.numel()
        inverse = counts = None
        if options.dedup:
            keys, inverse, segments, counts = ops.segmented_unique(
                keys, segments, None, group.owner.counts
            )
        elif group.owner.counts:
            counts = torch.ones_like(keys)
        dealt = deal(
            keys, segments, group.table_dist, group.table_blocks, self.link.world, None, group.only
        )
        self.keys, self.header, self.pitch = dealt.keys, dealt.lengths, options.max_keys_per_rank
        self._known: tuple[Lookup, Features] | None = None
        self.inverse = (dealt.place if inverse is None else dealt.place[inverse]).int()
        self.counts = None
        if group.owner.counts:
            at = torch.arange(keys.numel(), device=keys.device)
            place = torch.where(at < segments[-1], dealt.place, at)
            assert counts is not None
            self.counts = torch.empty_like(keys).scatter_(0, place, counts)

    def send(self, came: Tensor, sizes: list[list[list[int]]] | None) -> None:
        self.lengths = came
        self.sent: list[int] | None = None
        self.received: list[int] | None = None
        if sizes is None:
            self._make_slots()
            parts = [self.keys, self.counts]
            if self.occurrences == 0:
                parts = [None if p is None else p.new_zeros(1) for p in parts]
            given = [None if p is None else p[self.tight_of_slot] for p in parts]
        else:
            self.sizes = sizes[1]
            self.sent, self.received = ([sum(row) for row in half] for half in sizes)
            n = sum(self.sent)
            given = [None if p is None else p[:n] for p in (self.keys, self.counts)]
        self.arriving = [
            None if p is None else self.link.all_to_all(p, self.received, self.sent) for p in given
        ]

    def _make_slots(self) -> None:
        """Each rank's keys in a fixed number of slots."""
        world, pitch = self.link.world, self.pitch
        assert pitch is not None
        asked = self.header.sum(1)
        ends = asked.cumsum(0)
        starts = ends - asked
        slots = torch.arange(world * pitch, device=asked.device)
        last = max(self.occurrences - 1, 0)
        self.tight_of_slot = (starts[slots // pitch] + slots % pitch).clamp_(max=last)
        tight = torch.arange(self.occurrences, device=asked.device)
        rank = torch.searchsorted(ends, tight, right=True).clamp_(max=world - 1)
        self.slot_of_tight = (tight - starts[rank] + rank * pitch).clamp_(max=world * pitch - 1)

    def bytes_either_way(self) -> list[int]:
        assert self.sent is not None
        sizes = [torch.finfo(t).bits // 8 for t in (self.owner.dtype, self.group.backward_dtype)]
        world = self.link.world
        here = sum(self.sent) - self.sent[self.link.rank]
        rows = here * (8 + self.owner.width * sum(sizes))
        away = (world - 1) / world
        bags = self.features * self.batch
        weight = 4 if self.weights is not None else 0
        sums = self.occurrences * away * (8 + weight)
        sums += bags * (world - 1) * (8 + self.owner.dim * sum(sizes))
        return [rows, int(sums)]

    def look_up(self) -> Served:
        keys, counts = (self._arrived(one) for one in self.arriving)
        assert keys is not None
        if self.pitch is None:
            way = transposed_sizes(self.sizes, keys.device)
        else:
            way = transposed(self.lengths, keys.numel(), self.pitch)
        by_table = torch.empty_like(keys).scatter_(0, way.place, keys)
        if counts is not None:
            counts = torch.empty_like(counts).scatter_(0, way.place, counts)
        segments = way.offsets[:: self.link.world]
        return self.owner.rows(by_table, segments, way.place, counts, self.pitch is not None)

    def _arrived(self, one: tuple[Tensor, Any] | None) -> Tensor | None:
        if one is None:
            return None
        self.link.wait(one[1])
        return one[0]

    def rows_cross(self, rows: Tensor) -> tuple[Tensor, Any]:
        return self.link.all_to_all(rows, self.sent, self.received)

    def grads_cross(self, grads: Tensor) -> tuple[Tensor, Any]:
        return self.link.all_to_all(grads, self.received, self.sent)

    def _lookup(self, rows: Tensor) -> tuple[Lookup, Features]:
        if self._known is None:  # the backward has the rows of the forward
            slots = None if self.pitch is None else self.slot_of_tight
            self._known = rows_of_tensor(
                rows, self.owner.dim, self.inverse, self.offsets, self.features,
                int(self.module.pooling), self.module.output_dtype, slots,
            )  # fmt: skip
        return self._known

    def gathered(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        lookup, features = self._lookup(rows)
        return gather(lookup, features, weights, False, None)

    def grads(
        self, grad: Tensor, rows: Tensor, weights: Tensor | None, learn: bool
    ) -> tuple[Tensor, Tensor | None]:
        lookup, f = self._lookup(rows)
        where = (*lookup.source(f), *lookup.bags(f, weights))
        bag_of = weight_grads = None
        if learn and f.pooling != POOLING_NONE:
            bag_of = ops.expand_bags(lookup.offsets, self.inverse.numel())
            weight_grads = ops.weight_grads(grad, *where, bag_of, False)
        ids, order = ops.sort_rows(self.inverse)
        sums = ops.reduce_grads(
            grad, *where, bag_of, ids, order, *self.group.clipping.schema(), f.max_dim
        )
        n = len(rows)
        if self.pitch is not None:
            sums = sums[self.tight_of_slot] if len(sums) else grad.new_zeros(n, f.max_dim)
        sums = sums[:n]
        if sums.shape[1] < self.owner.width:
            sums = torch.nn.functional.pad(sums, (0, self.owner.width - sums.shape[1]))
        return sums, weight_grads


class Sums(Step):
    """Occurrences and partial sums cross."""

    def __init__(
        self, group: Exchange, values: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> None:
        module = group.module
        if weights is not None:
            check_weights(weights, values, module.pooling)
            weights = weights.to(module.device, torch.float32).contiguous()
        module._segments(values, offsets)
        super().__init__(group, offsets.to(torch.int64), weights)
        self.dealt = deal(
            values.contiguous().view(torch.int64), self.offsets, group.feature_dist,
            group.feature_blocks, self.link.world, weights, group.only,
        )  # fmt: skip
        asked = self.dealt.lengths.sum(1)
        self.header = torch.stack([asked, torch.full_like(asked, self.batch)], 1)

    def send(self, came: Tensor, sizes: list[list[list[int]]] | None) -> None:
        assert sizes is not None
        sent, received = ([row[0] for row in half] for half in sizes)
        self.batches = [row[1] for row in sizes[1]]
        n, f, world = sum(sent), self.features, self.link.world
        lengths = self.dealt.lengths.reshape(-1)
        self.arriving = [
            self.link.all_to_all(lengths, [f * b for b in self.batches], [f * self.batch] * world),
            self.link.all_to_all(self.dealt.keys[:n], received, sent),
        ]
        if self.dealt.weights is not None:
            self.arriving.append(self.link.all_to_all(self.dealt.weights[:n], received, sent))

    def look_up(self) -> Served:
        for _, work in self.arriving:
            self.link.wait(work)
        lengths, keys, *weights = (tensor for tensor, _ in self.arriving)
        f = self.features
        of_ranks = [
            part.view(f, b)
            for part, b in zip(
                torch.split(lengths, [f * b for b in self.batches]), self.batches, strict=True
            )
        ]
        by_rank = torch.stack([part.sum(1) for part in of_ranks])
        way = transposed(by_rank, keys.numel())
        moved = [torch.empty_like(x).scatter_(0, way.place, x) for x in (keys, *weights)]
        bags = torch.cat(of_ranks, 1).reshape(-1)
        offsets = torch.cat([bags.new_zeros(1), bags.cumsum(0)])
        return self.owner.sums(moved[0], offsets, moved[1] if weights else None)

    def rows_cross(self, rows: Tensor) -> tuple[Tensor, Any]:
        mine = [self.batch] * self.link.world
        return self.link.all_to_all(rows, mine, self.batches)

    def grads_cross(self, grads: Tensor) -> tuple[Tensor, Any]:
        world = self.link.world
        given = grads.expand(world, *grads.shape).reshape(-1, grads.shape[1])
        return self.link.all_to_all(given, self.batches, [self.batch] * world)

    def _sizes(self) -> Tensor | None:
        """(batch, features * dim): what a mean divides by."""
        if self.module.pooling != DynamicEmbPoolingMode.MEAN:
            return None
        sizes = torch.diff(self.offsets).view(self.features, self.batch).t().clamp(min=1)
        return sizes.repeat_interleave(self.owner.dim, 1)

    def gathered(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        out = rows.to(self.owner.real).view(self.link.world, self.batch, rows.shape[1]).sum(0)
        if (sizes := self._sizes()) is not None:
            out = out / sizes
        return out.to(self.module.output_dtype)

    def grads(
        self, grad: Tensor, rows: Tensor, weights: Tensor | None, learn: bool
    ) -> tuple[Tensor, Tensor | None]:
        grad = grad.to(self.owner.real)
        if self.group.clip is not None:
            grad = grad.clamp(-self.group.clip, self.group.clip)
        if (sizes := self._sizes()) is not None:
            grad = grad / sizes
        return grad, None
