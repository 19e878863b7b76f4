"""One call of the attention as one value, and the one place that knows the order of the schemas."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Mask(NamedTuple):
    """Which columns each row sees; the fields are those of ``hstu_attn_varlen_func``."""

    num_contexts: Tensor | None = None
    num_targets: Tensor | None = None
    target_group_size: int = 1
    window_size: tuple[int, int] = (-1, -1)
    func: Tensor | None = None


class Pages(NamedTuple):
    """Where the history of each sequence lies in a paged cache; no ``kv_cache``: nowhere."""

    kv_cache: Tensor | None = None
    page_offsets: Tensor | None = None
    page_ids: Tensor | None = None
    last_page_lens: Tensor | None = None


class Problem(NamedTuple):
    """The arguments of one call. A NamedTuple, which torch.compile can follow."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    scaling_seqlen: int
    mask: Mask = Mask()
    alpha: float = 1.0
    rab: Tensor | None = None
    has_drab: bool = False
    deterministic: bool = False
    pages: Pages = Pages()

    def schema(self) -> tuple[Any, ...]:
        """What the forward and the backward op take from q on; the forward then takes ``pages``."""
        n, mask = self.scaling_seqlen, self.mask
        if n == -1:  # an empty batch may have max_seqlen_q = 0
            n = self.max_seqlen_q if self.max_seqlen_q > 0 else 1
        tail = (float(self.alpha), self.rab, self.has_drab, mask.func, self.deterministic)
        return (*self[:7], n, *mask[:3], *mask.window_size, *tail)

    @classmethod
    def of_schema(cls, *arguments: Any) -> Problem:
        """The inverse: from what an op was given, from q on, with the pages or without."""
        alpha, rab, has_drab, func, deterministic = arguments[13:18]
        mask = Mask._make((*arguments[8:11], arguments[11:13], func))
        pages = Pages(*arguments[18:])
        return cls._make((*arguments[:8], mask, alpha, rab, has_drab, deterministic, pages))
