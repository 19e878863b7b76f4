"""How rows and sums of row-wise tables come back under TorchRec, and their gradients go.

A rank that fails, or takes no part, is named by the others. Codecs and a batch of its own for each
feature of a pooled table are left to TorchRec's own exchange.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamicemb import torchrec_compat
from dynamicemb.keys_dist import by_rank, link_of
from dynamicemb.link import Link
from dynamicemb.ops import ops
from dynamicemb.plain_rows import summed

torchrec_compat.require()

from torchrec.distributed.comm_ops import get_gradient_division  # noqa: E402
from torchrec.distributed.sharding.rw_sequence_sharding import (  # noqa: E402
    RwSequenceEmbeddingDist,
)
from torchrec.distributed.sharding.rw_sharding import RwPooledEmbeddingDist  # noqa: E402
from torchrec.distributed.types import Awaitable, NoWait  # noqa: E402


class Crossing(Awaitable):  # type: ignore[misc]
    """Rows on their way to the ranks that asked for them; ``wait`` gives those that come.

    Args:
        rows: (sum of sent, dim), rank by rank.
        sent, received: rows to and from each rank.
    """

    def __init__(self, link: Link, rows: Tensor, sent: list[int], received: list[int]) -> None:
        super().__init__()
        self.link, self.sent, self.received = link, sent, received
        self.made: Tensor
        self.work: Any
        self.token: Tensor = _Leave.apply(rows, self)  # type: ignore[no-untyped-call]

    def _wait_impl(self) -> Tensor:
        out: Tensor = _Come.apply(self.token, self)  # type: ignore[no-untyped-call]
        return out


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, way: Crossing) -> Tensor:
        ctx.way = way
        way.made, way.work = way.link.all_to_all(rows, way.received, way.sent)
        return rows.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, None]:
        way: Crossing = ctx.way
        with way.link.failing("backward"):
            way.link.wait(way.work)
        made = way.made
        del way.made, way.work
        return made, None


class _Come(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, way: Crossing) -> Tensor:
        ctx.way = way
        way.link.wait(way.work)
        made = way.made
        del way.made, way.work
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        way: Crossing = ctx.way
        with way.link.failing("backward"):
            way.made, way.work = way.link.all_to_all(grads[0], way.sent, way.received)
        return grads[0].new_empty(0), None


def _share(world: int) -> float:
    """What gradients are multiplied by, before they cross."""
    return 1 / world if get_gradient_division() else 1.0


class _Rows(torch.autograd.Function):
    """``rows[order]``, each row once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, world: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.world = world
        out: Tensor = ops.move_rows(rows.contiguous(), order, False, 1.0)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        grad, share = grads[0].contiguous(), _share(ctx.world)
        if grad.dtype is not torch.float32:
            grad, share = grad * share, 1.0
        return ops.move_rows(grad, order, True, share), None, None


class _Repeated(torch.autograd.Function):
    """Rows of distinct keys for each occurrence; gradients are summed in the order of a sort, not
    by atomics, in which frequent keys would stand in line."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, world: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.rows, ctx.world = len(rows), world
        out: Tensor = ops.move_rows(rows.contiguous(), inverse, False, 1.0)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        sums, share = summed(grads[0].contiguous(), inverse, ctx.rows), _share(ctx.world)
        return sums if share == 1 else sums.mul_(share), None, None


def chosen(rows: Tensor, order: Tensor | None, world: int = 1, repeated: bool = False) -> Tensor:
    """``rows[order]``; None: as they are. Gradients are divided by ``world``."""
    if order is None:
        return rows
    kind: Any = _Repeated if repeated else _Rows
    out: Tensor = kind.apply(rows, order, world)
    return out


class _Added(torch.autograd.Function):
    """The sum of what came from each rank."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, world: int) -> Tensor:
        ctx.world = world
        return sums.view(world, len(sums) // world, sums.shape[1]).sum(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].expand(ctx.world, *grads[0].shape)
        every = grad.new_empty(grad.shape)
        torch.mul(grad, _share(ctx.world), out=every)
        return every.view(-1, grad.shape[2]), None


class SequenceDist(RwSequenceEmbeddingDist):  # type: ignore[misc]
    """Rows are put in the order of ranks as rows: TorchRec does so number by number."""

    @property
    def coded(self) -> bool:
        return self._dist._codecs is not None

    def forward(self, local_embs: Tensor, sharding_ctx: Any = None) -> Any:
        group, dim = self._dist._pg, local_embs.shape[1]
        place = sharding_ctx.unbucketize_permute_tensor
        repeated = getattr(sharding_ctx, "repeated", False)
        if group.size() == 1:
            came: Any = NoWait(local_embs)
        else:
            lengths = sharding_ctx.lengths_after_input_dist  # of each feature, from each rank
            to, of = sharding_ctx.output_splits, sharding_ctx.input_splits
            if not self.coded:
                return self.crossing(local_embs, lengths, place, repeated, to, of)
            came = self._dist(
                chosen(local_embs, _to_ranks(local_embs, lengths)).reshape(-1, 1),
                lengths=lengths[:0],  # in order
                input_splits=[dim * n for n in of],
                output_splits=[dim * n for n in to],
            )
        came.callbacks.append(lambda rows: chosen(rows.view(-1, dim), place, 1, repeated))
        return came

    def crossing(
        self,
        rows: Tensor,
        lengths: Tensor,
        place: Tensor | None,
        repeated: bool,
        to: list[int],
        of: list[int],
    ) -> Crossing:
        """Rows on their way to who asked for them.

        Args:
            rows: (sum of to, dim), feature by feature, rank by rank.
            lengths: (features, ranks) of them.
            place: where the row of each value comes to; None: they come in order.
            repeated: whether a row may be asked for more than once.
            to, of: rows that each rank gets, and gives.
        """
        group = self._dist._pg
        given = chosen(rows, _to_ranks(rows, lengths), group.size())
        came = Crossing(link_of(group), given, to, of)
        if place is not None:
            came.callbacks.append(lambda found: chosen(found, place, 1, repeated))
        return came


def _to_ranks(rows: Tensor, lengths: Tensor) -> Tensor:
    """The order, rank by rank, of rows that lie feature by feature."""
    features, ranks = lengths.shape
    at = torch.arange(len(rows), device=rows.device)
    back = by_rank(ranks, features, at.device)
    order: Tensor = ops.permute_rows(back, lengths.reshape(-1, 1), at, None, len(rows))[1]
    return order


class PooledDist(RwPooledEmbeddingDist):  # type: ignore[misc]
    """Partial sums of each rank's samples cross, and are added up by the rank whose they are."""

    @property
    def coded(self) -> bool:
        return self._codecs is not None

    def forward(self, local_embs: Tensor, sharding_ctx: Any = None) -> Any:
        batches = None if sharding_ctx is None else sharding_ctx.batch_size_per_rank
        if self.coded or not batches or sharding_ctx.variable_batch_per_feature:
            return super().forward(local_embs, sharding_ctx)
        return self.crossing(local_embs, batches)

    def crossing(self, sums: Tensor, batches: list[int]) -> Crossing:
        """(sum of batches, dims) partial sums on their way to the ranks whose samples they are."""
        world, own = self._pg.size(), batches[self._pg.rank()]
        came = Crossing(link_of(self._pg), sums, batches, [own] * world)
        added: Any = _Added
        came.callbacks.append(lambda found: added.apply(found, world))
        return came
