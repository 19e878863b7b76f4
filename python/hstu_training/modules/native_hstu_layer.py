"""The HSTU layer by PyTorch's autograd, and by its formula."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from hstu_attn.ref import visible
from torch import Tensor, nn

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.modules.hstu_attention import create_hstu_attention
from hstu_training.modules.jagged import Sequences
from hstu_training.ops.counter import dropout
from hstu_training.ops.fused_hstu_op import Attend


class HSTULayer(nn.Module):
    """The parameters of a layer, and ``parts`` of them as the kernels want them.

    ``uvqk_weight`` (hidden, heads * 4 * channels) has, head by head, columns u, v, q, k.
    """

    def __init__(self, config: HSTUConfig, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        inner = config.num_attention_heads * config.kv_channels
        dtype = config.param_dtype
        weight = torch.empty(config.hidden_size, 4 * inner, dtype=dtype).normal_(0, 0.02)
        self.uvqk_weight = nn.Parameter(weight)
        self.proj_weight = nn.Parameter(torch.empty(inner, config.hidden_size, dtype=dtype))
        nn.init.xavier_uniform_(self.proj_weight)

        def vector(size: int, wanted: bool, value: float) -> nn.Parameter | None:
            return nn.Parameter(torch.full((size,), value, dtype=dtype)) if wanted else None

        self.uvqk_bias = vector(4 * inner, config.uvqk_bias, 0.0)
        self.proj_bias = vector(config.hidden_size, config.proj_bias, 0.0)
        self.norm1_weight = vector(config.hidden_size, config.learnable_norm, 1.0)
        self.norm1_bias = vector(config.hidden_size, config.learnable_norm, 0.0)
        self.norm2_weight = vector(inner, config.learnable_norm, 1.0)
        self.norm2_bias = vector(inner, config.learnable_norm, 0.0)

    def _packed(self, parameter: Tensor | None) -> Tensor | None:
        """Columns (heads, [u v q k], channels) as [u | q | k | v], in the layer's dtype."""
        if parameter is None:
            return None
        c = self.config
        shape = (*parameter.shape[:-1], c.num_attention_heads, 4, c.kv_channels)
        u, v, q, k = parameter.to(c.dtype).view(shape).unbind(-2)
        return torch.stack((u, q, k, v), -3).flatten(-3)

    def parts(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """weight, bias, projection and its bias, in the dtype of the computation."""
        weight, dtype = self._packed(self.uvqk_weight), self.config.dtype
        assert weight is not None
        proj_bias = None if self.proj_bias is None else self.proj_bias.to(dtype)
        return weight, self._packed(self.uvqk_bias), self.proj_weight.to(dtype), proj_bias

    def forward(
        self, x: Tensor, sequences: Sequences, rab: Tensor | None, targets_only: bool = False
    ) -> Tensor:
        raise NotImplementedError


class NativeHSTULayer(HSTULayer):
    """The layer as PyTorch's operations around the attention.

    ``forward(x (tokens, hidden), sequences, rab, targets_only)`` is (tokens, hidden), or the rows
    of the candidates.
    """

    def __init__(self, config: HSTUConfig, index: int) -> None:
        super().__init__(config, index)
        self.attention = create_hstu_attention(
            config.kernel_backend, config.num_attention_heads, config.kv_channels
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attend: Attend, rab: Tensor | None) -> Tensor:
        out: Tensor = self.attention(q, k, v, attend, rab)
        return out

    def _norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        wide = x.to(self.config.param_dtype)
        normed = F.layer_norm(wide, (x.shape[1],), weight, bias, self.config.norm_epsilon)
        return normed.to(x.dtype)

    def forward(
        self, x: Tensor, sequences: Sequences, rab: Tensor | None, targets_only: bool = False
    ) -> Tensor:
        c = self.config
        weight, bias, proj, proj_bias = self.parts()
        rows = sequences.target_rows if targets_only else None
        n = self._norm(x, self.norm1_weight, self.norm1_bias)
        h = F.silu(n @ weight + (0 if bias is None else bias))
        u, q, k, v = h.chunk(4, 1)
        residual = x
        if rows is not None:
            u, q, residual = u[rows], q[rows], x[rows]
        shape = (c.num_attention_heads, c.kv_channels)
        q, k, v = (t.reshape(t.shape[0], *shape) for t in (q, k, v))
        a = self.attend(q, k, v, sequences.attend(c, targets_only), rab)
        y = self._norm(a, self.norm2_weight, self.norm2_bias) * u
        random = sequences.random
        if random is not None and rows is not None:
            random = random._replace(rows=random.rows[rows])
        y = dropout(y, c.hidden_dropout, random, self.index)
        out = residual + y.to(x.dtype) @ proj
        return out if proj_bias is None else out + proj_bias


class DebugHSTULayer(NativeHSTULayer):
    """The same layer with attention as its formula, sequence by sequence; for tests."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attend: Attend, rab: Tensor | None) -> Tensor:
        ends_q, ends_k = attend.cu_q.tolist(), attend.cu_k.tolist()
        out = []
        for b, (begin, end) in enumerate(itertools.pairwise(ends_q)):
            keys = slice(ends_k[b], ends_k[b + 1])
            rows, length = end - begin, ends_k[b + 1] - ends_k[b]
            mask = visible(
                rows, length, window=(-1, 0) if attend.causal else (-1, -1),
                contexts=0 if attend.contexts is None else int(attend.contexts[b]),
                targets=0 if attend.targets is None else int(attend.targets[b]),
                group_size=attend.group, device=q.device,
            )  # fmt: skip
            scores = torch.einsum("ihd,jhd->hij", q[begin:end], k[keys])
            if rab is not None:
                scores = scores + rab[b, :, length - rows : length, :length]
            weights = F.silu(attend.alpha * scores) * mask / attend.divisor
            out.append(torch.einsum("hij,jhd->ihd", weights, v[keys]))
        return torch.cat(out).flatten(1)
