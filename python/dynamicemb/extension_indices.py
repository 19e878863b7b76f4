"""``dynamicemb_extensions`` on indices: distinct ones, chosen ones, segments, ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamicemb.extension_table import EvictStrategy
from dynamicemb.ops import ops


def gather_embedding(input: Tensor, output: Tensor, index: Tensor) -> None:
    """``output[i] = input[index[i]]``."""
    torch.index_select(input, 0, index.long(), out=output)


def get_table_range(offsets: Tensor, feature_offsets: Tensor) -> Tensor:
    """Where the indices of each table begin; ``feature_offsets``: the first feature of each."""
    batch = (offsets.numel() - 1) // int(feature_offsets[-1])
    return offsets[feature_offsets.long() * batch]


def expand_table_ids_cuda(offsets: Tensor, num_elements: int = 0) -> Tensor:
    ids: Tensor = ops.expand_ids(offsets, num_elements or int(offsets[-1]))
    return ids


def segmented_unique_cuda(
    keys: Tensor, segmented_range: Tensor, num_tables: int, input_frequencies: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct keys, inverse, where those of each table begin, and counts."""
    unique, inverse, offsets, counts = ops.segmented_unique(
        keys, segmented_range, input_frequencies, True
    )
    return unique, inverse, offsets, counts


class UniqueOp:
    """Distinct keys; there is no capacity to outgrow."""

    def __init__(self, *_: object) -> None: ...

    def unique(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct keys in the order of first occurrence, and which of them each key is."""
        ends = torch.tensor([0, len(keys)]).to(keys.device)
        distinct, inverse, found, _ = segmented_unique_cuda(keys, ends, 1)
        return distinct[: int(found[-1])], inverse

    def reset_capacity(self, new_capacity: int) -> None:
        """Nothing is kept between calls."""


def segmented_unique(
    keys: Tensor, segment_range: Tensor, unique_op: UniqueOp | None = None,
    evict_strategy: EvictStrategy | None = None, frequency_counts_uint64: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Distinct keys, inverse, where those of each segment begin, and counts (by the given
    frequencies, of a strategy that counts)."""
    given = frequency_counts_uint64
    if given is not None:
        given = given.to(torch.int64)
    return segmented_unique_cuda(keys, segment_range, len(segment_range) - 1, given)


def flagged_compact(flags: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    selected, count = ops.flagged_compact(flags, inputs)
    return selected, count


def select(flags: Tensor, inputs: Tensor, outputs: Tensor, num_selected: Tensor) -> None:
    selected, count = ops.flagged_compact(flags, inputs)
    outputs[: len(selected)] = selected
    num_selected.copy_(count.reshape(num_selected.shape))


def select_index(flags: Tensor, output_indices: Tensor, num_selected: Tensor) -> None:
    selected, count = ops.flagged_compact(flags, None)
    output_indices[: len(selected)] = selected
    num_selected.copy_(count.reshape(num_selected.shape))


def block_bucketize_sparse_features(
    lengths: Tensor, indices: Tensor, bucketize_pos: bool, sequence: bool, use_roundrobin: bool,
    dist_type_per_feature: Tensor | None, block_sizes: Tensor | None, my_size: int,
    weights: Tensor | None = None, batch_size_per_feature: Tensor | None = None, max_B: int = -1,
    block_bucketize_pos: object = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Deals the indices of each bag out to ``my_size`` ranks.

    Args:
        lengths: (bags), feature by feature, of as many samples each, or of
            ``batch_size_per_feature``.
        bucketize_pos, sequence: whether places in the bag, and where each index went, are wanted.
        use_roundrobin: all features are dealt out so where ``dist_type_per_feature`` (0
            continuous, 1 roundrobin, 2 hashed) is None; otherwise all are continuous.
        block_sizes: (features): rows of a rank, of continuous features.

    Returns:
        Lengths (ranks * bags), indices (within their block, of continuous features), weights,
        places in the bag, and where each index went.
    """
    if block_bucketize_pos is not None:
        raise ValueError("dynamicemb: block_bucketize_pos must be None")
    bags = lengths.to(torch.int64).view(-1)
    features = len(block_sizes) if block_sizes is not None else 1
    if dist_type_per_feature is not None:
        features = len(dist_type_per_feature)
    dist = dist_type_per_feature
    if dist is None:
        dist = torch.full((features,), int(use_roundrobin), device=indices.device)
    dist = dist.to(indices.device, torch.int32)
    blocks = None if block_sizes is None else block_sizes.to(indices.device, torch.int64)
    if batch_size_per_feature is not None:
        many = batch_size_per_feature.to(indices.device)
        dist, blocks = (None if x is None else x.repeat_interleave(many) for x in (dist, blocks))
    offsets = torch.nn.functional.pad(bags.cumsum(0), (1, 0))
    new_lengths, new, moved, place = ops.block_bucketize(
        indices.to(torch.int64).contiguous(), offsets, dist, blocks, weights, my_size
    )
    positions = None
    if bucketize_pos:
        bag = ops.expand_ids(offsets, len(indices)).long()
        at = torch.arange(len(indices), device=indices.device) - offsets[bag]
        positions = torch.empty_like(at).scatter_(0, place, at)
    return (
        new_lengths.to(lengths.dtype), new.to(indices.dtype), None if weights is None else moved,
        positions, place if sequence else None,
    )  # fmt: skip
