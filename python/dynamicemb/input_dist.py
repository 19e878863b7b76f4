"""TorchRec's input distribution with our dealing: a dist type for each feature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dynamicemb import torchrec_compat
from dynamicemb.dealing import constant, deal, dist_codes
from dynamicemb.ops import ops

torchrec_compat.require()

from torchrec import KeyedJaggedTensor  # noqa: E402
from torchrec.distributed.sharding.rw_sharding import (  # noqa: E402
    RwSparseFeaturesDist as TorchrecRw,
)
from torchrec.distributed.sharding.twrw_sharding import TwRwSparseFeaturesDist  # noqa: E402
from torchrec.distributed.types import NoWait  # noqa: E402

from dynamicemb.keys_dist import Sizes, link_of  # noqa: E402


class Bucketizer(torch.nn.Module):
    """Deals the values of a KeyedJaggedTensor out to buckets.

    Args:
        dist_types: of each feature; None: a static table's, whose rows are numbered anew in each
            block, as TorchRec does it. A dynamic table's keys stay what they are.
        hash_sizes: rows of each feature's table, all ranks together.
        buckets: ranks, or ranks of a node.
    """

    dist: Tensor
    blocks: Tensor | None
    static: Tensor

    def __init__(
        self,
        dist_types: Sequence[str | None],
        hash_sizes: Sequence[int],
        buckets: int,
        device: torch.device | None,
    ) -> None:
        super().__init__()
        names = [one or "continuous" for one in dist_types]
        codes, blocks = dist_codes(names, hash_sizes, buckets)
        self.buckets = buckets
        self.only = codes[0] if len(set(codes)) == 1 else None

        def buffer(values: Any, dtype: torch.dtype) -> Tensor | None:
            return None if values is None else torch.tensor(values, dtype=dtype, device=device)

        static = [one is None for one in dist_types]
        self.register_buffer("dist", buffer(codes, torch.int32), persistent=False)
        self.register_buffer("blocks", buffer(blocks, torch.int64), persistent=False)
        self.register_buffer("static", buffer(static, torch.bool), persistent=False)
        self.has_static = any(static)

    def forward(self, kjt: KeyedJaggedTensor) -> tuple[KeyedJaggedTensor, Tensor | None]:
        """(features of bucket 0, of bucket 1 ..., where each value went; None: it stayed)."""
        if self.buckets == 1:
            return kjt, None
        lengths, values, weights = kjt.lengths().view(-1), kjt.values(), kjt.weights_or_none()
        keys, dist, blocks = values.to(torch.int64), self.dist, self.blocks
        varies = kjt.variable_stride_per_key()
        offsets = kjt.offsets().to(torch.int64)
        if varies:  # a batch of bags of its own each: as features of one sample
            sizes = constant(tuple(kjt.stride_per_key()), lengths.device)
            of = torch.repeat_interleave(
                torch.arange(len(sizes), device=lengths.device), sizes, output_size=lengths.numel()
            )
            dist, blocks = dist[of], None if blocks is None else blocks[of]
        if lengths.numel() == 0:
            new_lengths, new, place = lengths, keys, keys.clone()
            moved = weights
        else:
            given = None if weights is None else weights.view(torch.float32)
            dealt = deal(
                keys.contiguous(), offsets, dist.contiguous(), blocks, self.buckets, given,
                self.only,
            )  # fmt: skip
            new, place, moved = dealt.keys, dealt.place, dealt.weights
            new_lengths = dealt.lengths.reshape(-1)
            if self.has_static:
                new = self._numbered(kjt, offsets, keys, place)
        strides = kjt.stride_per_key_per_rank() if varies else None
        made = KeyedJaggedTensor(
            keys=list(kjt.keys()) * self.buckets,
            values=new.to(values.dtype),
            weights=moved,
            lengths=new_lengths.to(lengths.dtype),
            stride=None if varies else kjt.stride(),
            stride_per_key_per_rank=None if strides is None else list(strides) * self.buckets,
        )
        return made, place

    def _numbered(
        self, kjt: KeyedJaggedTensor, offsets: Tensor, keys: Tensor, place: Tensor
    ) -> Tensor:
        """Dealt keys, those of static tables as rows of their rank's block."""
        assert self.blocks is not None
        ends = constant((0, *accumulate(kjt.stride_per_key())), offsets.device)
        feature = ops.expand_ids(offsets[ends].contiguous(), keys.numel()).long()
        block = self.blocks[feature]
        inside = (keys >= 0) & (keys < block * self.buckets)
        row = torch.where(inside, keys % block, keys // self.buckets)
        chosen = torch.where(self.static[feature], row, keys)
        return torch.empty_like(keys).scatter_(0, place, chosen)


class RwSparseFeaturesDist(TorchrecRw):  # type: ignore[misc]
    """Row-wise over all ranks."""

    def __init__(self, bucketizer: Bucketizer, **arguments: Any) -> None:
        # Its own block sizes are not used; sizes beyond its arithmetic would trouble it.
        sizes = [1] * len(arguments["feature_hash_sizes"])
        super().__init__(**{**arguments, "feature_hash_sizes": sizes})
        self.bucketizer, self.group = bucketizer, arguments["pg"]

    def forward(self, sparse_features: KeyedJaggedTensor) -> Any:
        features, place = self.bucketizer(sparse_features)
        self.unbucketize_permute_tensor = place if self._is_sequence else None
        if features.variable_stride_per_key():
            return self._dist(features)
        if self.bucketizer.buckets == 1:
            return NoWait(NoWait(features))
        return Sizes(link_of(self.group), features, not self._is_sequence)


class TwRwFeaturesDist(TwRwSparseFeaturesDist):  # type: ignore[misc]
    """Row-wise over the ranks of a node."""

    def __init__(self, bucketizer: Bucketizer, **arguments: Any) -> None:
        sizes = [1] * len(arguments["feature_hash_sizes"])
        super().__init__(**{**arguments, "feature_hash_sizes": sizes})
        self.bucketizer = bucketizer

    def forward(self, sparse_features: KeyedJaggedTensor) -> Any:
        features, _ = self.bucketizer(sparse_features)
        order = features.permute(self._sf_staggered_shuffle, self._sf_staggered_shuffle_tensor)
        return self._dist(order)
