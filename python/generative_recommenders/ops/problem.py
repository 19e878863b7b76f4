"""One call of HSTU attention as one value, and the one place that knows the schemas' order."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Mask(NamedTuple):
    """Which keys a query sees; the fields are those of ``ops.hstu_attention.hstu_mha``."""

    num_targets: Tensor | None = None
    max_attn_len: int = 0
    contextual_seq_len: int = 0
    min_full_attn_seq_len: int = 0


class Problem(NamedTuple):
    """The arguments of ``hstu_mha`` that a kernel sees. ``order`` are the sequences' numbers in the
    order of their lengths, for ``sort_by_length``; ``cut`` and ``cut_targets`` are what
    ``ops.cuda.prepared`` found. A NamedTuple, which torch.compile can follow."""

    max_seq_len: int
    alpha: float
    q: Tensor
    k: Tensor
    v: Tensor
    seq_offsets: Tensor
    mask: Mask = Mask()
    attn_scale: Tensor | None = None
    order: Tensor | None = None
    enable_tma: bool = False
    cut: Tensor | None = None
    cut_targets: Tensor | None = None

    @property
    def general(self) -> bool:
        """Whether there is any rule beside the causal one."""
        m = self.mask
        given = (m.num_targets, self.attn_scale, self.order)
        return any(t is not None for t in given) or bool(m.max_attn_len or m.contextual_seq_len)

    def _rest(self) -> tuple[Any, ...]:
        m = self.mask
        softmax_heads = 0
        return (
            m.max_attn_len,
            m.contextual_seq_len,
            self.order,
            self.enable_tma,
            softmax_heads,
            self.attn_scale,
            m.min_full_attn_seq_len,
        )

    def forward_schema(self) -> tuple[Any, ...]:
        """What ``triton_hstu_attention_fwd`` takes."""
        return (*self[:6], self.mask.num_targets, *self._rest())

    def backward_schema(self, dout: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Any, ...]:
        """What ``triton_hstu_attention_bwd`` takes."""
        given = (dout, self.q, self.k, self.v, dq, dk, dv, self.seq_offsets, self.mask.num_targets)
        return (*given, self.max_seq_len, self.alpha, *self._rest())

    def tensors(self) -> tuple[Tensor | None, ...]:
        """What autograd has to keep, see ``with_tensors``."""
        given = (self.seq_offsets, self.mask.num_targets, self.attn_scale, self.order)
        return (self.q, self.k, self.v, *given, self.cut, self.cut_targets)

    def with_tensors(self, kept: tuple[Any, ...]) -> Problem:
        """The same call with what ``tensors`` gave."""
        q, k, v, seq_offsets, num_targets, attn_scale, order, cut, inside = kept
        return self._replace(
            q=q,
            k=k,
            v=v,
            seq_offsets=seq_offsets,
            mask=self.mask._replace(num_targets=num_targets),
            attn_scale=attn_scale,
            order=order,
            cut=cut,
            cut_targets=inside,
        )
