"""HSTU layers and stacks of them; names, order and defaults are those of
``generative_recommenders.modules.stu`` of Meta's package.

Shapes: x (rows, E), a sequence being contexts, history, targets; H heads, D = attention_dim,
V = hidden_dim.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule, complete_cumsum, fx_infer_max_len
from generative_recommenders.ops.hstu_attention import delta_hstu_mha
from generative_recommenders.ops.hstu_compute import (
    hstu_compute_output,
    hstu_compute_uqvk,
    hstu_preprocess_and_attention,
)
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged, split_2D_jagged

NORM_EPS = 1e-6


class STU(HammerModule, abc.ABC):
    """What turns the rows of sequences into rows of the same number and width."""

    @abc.abstractmethod
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
        """Whole sequences.

        Args:
            x: (rows, E).
            x_lengths: (batch,) of the sequences.
            x_offsets: (batch + 1,), their sums.
            max_seq_len: the longest sequence, and what scores are divided by.
            num_targets: (batch,): so many last rows of each sequence.
            max_kv_caching_len: the longest of kv_caching_lengths; 0: read on the host.
            kv_caching_lengths: (batch,): keys and values of so many first rows of each sequence
                are kept for ``cached_forward``; None: what is kept stays.

        Returns:
            (rows, E).
        """

    def cached_forward(
        self,
        delta_x: Tensor,
        num_targets: Tensor,
        max_kv_caching_len: int = 0,
        kv_caching_lengths: Tensor | None = None,
    ) -> Tensor:
        """The last rows of each sequence, behind those whose keys and values are kept.

        Args:
            delta_x: (batch * delta, E), equally many rows for each sequence.
            num_targets, max_kv_caching_len, kv_caching_lengths: as in ``forward``; lengths count
                the kept rows and those of delta_x.

        Returns:
            (batch * delta, E).
        """
        raise NotImplementedError(f"generative_recommenders: {type(self).__name__} keeps no cache")


@dataclass
class STULayerConfig:
    """One layer.

    ``attn_alpha`` None is ``attention_dim ** -0.5``; ``max_attn_len`` None is no limit. The
    ``recompute_`` flags and ``sort_by_length`` are those of
    ``ops.hstu_compute.hstu_preprocess_and_attention``.
    """

    embedding_dim: int
    num_heads: int
    hidden_dim: int
    attention_dim: int
    output_dropout_ratio: float = 0.3
    causal: bool = True
    target_aware: bool = True
    max_attn_len: int | None = None
    attn_alpha: float | None = None
    use_group_norm: bool = False
    recompute_normed_x: bool = True
    recompute_uvqk: bool = True
    recompute_y: bool = True
    sort_by_length: bool = True
    contextual_seq_len: int = 0


class _Cache:
    """Keys and values of first rows, flattened: (rows, H D) and (rows, H V)."""

    def __init__(self, k: Tensor, v: Tensor, longest: int, offsets: Tensor) -> None:
        self.k, self.v, self.longest, self.offsets = k, v, longest, offsets


class STULayer(STU):
    """``x + dropout([u, attn, u * norm(attn)]) W`` with attn the attention of u, v, q, k, which are
    parts of ``layer_norm(x) W' + b'``."""

    def __init__(self, config: STULayerConfig, is_inference: bool = False) -> None:
        super().__init__(is_inference=is_inference)
        c = self._config = config
        for name in ("embedding_dim", "num_heads", "hidden_dim", "attention_dim"):
            CHECKS.integer(getattr(c, name), name, 1)
        values, keys = c.num_heads * c.hidden_dim, c.num_heads * c.attention_dim
        self._uvqk_weight = nn.Parameter(torch.empty(c.embedding_dim, 2 * (values + keys)))
        self._uvqk_beta = nn.Parameter(torch.zeros(2 * (values + keys)))
        self._input_norm_weight = nn.Parameter(torch.ones(c.embedding_dim))
        self._input_norm_bias = nn.Parameter(torch.zeros(c.embedding_dim))
        self._output_weight = nn.Parameter(torch.empty(3 * values, c.embedding_dim))
        normed = c.num_heads if c.use_group_norm else values
        self._output_norm_weight = nn.Parameter(torch.ones(normed))
        self._output_norm_bias = nn.Parameter(torch.zeros(normed))
        nn.init.xavier_uniform_(self._uvqk_weight)
        nn.init.xavier_uniform_(self._output_weight)
        self._alpha = c.attention_dim**-0.5 if c.attn_alpha is None else c.attn_alpha
        self._sizes = (c.num_heads, c.attention_dim, c.hidden_dim)
        self._cache: _Cache | None = None

    def reset_kv_cache(self) -> None:
        """Forgets the keys and values of earlier rows."""
        self._cache = None

    def update_kv_cache(
        self,
        max_seq_len: int,
        seq_offsets: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        max_kv_caching_len: int,
        kv_caching_lengths: Tensor | None,
    ) -> None:
        """Keeps ``kv_caching_lengths`` first rows of each sequence's k and v; None: nothing new.

        Args:
            max_seq_len, seq_offsets: of k and v.
            k, v: (rows, H, D) and (rows, H, V), or flattened.
            max_kv_caching_len, kv_caching_lengths: as in ``STU.forward``.
        """
        if kv_caching_lengths is None:
            return
        CHECKS.tensor(k, "k")
        CHECKS.tensor(v, "v")
        assert k is not None
        assert v is not None
        kept = complete_cumsum(kv_caching_lengths)
        rest = seq_offsets - kept
        longest = max_kv_caching_len or fx_infer_max_len(kv_caching_lengths)
        rows = int(kept[-1])
        first = [
            split_2D_jagged(
                max_seq_len,
                t.flatten(1),
                rows,
                t.shape[0] - rows,
                offsets_left=kept,
                offsets_right=rest,
                kernel=self.hammer_kernel(),
            )[0]
            for t in (k, v)
        ]
        self._cache = _Cache(first[0], first[1], longest, kept)

    def construct_full_kv(
        self, delta_k: Tensor, delta_v: Tensor
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """What is kept, and behind it the new rows.

        Args:
            delta_k, delta_v: (batch * delta, H D) and (batch * delta, H V).

        Returns:
            k (rows, H D), v (rows, H V), the longest sequence, the offsets (batch + 1,).

        Raises:
            ValueError: nothing is kept.
        """
        c = self._cache
        if c is None:
            CHECKS.fail("kv_caching_lengths must be given to forward before cached_forward is used")
        batch = c.offsets.shape[0] - 1
        delta = delta_k.shape[0] // max(batch, 1)
        k, v = (
            concat_2D_jagged(
                c.longest + delta,
                kept,
                new,
                max_len_right=delta,
                offsets_left=c.offsets,
                kernel=self.hammer_kernel(),
            )
            for kept, new in ((c.k, delta_k), (c.v, delta_v))
        )
        offsets = c.offsets + delta * torch.arange(batch + 1, device=k.device)
        return k, v, c.longest + delta, offsets

    def _uvqk(
        self, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, float, int, int, int, Tensor, Tensor]:
        """What both ops that make u, v, q, k take first."""
        return (
            x,
            self._input_norm_weight.to(x.dtype),
            self._input_norm_bias.to(x.dtype),
            NORM_EPS,
            *self._sizes,
            self._uvqk_weight.to(x.dtype),
            self._uvqk_beta.to(x.dtype),
        )

    def _output(self, attention: Tensor, u: Tensor, x: Tensor) -> Tensor:
        c = self._config
        return hstu_compute_output(
            attention,
            u,
            x,
            self._output_norm_weight.to(x.dtype),
            self._output_norm_bias.to(x.dtype),
            NORM_EPS,
            self._output_weight.to(x.dtype),
            c.num_heads,
            c.hidden_dim,
            c.output_dropout_ratio,
            self.training,
            concat_u=True,
            concat_x=True,
            mul_u_activation_type="none",
            group_norm=c.use_group_norm,
            recompute_y_in_backward=c.recompute_y,
            kernel=self.hammer_kernel(),
        )

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
        c = self._config
        u, attention, k, v = hstu_preprocess_and_attention(
            *self._uvqk(x),
            max_seq_len=max_seq_len,
            seq_offsets=x_offsets,
            attn_alpha=self._alpha,
            causal=c.causal,
            num_targets=num_targets if c.target_aware else None,
            max_attn_len=c.max_attn_len or 0,
            contextual_seq_len=c.contextual_seq_len,
            recompute_uvqk_in_backward=c.recompute_uvqk,
            recompute_normed_x_in_backward=c.recompute_normed_x,
            sort_by_length=c.sort_by_length,
            prefill=kv_caching_lengths is not None,
            kernel=self.hammer_kernel(),
        )
        self.update_kv_cache(max_seq_len, x_offsets, k, v, max_kv_caching_len, kv_caching_lengths)
        return self._output(attention, u, x)

    def cached_forward(
        self,
        delta_x: Tensor,
        num_targets: Tensor,
        max_kv_caching_len: int = 0,
        kv_caching_lengths: Tensor | None = None,
    ) -> Tensor:
        c = self._config
        heads, attn_dim, hidden_dim = self._sizes
        u, q, delta_k, delta_v = hstu_compute_uqvk(*self._uvqk(delta_x), self.hammer_kernel())
        k, v, longest, offsets = self.construct_full_kv(delta_k.flatten(1), delta_v.flatten(1))
        self.update_kv_cache(longest, offsets, k, v, max_kv_caching_len, kv_caching_lengths)
        attention = delta_hstu_mha(
            longest,
            self._alpha,
            q,
            k.view(-1, heads, attn_dim),
            v.view(-1, heads, hidden_dim),
            offsets,
            num_targets if c.target_aware else None,
            c.max_attn_len or 0,
            c.contextual_seq_len,
            self.hammer_kernel(),
        )
        return self._output(attention.flatten(1), u, delta_x)


class STUStack(STU):
    """Layers one behind the other; each takes the same arguments."""

    def __init__(self, stu_list: list[STU], is_inference: bool = False) -> None:
        super().__init__(is_inference=is_inference)
        self._stu_layers = nn.ModuleList(stu_list)

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
        rest = (x_lengths, x_offsets, max_seq_len, num_targets)
        for layer in self._stu_layers:
            x = layer(x, *rest, max_kv_caching_len, kv_caching_lengths)
        return x

    def cached_forward(
        self,
        delta_x: Tensor,
        num_targets: Tensor,
        max_kv_caching_len: int = 0,
        kv_caching_lengths: Tensor | None = None,
    ) -> Tensor:
        for layer in self._stu_layers:
            delta_x = layer.cached_forward(  # type: ignore[operator]
                delta_x, num_targets, max_kv_caching_len, kv_caching_lengths
            )
        return delta_x
