"""LLaMA over a compressed KV cache: ``transformers``' model, our attention and cache.

>>> model = LlamaForCausalLM_MUSTAFAR(config)          # config.k_sparsity, config.v_sparsity ...
>>> model.generate(input_ids, max_new_tokens=100)

The prompt is attended to densely, then pruned and compressed; every later step reads the compressed
form. Each sequence may be padded on the left.
"""

from __future__ import annotations

from transformers.models.llama import modeling_llama

from mustafar.models.attention import Generates

LlamaAttention_MUSTAFAR = modeling_llama.LlamaAttention
LlamaFlashAttention_MUSTAFAR = modeling_llama.LlamaAttention  # the registry says which function
LlamaDecoderLayer_MUSTAFAR = modeling_llama.LlamaDecoderLayer
LlamaModel_MUSTAFAR = modeling_llama.LlamaModel


class LlamaForCausalLM_MUSTAFAR(Generates, modeling_llama.LlamaForCausalLM):  # type: ignore[misc]
    """``transformers.LlamaForCausalLM`` whose ``generate`` keeps keys and values compressed.

    Config attributes: see ``mustafar.models.attention.Generates``.
    """
