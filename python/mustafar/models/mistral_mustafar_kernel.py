"""Mistral over a compressed KV cache: ``transformers``' model, our attention and cache.

>>> model = MistralForCausalLM_MUSTAFAR(config)          # config.k_sparsity, config.v_sparsity ...
>>> model.generate(input_ids, max_new_tokens=100)

The prompt is attended to densely, then pruned and compressed; every later step reads the compressed
form. Each sequence may be padded on the left.
"""

from __future__ import annotations

from transformers.models.mistral import modeling_mistral

from mustafar.models.attention import Generates

MistralAttention_MUSTAFAR = modeling_mistral.MistralAttention
MistralFlashAttention_MUSTAFAR = (
    modeling_mistral.MistralAttention
)  # the registry says which function
MistralDecoderLayer_MUSTAFAR = modeling_mistral.MistralDecoderLayer
MistralModel_MUSTAFAR = modeling_mistral.MistralModel


class MistralForCausalLM_MUSTAFAR(Generates, modeling_mistral.MistralForCausalLM):  # type: ignore[misc]
    """``transformers.MistralForCausalLM`` whose ``generate`` keeps keys and values compressed.

    Config attributes: see ``mustafar.models.attention.Generates``.
    """
