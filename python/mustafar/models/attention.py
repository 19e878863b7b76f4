"""The attention function and the cache that the models of ``transformers`` get."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mustafar.cache import MustafarCache, decode_attention
from mustafar.checks import checks
from mustafar.models.config import MustafarConfig
from mustafar.models.masked import MaskedModelCache

ATTENTION = "mustafar"


class MustafarModelCache(Cache):  # type: ignore[misc]
    """A ``MustafarCache`` for each layer, made when the prompt comes.

    Args:
        capacity: the most tokens of a sequence, prompt and padding included.
        options: of ``MustafarCache``: k_sparsity, v_sparsity, residual_length, block.
    """

    def __init__(self, capacity: int, **options: Any) -> None:
        super().__init__(layers=[])
        checks.integer(capacity, "capacity", 1)
        self.capacity, self.options = capacity, options
        self.caches: list[MustafarCache] = []
        self.seen = 0  # tokens, padding included
        self._visible: tuple[list[int], list[int]] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Hands keys and values on to the attention function, and with them itself."""
        if layer_idx == 0:
            self.seen += key_states.shape[2]
        key_states._mustafar = (self, layer_idx)  # type: ignore[attr-defined]
        return key_states, value_states

    def advance(self, steps: int = 1) -> None:
        """Counts ``steps`` tokens that replays of a captured step are about to add.

        Raises:
            ValueError: they do not fit (``MustafarCache.advance``). No layer has counted them then.
        """
        for cache in self.caches:
            cache.advance(steps)
        self.seen += steps

    def holds(self, layer: int) -> bool:
        """Whether a layer has its prompt."""
        return layer < len(self.caches)

    def prefill(self, layer: int, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        """Takes a layer's prompt; ``mask`` as the attention function got it."""
        if layer == 0:
            self._visible = self._prompt_of(mask, k)
        assert self._visible is not None
        starts, lengths = self._visible
        batch, heads, _, head_dim = k.shape
        cache = MustafarCache(
            batch, heads, head_dim, self.capacity, dtype=k.dtype, device=k.device, **self.options
        )
        cache.prefill(k, v, lengths, starts)
        self.caches.append(cache)

    @staticmethod
    def _prompt_of(mask: Tensor | None, k: Tensor) -> tuple[list[int], list[int]]:
        """Where each sequence begins, and its length, from what the last query sees."""
        batch, tokens = k.shape[0], k.shape[2]
        if mask is None:
            return [0] * batch, [tokens] * batch
        seen = mask[:, 0, -1, :tokens]
        seen = (seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2).int()
        seen = seen.expand(batch, -1)
        lengths = seen.sum(1)
        starts = tokens - lengths
        if not torch.equal(seen.cumsum(1)[:, -1], lengths) or (
            seen[:, -1].min() == 0 or (seen.argmax(1) != starts).any()  # the first that is seen
        ):
            checks.fail("attention_mask must have its padding on the left, and no other gaps")
        return starts.tolist(), lengths.tolist()

    # ---- What transformers asks a cache

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self.seen

    def get_mask_sizes(self, query: Any, layer_idx: int) -> tuple[int, int]:
        length = query.shape[0] if isinstance(query, Tensor) else int(query)
        return self.seen + length, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return self.capacity

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.capacity

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.seen

    def reset(self) -> None:
        self.caches, self.seen, self._visible = [], 0, None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        checks.fail("beam search is not possible over a Mustafar cache", NotImplementedError)

    def crop(self, *args: Any) -> None:
        checks.fail("a Mustafar cache cannot be cropped", NotImplementedError)

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

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(cache.nbytes for cache in self.caches)


def mustafar_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Dense attention over the prompt, which it then compresses; compressed attention after it.

    Shapes and results are those of ``transformers``' attention functions: query (batch, heads,
    tokens, D), result (batch, tokens, heads, D).
    """
    cache, layer = getattr(key, "_mustafar", (None, 0))
    if isinstance(cache, MaskedModelCache):
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        cache.attended(layer, query, attention_mask, scale)
        return attended
    if cache is not None and cache.holds(layer):
        if query.shape[2] != 1:
            checks.fail(
                f"a Mustafar cache takes one token a step after the prompt, got {query.shape[2]}"
            )
        cache.caches[layer].append(key, value)
        return decode_attention(query, cache.caches[layer], scaling).transpose(1, 2), None
    if cache is not None:
        cache.prefill(layer, key, value, attention_mask)
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return result


AttentionInterface.register(ATTENTION, mustafar_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Generates:
    """What a causal language model of ``transformers`` needs to generate over a Mustafar cache.

    Attributes of the config are those of ``MustafarConfig``, which can set them, and use_flash
    (True; False is refused).
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        if not getattr(config, "use_flash", True):
            checks.fail("use_flash must be True, got False: there is one kernel")
        MustafarConfig.of(config)
        config._attn_implementation = ATTENTION
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]

    def make_cache(self, capacity: int) -> MustafarModelCache | MaskedModelCache:
        """An empty cache for prompts and new tokens, ``capacity`` tokens a sequence."""
        rule = MustafarConfig.of(self.config)  # type: ignore[attr-defined]
        both = {"k_sparsity": rule.k_sparsity, "v_sparsity": rule.v_sparsity}
        if rule.compressed:
            return MustafarModelCache(capacity, residual_length=rule.window, **both)
        return MaskedModelCache(
            pruners=rule.pruners, residual_length=rule.window, group_size=rule.group_size, **both
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> bool:
        # The argument's name changed with transformers 5.
        names = inspect.signature(self.forward).parameters  # type: ignore[attr-defined]
        name = "cache" if "cache" in names else "past_key_values"
        if model_kwargs.get(name) is None:
            model_kwargs[name] = self.make_cache(generation_config.max_length)
        return True
