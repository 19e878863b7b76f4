"""Rows of tables that are dealt out to the ranks of a process group, without TorchRec.

    keys  ->  distinct ones  ->  dealt out  ->  lengths, keys cross  ->  rows of their owner
          ->  rows cross  ->  gathered or pooled  ->  [backward] sums per key cross  ->  update

A key and its row cross a link once a step, however often the key occurs. Pooled features may
instead be pooled where the rows are (``pool_at="owner"``): occurrences cross, and a partial sum for
each sample, not a row for each key.

All that a rank waits for on its CPU are the sizes of what it will receive, once a step for all
groups of tables; with ``max_keys_per_rank`` nothing. Several groups overlap: the rows of one are
looked up while the keys of the next are under way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicemb.arguments import checks, whole
from dynamicemb.batched_dynamicemb_tables import BatchedDynamicEmbeddingTablesV2
from dynamicemb.crossing import Rows, Sums
from dynamicemb.dealing import dist_codes
from dynamicemb.dump_ranks import Part
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.link import Link, agreed
from dynamicemb.optimizer import WEIGHT_DTYPES, EmbOptimType, OptimizerArgs, RowOptimizer
from dynamicemb.owner import Owner
from dynamicemb.types import DynamicEmbPoolingMode

POOL_AT = ("auto", "owner", "requester")


@dataclass(frozen=True)
class ExchangeOptions:
    """How rows pass between ranks.

    Args:
        dedup: a key crosses once, not once for each occurrence.
        pool_at: of pooled features: "requester" (rows cross), "owner" (occurrences and partial sums
            cross), or "auto": what moved fewer bytes in the first step, of all ranks together.
        chunks: the tables of a group are split into so many groups, whose transfers overlap.
        max_keys_per_rank: the most distinct keys of a group that a rank asks another for. Fixed
            sizes then cross, and no rank waits for its device; more keys are an error.
        forward_dtype, backward_dtype: of rows and of gradients on the link; None: float32.
        average_gradients: gradients are divided by the number of ranks, as TorchRec does: for a
            loss that is the mean over a rank's batch. Otherwise they add up.
    """

    dedup: bool = True
    pool_at: str = "auto"
    chunks: int = 1
    max_keys_per_rank: int | None = None
    forward_dtype: torch.dtype | None = None
    backward_dtype: torch.dtype | None = None
    average_gradients: bool = False

    def __post_init__(self) -> None:
        if self.pool_at not in POOL_AT:
            raise ValueError(
                f"dynamicemb: pool_at must be one of {', '.join(POOL_AT)}, got {self.pool_at!r}"
            )
        checks.boolean(self.dedup, "dedup")
        checks.boolean(self.average_gradients, "average_gradients")
        whole(self.chunks, "chunks", 1)
        if self.max_keys_per_rank is not None:
            whole(self.max_keys_per_rank, "max_keys_per_rank", 1)
        for name in ("forward_dtype", "backward_dtype"):
            dtype = getattr(self, name)
            if dtype is not None and (
                not isinstance(dtype, torch.dtype) or dtype not in WEIGHT_DTYPES
            ):
                raise ValueError(f"dynamicemb: {name} must be a float dtype or None, got {dtype!r}")
        if self.max_keys_per_rank is not None and self.pool_at == "owner":
            raise ValueError("dynamicemb: max_keys_per_rank needs pool_at='requester' or 'auto'")


class Exchange:
    """One group of tables: this rank's part of them, and the other ranks' by a link.

    Args:
        module: this rank's part; its tables have one dim.
        num_embeddings: of each table, all ranks together.
        link: of the process group.
        options: see there.
        clip: bound of the incoming gradient's values, or None.
    """

    def __init__(
        self,
        module: BatchedDynamicEmbeddingTablesV2,
        num_embeddings: Sequence[int],
        link: Link,
        options: ExchangeOptions,
        clip: float | None,
    ) -> None:
        self.link, self.options, self.clip = link, options, clip
        device = module.device
        module.part = Part(link, num_embeddings)
        self.owner = Owner(module, link.world, options.forward_dtype)
        dists = [one.dist_type for one in module.options]
        codes, blocks = dist_codes(dists, num_embeddings, link.world)
        self.only = codes[0] if len(set(codes)) == 1 else None

        def each(values: list[int] | None, of: Sequence[int], dtype: torch.dtype) -> Any:
            if values is None:
                return None
            return torch.tensor([values[t] for t in of], dtype=dtype).to(device)

        tables = range(len(dists))
        features = module.feature_table_map
        self.table_dist = each(codes, tables, torch.int32)
        self.table_blocks = each(blocks, tables, torch.int64)
        self.feature_dist = each(codes, features, torch.int32)
        self.feature_blocks = each(blocks, features, torch.int64)
        args = OptimizerArgs(gradient_clipping=clip is not None, max_gradient=clip or 1.0)
        self.clipping = RowOptimizer(EmbOptimType.SGD, args, device)
        pooled = module.pooling != DynamicEmbPoolingMode.NONE
        self.pool_at = options.pool_at if pooled else "requester"
        if options.max_keys_per_rank is not None:
            self.pool_at = "requester"

    @property
    def module(self) -> BatchedDynamicEmbeddingTablesV2:
        return self.owner.module

    @property
    def backward_dtype(self) -> torch.dtype:
        return self.options.backward_dtype or self.owner.real

    def begin(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Rows | Sums:
        """A step of this group, after what a rank does alone."""
        learns = weights is not None and weights.requires_grad
        if self.pool_at != "owner" or (learns and self.options.pool_at == "auto"):
            return Rows(self, values, offsets, weights)
        if learns:
            raise ValueError(
                "dynamicemb: weights that require a gradient need pool_at='requester' or 'auto', "
                "got 'owner'"
            )
        return Sums(self, values, offsets, weights)


def exchanged(
    groups: Sequence[Exchange], batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]
) -> list[Tensor]:
    """The rows, or pooled rows, of this rank's batch of each group; on every rank at once.

    Args:
        groups: in the same order on every rank.
        batches: values, offsets and weights of each, as ``BatchedDynamicEmbeddingTablesV2`` takes
            them; their sizes may differ from rank to rank.

    Raises:
        ValueError: on every rank, where one asks another for more than ``max_keys_per_rank``;
            nothing was changed.
        RuntimeError: a collective failed, with the rank that took no part.
    """
    link, limit = groups[0].link, groups[0].options.max_keys_per_rank
    with link.failing("forward"):
        for group in groups:
            group.owner.check()
        steps = [group.begin(*batch) for group, batch in zip(groups, batches, strict=True)]
        headers = [step.header for step in steps]
        if limit is not None:
            headers.append(_most(headers))
        given = torch.cat(headers, 1)
        came, work = link.all_to_all(given, None, None)
        link.wait(work)
        sizes = None
        if limit is None:
            sizes = link.on_host(torch.stack([given, came]))
        else:
            link.look_at(came[:, -2:], limit)
            fits = (came[:, -2].amax() <= limit).to(came.dtype)
            came = came * fits
        at = 0
        for step in steps:
            width = step.header.shape[1]
            part = None
            if sizes is not None:
                part = [[row[at : at + width] for row in half] for half in sizes]
            step.send(came[:, at : at + width].contiguous(), part)
            at += width
        if sizes is not None:
            _choose(link, groups, steps)
        for step in steps:
            step.serve()
        return [step.receive() for step in steps]


def _most(headers: Sequence[Tensor]) -> Tensor:
    """(world, 2): the most keys that this rank asks a rank for, and which that is."""
    asked = torch.stack([header.sum(1) for header in headers]).amax(0)
    most, rank = asked.max(0)
    return torch.stack([most, rank]).expand(len(asked), 2)


def _choose(link: Link, groups: Sequence[Exchange], steps: Sequence[Rows | Sums]) -> None:
    """Where "auto" groups pool from now on: what moves fewer bytes, of all ranks together."""
    open_ = [i for i, group in enumerate(groups) if group.pool_at == "auto"]
    if not open_:
        return
    moved = [steps[i].bytes_either_way() for i in open_]
    device = groups[0].module.device
    total = sum(part.cpu() for part in link.gathered(torch.tensor(moved, device=device)))
    assert isinstance(total, Tensor)
    for i, (rows, sums) in zip(open_, total.tolist(), strict=True):
        groups[i].pool_at = "owner" if sums < rows else "requester"


def shard_options(options: DynamicEmbTableOptions, world: int) -> None:
    """Fills in a rank's part of what is given for all ranks together."""
    if options.global_hbm_for_values and not options.local_hbm_for_values:
        options.local_hbm_for_values = math.ceil(options.global_hbm_for_values / world)


def same_everywhere(
    link: Link,
    tables: Sequence[Any],
    every: Sequence[DynamicEmbTableOptions],
    params: Mapping[str, Any],
    options: ExchangeOptions,
) -> int:
    """Checks that the ranks build the same collection; gives the seed of all first rows."""
    fields = ("name", "embedding_dim", "num_embeddings", "feature_names", "pooling")
    said: dict[str, Any] = {
        f"table {number}": {f: str(getattr(config, f, None)) for f in fields}
        | {"dtype": str(one.embedding_dtype), "dist_type": one.dist_type,
           "scores": str(one.score_strategy), "first rows": str(one.initializer_args)}
        for number, (config, one) in enumerate(zip(tables, every, strict=True))
    }  # fmt: skip
    said["tables"] = [str(config.name) for config in tables]
    said["optimizer"] = {k: str(v) for k, v in params.items() if k not in ("seed", "device")}
    said["exchange"] = {k: str(v) for k, v in asdict(options).items()}
    seed = params.get("seed")
    return agreed(link, said, torch.initial_seed() % 2**63 if seed is None else int(seed))


__all__ = ["Exchange", "ExchangeOptions", "exchanged", "same_everywhere", "shard_options"]
