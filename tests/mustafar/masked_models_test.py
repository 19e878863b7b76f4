"""Caches that are dense with zeros: after a prompt and steps, a layer holds what the pruners' rules
leave of its keys and values, token by token."""

from __future__ import annotations

import pytest
import torch
from mustafar.models.attention import MustafarModelCache
from mustafar.models.config import PRUNINGS, MustafarConfig
from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR
from mustafar.models.masked import MaskedLayer, MaskedModelCache
from torch import Tensor
from transformers import LlamaConfig

PROMPT, STEPS, GROUP, WINDOW, D, HEADS, KV_HEADS = 40, 21, 8, 12, 64, 4, 2
TOKENS = PROMPT + STEPS
SHAPE = {"vocab_size": 97, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": D}


def layer_after(
    pruning: str, k_sparsity: float, v_sparsity: float
) -> tuple[MaskedLayer, Tensor, Tensor, Tensor]:
    """A layer after a prompt and steps, and all keys, values and queries that came to it."""
    draw = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, KV_HEADS, TOKENS, D, generator=draw) for _ in range(2))
    q = torch.randn(1, HEADS, TOKENS, D, generator=draw)
    layer = MaskedLayer(
        {"pruners": PRUNINGS[pruning], "k_sparsity": k_sparsity, "v_sparsity": v_sparsity}
        | {"residual_length": WINDOW, "group_size": GROUP}
    )
    layer.add(k[:, :, :PROMPT], v[:, :, :PROMPT])
    layer.after_prompt(q[:, :, :PROMPT], None, D**-0.5)
    for t in range(PROMPT, TOKENS):
        layer.add(k[:, :, t : t + 1], v[:, :, t : t + 1])
        layer.after_step(q[:, :, t : t + 1], None, D**-0.5)
    return layer, k[0], v[0], q[0]


def top(score: Tensor, count: int) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(count).indices, True)


def expected(pruner: str, x: Tensor, k: Tensor, q: Tensor, s: float) -> Tensor:
    """(heads, tokens, D): what stays, by the rules as they are written."""
    stays = torch.ones_like(x, dtype=torch.bool)
    size = x.abs()
    sums = q.abs().view(KV_HEADS, -1, TOKENS, D).sum(1)
    count = int(D * (1 - s) + 1e-9)
    for t in range(TOKENS):
        if pruner in ("Kt_Mag", "Vt_Mag") and t <= TOKENS - WINDOW - 1:
            stays[:, t] = top(size[:, t], D - max(1, int(s * D)) + 1)
        if pruner == "Vt_Opa" and t <= TOKENS - GROUP - 1:
            stays[:, t] = top(size[:, t], count)
        if pruner == "Kt_Opa" and t <= TOKENS - GROUP - 1:
            first = max(t + 1, PROMPT - GROUP)  # the queries of its stay in the window
            stays[:, t] = top(size[:, t] * sums[:, first : first + GROUP].mean(1), count)
    if pruner == "Vc_Mag":
        for end in range(GROUP, TOKENS - WINDOW + 1, GROUP):
            part = slice(end - GROUP, end)
            kept = top(size[:, part].mT, GROUP - int(s * GROUP) + 1)
            stays[:, part] = kept.mT
    if pruner == "Vc_Opa":
        both = k.repeat_interleave(HEADS // KV_HEADS, 0)
        causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
        p = (q @ both.mT * D**-0.5).masked_fill(~causal, float("-inf")).softmax(-1)
        p = p.view(KV_HEADS, -1, TOKENS, TOKENS).sum(1)
        weights = p[:, PROMPT - GROUP : PROMPT].sum(1)[:, :PROMPT]
        score = size[:, :PROMPT] * weights[..., None]
        stays[:, :PROMPT] = top(score.mT, int(PROMPT * (1 - s) + 1e-9)).mT
        for step in range(2 * GROUP, STEPS + 1, GROUP):
            part = slice(PROMPT + step - 2 * GROUP, PROMPT + step - GROUP)
            score = size[:, part] * p[:, PROMPT : PROMPT + step].sum(1)[:, part, None]
            stays[:, part] = top(score.mT, int(GROUP * (1 - s) + 1e-9)).mT
    if pruner in ("ThinK", "ThinV"):
        energy = x[:, :PROMPT].square().mean(1)
        if pruner == "ThinK":
            last = q[:, max(PROMPT - 32, 0) : PROMPT].view(KV_HEADS, -1, min(32, PROMPT), D)
            energy = energy * last.square().mean((1, 2))
        stays[:, :PROMPT] = top(energy, D - int(D * s))[:, None]
    return stays


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("s", [0.5, 0.7])
def test_a_layer_holds_what_the_rules_leave(pruning: str, s: float) -> None:
    of_keys, of_values = PRUNINGS[pruning]
    # Attention that weighs values is told from dense keys here.
    k_sparsity = 0.0 if of_values == "Vc_Opa" else s
    layer, k, v, q = layer_after(pruning, k_sparsity, s)
    assert torch.equal(layer.k[0], k.where(expected(of_keys, k, k, q, k_sparsity), 0))
    assert torch.equal(layer.v[0], v.where(expected(of_values, v, k, q, s), 0))
    assert (layer.k[0] == 0).any() == (k_sparsity > 0)


@pytest.mark.parametrize("pruning", ["Kt_Opa_Vt_Mag", "Kt_Mag_Vc_Opa"])
def test_a_batch_generates_what_its_sequences_do_alone_and_beside_padding(pruning: str) -> None:
    torch.manual_seed(0)
    rule = MustafarConfig(pruning, v_sparsity=0.3, group_size=GROUP)
    config = rule.on(LlamaConfig(**SHAPE, pad_token_id=0, eos_token_id=None))
    model = LlamaForCausalLM_MUSTAFAR(config).eval()
    ids = torch.randint(1, 97, (2, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    alone = model.generate(ids[1:], attention_mask=mask[1:], max_new_tokens=4, do_sample=False)
    assert torch.equal(out[1:], alone)
    assert isinstance(model.make_cache(50), MaskedModelCache)
    mask[1, :12] = 0
    padded = model.generate(ids * mask, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert torch.equal(padded[:1], out[:1])


def test_the_compressed_cache_is_the_default_where_there_is_one() -> None:
    for pruning in PRUNINGS:
        model = LlamaForCausalLM_MUSTAFAR(MustafarConfig(pruning).on(LlamaConfig(**SHAPE)))
        compressed = isinstance(model.make_cache(50), MustafarModelCache)
        assert compressed == (pruning == "Kt_Mag_Vt_Mag")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruning": "Kt_Opt"}, "pruning must be one of Kt_Mag_Vt_Mag, .*, got 'Kt_Opt'"),
        ({"k_sparsity": 1.0}, "k_sparsity must be from 0 to 0.95, got 1.0"),
        ({"group_size": 0}, "group_size must be >= 1, got 0"),
        ({"residual_length": -1}, "residual_length must be >= 0, got -1"),
        ({"pruning": "ThinK", "compressed": True}, "compressed must be False with pruning"),
    ],
)
def test_a_wrong_rule_is_refused_by_name_and_value(arguments: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        MustafarConfig(**arguments)
    config = LlamaConfig(**SHAPE)
    for name, value in arguments.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        LlamaForCausalLM_MUSTAFAR(config)
