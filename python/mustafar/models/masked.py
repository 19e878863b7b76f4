"""Dense keys and values with zeros where a pruner wants them: what no compressed layout serves.

The rules of ``mustafar.prune`` over the steps of a generation, with T tokens after a step, windows
of ``residual`` tokens and groups of ``group``. Each step attends first and prunes afterwards. The
output-aware pruners weigh a token by the queries of the steps that it spent in the window.

=============  ========================================  ==============================
pruner         of a prompt of L tokens                   after a step
=============  ========================================  ==============================
Kt_Mag Vt_Mag  all but the last ``residual``             token T - residual - 1
Kt_Opa Vt_Opa  all but the last ``group``                token T - group - 1
Vc_Mag         those, in whole groups from 0 on          the next whole group
Vc_Opa         all, the tokens of a channel together     tokens T - 2 group ... T - group - 1 at
                                                         multiples of ``group`` from the second on
ThinK ThinV    channels of all tokens                    nothing
=============  ========================================  ==============================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from mustafar import prune
from mustafar.checks import checks


def _drop(tokens: Tensor, stays: Tensor) -> None:
    """Zeros in place where a mask is False; a mask of one token is that of all."""
    tokens.masked_fill_(~stays, 0)


class MaskedLayer:
    """One layer's keys and values, (batch, heads, tokens, D)."""

    def __init__(self, rule: dict[str, Any]) -> None:
        self.k_pruner, self.v_pruner = rule["pruners"]
        self.k_sparsity, self.v_sparsity = rule["k_sparsity"], rule["v_sparsity"]
        self.residual, self.group = rule["residual_length"], rule["group_size"]
        self.k = self.v = torch.empty(0)
        self.queries = torch.empty(0)  # of the last steps: sums over the query heads, absolute
        self.weights = torch.empty(0)  # (batch, heads, tokens): attention since a token came
        self.prompt = self.steps = 0

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.prompt == 0:
            self.prompt = k.shape[2]
            self.k, self.v = k.clone(), v.clone()
        else:
            self.steps += 1
            self.k, self.v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        return self.k, self.v

    def after_prompt(self, q: Tensor, mask: Tensor | None, scale: float) -> None:
        """Prunes what the prompt may lose."""
        heads, tokens, group = self.k.shape[1], self.prompt, self.group
        self._remember(q)
        old, last = max(tokens - self.residual, 0), max(tokens - group, 0)
        if self.k_pruner == "Kt_Mag" and old:
            _drop(self.k[:, :, :old], prune.Kt_Mag(self.k[:, :, :old], self.k_sparsity))
        elif self.k_pruner == "Kt_Opa" and last:
            importance = prune.query_importance(q, heads, group)
            k = self.k[:, :, :last]
            _drop(k, prune.Kt_Opa(k, importance, self.k_sparsity))
        elif self.k_pruner in ("ThinK", "ThinV"):
            _drop(self.k, prune.ThinK(self.k, q, self.k_sparsity))
        if self.v_pruner == "Vt_Mag" and old:
            _drop(self.v[:, :, :old], prune.Vt_Mag(self.v[:, :, :old], self.v_sparsity))
        elif self.v_pruner == "Vt_Opa" and last:
            _drop(self.v[:, :, :last], prune.Vt_Opa(self.v[:, :, :last], self.v_sparsity))
        elif self.v_pruner == "Vc_Mag" and old >= group:
            whole = self.v[:, :, : old // group * group]
            _drop(whole, prune.Vc_Mag(whole, self.v_sparsity, group))
        elif self.v_pruner == "Vc_Opa":
            p = self._attention(q[:, :, -group:], mask, scale)
            weights = prune.attention_weights(p, heads, group)
            _drop(self.v, prune.Vc_Opa(self.v, weights, self.v_sparsity))
            self.weights = torch.zeros_like(weights)
        elif self.v_pruner == "ThinV":
            _drop(self.v, prune.ThinV(self.v, self.v_sparsity))

    def after_step(self, q: Tensor, mask: Tensor | None, scale: float) -> None:
        """Prunes what has left the window."""
        tokens, group = self.k.shape[2], self.group
        self._remember(q)
        out, left = tokens - self.residual - 1, tokens - group - 1
        if self.k_pruner == "Kt_Mag" and out >= 0:
            k = self.k[:, :, out : out + 1]
            _drop(k, prune.Kt_Mag(k, self.k_sparsity))
        elif self.k_pruner == "Kt_Opa" and left >= 0:
            importance = self.queries.mean(2)
            k = self.k[:, :, left : left + 1]
            _drop(k, prune.Kt_Opa(k, importance, self.k_sparsity))
        if self.v_pruner == "Vt_Mag" and out >= 0:
            v = self.v[:, :, out : out + 1]
            _drop(v, prune.Vt_Mag(v, self.v_sparsity))
        elif self.v_pruner == "Vt_Opa" and left >= 0:
            v = self.v[:, :, left : left + 1]
            _drop(v, prune.Vt_Opa(v, self.v_sparsity))
        elif self.v_pruner == "Vc_Mag":
            end = tokens - self.residual
            if end >= group and end % group == 0:
                whole = self.v[:, :, end - group : end]
                _drop(whole, prune.Vc_Mag(whole, self.v_sparsity, group))
        elif self.v_pruner == "Vc_Opa":
            new = self._attention(q, mask, scale)[:, :, 0]
            new = new.reshape(len(new), self.k.shape[1], -1, tokens).sum(2)
            self.weights = torch.nn.functional.pad(self.weights, (0, 1)) + new
            if self.steps % group == 0 and self.steps > group:
                part = slice(tokens - 2 * group, tokens - group)
                whole, weights = self.v[:, :, part], self.weights[:, :, part]
                _drop(whole, prune.Vc_Opa(whole, weights, self.v_sparsity, group))

    def _remember(self, q: Tensor) -> None:
        if self.k_pruner != "Kt_Opa":
            return
        sums = q.float().abs().reshape(len(q), self.k.shape[1], -1, *q.shape[2:]).sum(2)
        both = torch.cat([self.queries, sums], 2) if self.queries.numel() else sums
        self.queries = both[:, :, -self.group :]

    def _attention(self, q: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Probabilities of the newest queries, float32."""
        queries, tokens = q.shape[2], self.k.shape[2]
        k = self.k.repeat_interleave(q.shape[1] // self.k.shape[1], 1)
        scores = (q.float() @ k.float().mT) * scale
        if mask is not None:
            seen = mask[:, :, -queries:, :tokens]
            seen = seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
        else:
            places = torch.arange(tokens, device=q.device)
            seen = places <= places[-queries:, None]
        # A query that sees nothing is padding.
        return scores.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num(0)


class MaskedModelCache(Cache):  # type: ignore[misc]
    """Dense keys and values of all layers, pruned by any pair of pruners.

    Args:
        rule: pruners (of keys, of values), k_sparsity, v_sparsity, residual_length, group_size.
    """

    def __init__(self, **rule: Any) -> None:
        super().__init__(layers=[])
        self.rule = rule
        self.caches: list[MaskedLayer] = []
        self.seen = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds tokens to a layer; the attention function gets all of it."""
        if layer_idx == 0:
            self.seen += key_states.shape[2]
        if layer_idx == len(self.caches):
            self.caches.append(MaskedLayer(self.rule))
        if self.caches[layer_idx].prompt and key_states.shape[2] != 1:
            checks.fail(
                "a Mustafar cache takes one token a step after the prompt, got "
                f"{key_states.shape[2]}"
            )
        k, v = self.caches[layer_idx].add(key_states, value_states)
        k._mustafar = (self, layer_idx)  # type: ignore[attr-defined]
        return k, v

    def attended(self, layer: int, q: Tensor, mask: Tensor | None, scale: float) -> None:
        """Prunes a layer after its attention."""
        cache = self.caches[layer]
        (cache.after_step if cache.steps else cache.after_prompt)(q, mask, scale)

    # ---- What transformers asks a cache

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self.seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.seen

    def get_mask_sizes(self, query: Any, layer_idx: int) -> tuple[int, int]:
        length = query.shape[0] if isinstance(query, Tensor) else int(query)
        return self.seen + length, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def get_max_length(self, layer_idx: int | None = None) -> None:
        return None

    @property
    def is_sliding(self) -> list[bool]:
        return [False]

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return bool(self.caches)

    def __len__(self) -> int:
        return len(self.caches)
