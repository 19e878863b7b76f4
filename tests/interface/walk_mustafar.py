"""The calls of mustafar that succeed, on the CPU."""

from __future__ import annotations

from typing import Any

import mustafar
import torch

from tests.interface.walk import Call, Walk, kinds, needed_of


def cache() -> Any:
    made = mustafar.MustafarCache(
        2, 2, 64, 300, block=64, dtype=torch.float32, device="cpu", pages=8
    )
    made.prefill(torch.ones(2, 2, 100, 64), torch.ones(2, 2, 100, 64))
    return made


def state_of(made: Any) -> Any:
    return [made.tokens(s) for s in (0, 1)], [t.tolist() for t in made.tensors[-2:]]


def call(name: str, parameter: str) -> Call:
    if name == "MustafarCache":
        size = {"batch": 2, "kv_heads": 2, "head_dim": 64, "capacity": 300, "device": "cpu"}
        return Call(mustafar.MustafarCache, size)
    made = cache()
    if name == "decode_attention":
        return Call(mustafar.decode_attention, {"q": torch.ones(2, 4, 64), "cache": made})
    if name == "MustafarCache.prefill":
        made.reset()
    tokens = torch.ones(2, 2, 1, 64)
    every = {"k": tokens, "v": tokens, "sequence": 0, "tokens": 100}
    function = getattr(made, name.partition(".")[2])
    return Call(function, {p: every[p] for p in needed_of(function)}, lambda: state_of(made))


KINDS = {
    "integer": "batch kv_heads head_dim capacity residual_length block sequence steps tokens "
    "splits",
    "integer or None": "pages",
    "number": "k_sparsity v_sparsity",
    "number or None": "scale",
    "integers or None": "lengths starts",
    "dtype": "dtype",
    "device": "device",
    "tensor": "k v q",
    "bool": "check",
    "cache": "cache",
}
WALK = Walk("mustafar", kinds(KINDS), call)
