"""Layers that run on part of what they are given; names, order and defaults are those of
``generative_recommenders.modules.dynamic_stu`` of Meta's package."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import complete_cumsum
from generative_recommenders.modules.stu import STU
from generative_recommenders.ops.jagged_tensors import (
    hstu_concat_l2_embeddings,
    hstu_split_l2_embeddings,
)


class DynamicSTU(STU, abc.ABC):
    """An STU around another one."""

    def __init__(self, stu: STU, is_inference: bool) -> None:
        super().__init__(is_inference=is_inference)
        self._stu = stu


class SDSTU(DynamicSTU):
    """Stochastic depth: a step of training leaves the inner layer out with a probability.

    It is given no rows then, so that every process of a distributed run still calls it.

    Args:
        stu: the inner layer.
        is_inference: no gradients are needed.
        dropout_ratio: the probability.
        seed: of the first step; each step counts on.
    """

    def __init__(
        self, stu: STU, is_inference: bool, dropout_ratio: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(stu, is_inference)
        CHECKS.number(dropout_ratio, "dropout_ratio")
        self._ratio, self._seed, self._step = dropout_ratio, seed, 0

    def _left_out(self) -> bool:
        if not self.is_train:
            return False
        generator = torch.Generator().manual_seed(self._seed + self._step)
        self._step += 1
        return float(torch.rand(1, generator=generator)) <= self._ratio

    def forward(
        self,
        x: Tensor,
        x_lengths: Tensor,
        x_offsets: Tensor,
        max_seq_len: int,
        num_targets: Tensor,
        max_kv_caching_len: int = 0,
        kv_caching_lengths: Tensor | None = None,
    ) -> Tensor:
        caching = (max_kv_caching_len, kv_caching_lengths)
        if not self._left_out():
            out: Tensor = self._stu(x, x_lengths, x_offsets, max_seq_len, num_targets, *caching)
            return out
        none = (torch.zeros_like(t) for t in (x_lengths, x_offsets))
        empty = self._stu(x[:0], *none, max_seq_len, torch.zeros_like(num_targets), *caching)
        return torch.cat([x, empty])


class L2STU(DynamicSTU):
    """The inner layer sees contexts, the last rows of the history, and targets; the rows between
    pass it by.

    Args:
        stu: the inner layer.
        max_l2_len: rows of the history that it sees.
        is_inference: no gradients are needed.
        contextual_seq_len: contextual rows at the start of each sequence.
    """

    def __init__(
        self, stu: STU, max_l2_len: int, is_inference: bool, contextual_seq_len: int = 0
    ) -> None:
        super().__init__(stu, is_inference)
        CHECKS.integer(max_l2_len, "max_l2_len", 0)
        CHECKS.integer(contextual_seq_len, "contextual_seq_len", 0)
        self._most, self._contexts = max_l2_len, contextual_seq_len

    def forward(
        self,
        x: Tensor,
        x_lengths: Tensor,
        x_offsets: Tensor,
        max_seq_len: int,
        num_targets: Tensor,
        max_kv_caching_len: int = 0,
        kv_caching_lengths: Tensor | None = None,
    ) -> Tensor:
        passing = (x_lengths - self._most - num_targets - self._contexts).clamp(min=0)
        offsets = complete_cumsum(passing)
        l2_offsets = x_offsets - offsets
        around, inner = hstu_split_l2_embeddings(
            max_seq_len, x, offsets, l2_offsets, self._contexts, self.hammer_kernel()
        )
        inner = self._stu(
            inner,
            x_lengths - passing,
            l2_offsets,
            max_seq_len,
            num_targets,
            max_kv_caching_len,
            kv_caching_lengths,
        )
        return hstu_concat_l2_embeddings(
            max_seq_len, around, offsets, max_seq_len, inner, l2_offsets, self._contexts,
            self.hammer_kernel(),
        )  # fmt: skip
