"""Models of the installed transformers over a compressed cache, tiny and with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mustafar.models.attention import MustafarModelCache
from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR
from mustafar.models.mistral_mustafar_kernel import MistralForCausalLM_MUSTAFAR
from mustafar.prune import kept
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tests.mustafar.cases import pruned

SHAPE = {"vocab_size": 97, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
RULE = {"sparsity": 0.7, "prompt": 0}
RESIDUAL, BLOCK = 32, 256


def reference_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any
) -> Any:
    """Dense attention over the tokens that transformers' own cache keeps, the older ones pruned."""
    tokens = k.shape[2]
    if q.shape[2] == 1:
        before = max(tokens - 1 - RESIDUAL, RULE["prompt"] - RESIDUAL, 0)
        compressed = int(before // BLOCK * BLOCK)
        count = kept(64, RULE["sparsity"])
        k, v = (torch.stack([pruned(x, count, compressed) for x in t]) for t in (k, v))
    return sdpa_attention_forward(module, q, k, v, mask, **kwargs)


AttentionInterface.register("reference", reference_attention)
AttentionMaskInterface.register("reference", sdpa_mask)


def models(family: str, **attributes: object) -> tuple[Any, Any]:
    """Ours and transformers' own, with the same weights."""
    kinds = {
        "llama": (LlamaConfig, LlamaForCausalLM_MUSTAFAR, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM_MUSTAFAR, MistralForCausalLM),
    }
    config, ours, theirs = kinds[family]
    made = []
    for kind in (ours, theirs):
        torch.manual_seed(0)
        extra = {"sliding_window": None} if family == "mistral" else {}
        c = config(**SHAPE, **extra, pad_token_id=0, eos_token_id=None, bos_token_id=1)
        for name, value in attributes.items():
            setattr(c, name, value)
        if kind is theirs:
            c._attn_implementation = "reference"
        made.append(kind(c).eval())
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1]


def prompts(*lengths: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, padded on the left."""
    longest = max(lengths)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 97, (len(lengths), longest), generator=draw)
    mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths]).long()
    return ids * mask, mask


def generate(model: Any, ids: Tensor, mask: Tensor, tokens: int) -> Tensor:
    out: Tensor = model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, use_cache=True
    )
    return out[:, ids.shape[1] :]


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize(("length", "tokens"), [(5, 20), (280, 30), (600, 6)])
def test_greedy_tokens_are_those_of_pruned_dense_attention(
    family: str, length: int, tokens: int
) -> None:
    ours, theirs = models(family, k_sparsity=0.7, v_sparsity=0.7)
    ids, mask = prompts(length)
    RULE["prompt"] = length
    assert torch.equal(generate(ours, ids, mask, tokens), generate(theirs, ids, mask, tokens))


def test_each_sequence_of_a_padded_batch_is_as_alone() -> None:
    ours, _ = models("llama")
    lengths = (330, 5, 40)
    ids, mask = prompts(*lengths)
    together = generate(ours, ids, mask, 8)
    for b, length in enumerate(lengths):
        alone = generate(ours, ids[b : b + 1, -length:], mask[b : b + 1, -length:], 8)
        assert torch.equal(together[b : b + 1], alone)


def test_without_sparsity_it_is_the_dense_model() -> None:
    ours, theirs = models("llama", k_sparsity=0.0, v_sparsity=0.0)
    RULE.update(sparsity=0.0, prompt=300)
    ids, mask = prompts(300)
    assert torch.equal(generate(ours, ids, mask, 10), generate(theirs, ids, mask, 10))
    RULE["sparsity"] = 0.7


def test_the_attributes_of_the_config_reach_the_cache() -> None:
    ours, _ = models("llama", k_sparsity=0.5, v_sparsity=0.3, group_size=64)
    made = ours.make_cache(100)
    assert made.options == {"k_sparsity": 0.5, "v_sparsity": 0.3, "residual_length": 64}
    with pytest.raises(ValueError, match="use_flash must be True, got False"):
        models("llama", use_flash=False)


def test_what_a_cache_cannot_do_is_said() -> None:
    ours, _ = models("llama")
    ids, mask = prompts(6)
    with pytest.raises(NotImplementedError, match="beam search"):
        ours.make_cache(10).reorder_cache(torch.zeros(1))
    gap = mask.clone()
    gap[0, 2] = 0
    with pytest.raises(ValueError, match="padding on the left"):
        generate(ours, ids, gap, 2)
    cache = ours.make_cache(20)
    assert isinstance(cache, MustafarModelCache)
