"""The three kinds of layer compute one formula, and so do their gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hstu_training.configs.hstu_config import HSTULayerType, get_hstu_config
from hstu_training.modules.hstu_block import HSTUBlock
from hstu_training.modules.relative_bias import time_buckets
from torch import Tensor

from tests.hstu_training.cases import config, sequences

KINDS = {
    "plain": {},
    "heads of 50 padded": {"kv_channels": 50, "num_attention_heads": 1},
    "heads of 32": {"kv_channels": 32},
    "no affine, no bias": {"learnable_norm": False, "uvqk_bias": False},
    "both biases": {"proj_bias": True},
    "recompute": {"recompute_input_layernorm": True, "recompute_input_silu": True},
    "alpha and divisor": {"alpha": 1.0, "scaling_seqlen": 211},
    "position": {"relative_bias": "position"},
    "position_time": {"relative_bias": "position_time"},
    "dropout": {"hidden_dropout": 0.3},
}


def both(one: Any, other: Any, batch: Any, rows: int) -> None:
    """Outputs and all gradients of two blocks with the same parameters are equal."""
    a, b = HSTUBlock(one), HSTUBlock(other)
    for parameter in a.parameters():  # biases and norms begin at 0 and 1, which would hide errors
        parameter.data += torch.randn_like(parameter) * 0.1
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    x = torch.randn(int(batch.cu[-1]), one.hidden_size, dtype=torch.float64)
    found = []
    for block in (a, b):
        leaf = x.clone().requires_grad_()
        out = block(leaf, batch)
        assert out.shape == (rows, one.hidden_size)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        found.append([out, leaf.grad, *(p.grad for p in block.parameters())])
    names = ["out", "x", *(name for name, _ in a.named_parameters())]
    for name, left, right in zip(names, *found, strict=True):
        assert left is not None and right is not None, name
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["FUSED", "NATIVE"])
@pytest.mark.parametrize("candidates", [False, True])
def test_a_layer_is_its_formula(kind: str, layer: str, candidates: bool) -> None:
    torch.manual_seed(1)
    targets = [3, 1, 2] if candidates else None
    contexts = [2, 0, 1] if candidates else None
    batch = sequences([9, 1, 6], contexts=contexts, targets=targets, step=3)
    other = config(**KINDS[kind], hstu_layer_type=HSTULayerType.DEBUG,
                   targets_only_last_layer=False)  # fmt: skip
    one = config(**KINDS[kind], hstu_layer_type=HSTULayerType[layer])
    both(one, other, batch, 6 if candidates else 16)


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_causal_mask_all_see_all(causal: bool) -> None:
    torch.manual_seed(1)
    debug = config(is_causal=causal, hstu_layer_type=HSTULayerType.DEBUG)
    both(config(is_causal=causal), debug, sequences([4, 7]), 11)


def test_candidates_alone_in_the_last_layer_are_the_same_bits() -> None:
    torch.manual_seed(2)
    batch = sequences([9, 5], contexts=[1, 1], targets=[4, 2])
    x = torch.randn(14, 12, dtype=torch.float64)
    blocks = [HSTUBlock(config(targets_only_last_layer=only)) for only in (True, False)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    few, every = (block(x, batch) for block in blocks)
    torch.testing.assert_close(few, every, rtol=1e-13, atol=1e-14)


def test_the_divisor_is_the_configured_length_and_not_the_batch_s() -> None:
    torch.manual_seed(3)
    block, x = HSTUBlock(config()), torch.randn(9, 12, dtype=torch.float64)
    together = block(x, sequences([4, 5]))
    alone = block(x[:4], sequences([4]))
    torch.testing.assert_close(together[:4], alone)


def published(x: Tensor, block: HSTUBlock, times: Tensor, after: Tensor) -> Tensor:
    """One layer of the published model over one sequence, as its paper writes it."""
    layer, bias = block.layers[0], block.biases[0]
    c, n = block.config, len(x)
    x = x * c.hidden_size**0.5 + block.positions.table[:n]
    u, v, q, k = (
        torch.nn.functional.silu(
            torch.nn.functional.layer_norm(x, (c.hidden_size,), eps=1e-6) @ layer.uvqk_weight
        )
        .unflatten(1, (1, 4, c.kv_channels))
        .squeeze(1)
        .unbind(1)
    )
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    rab = bias.position[j - i + c.max_seq_len - 1]
    rab = rab + bias.time[time_buckets(times[None], after[None])[0]]
    a = torch.nn.functional.silu(q @ k.T + rab) * (j <= i) / 211 @ v
    norm = torch.nn.functional.layer_norm(a, (c.kv_channels,), eps=1e-6)
    return x + (norm * u) @ layer.proj_weight + layer.proj_bias


def test_the_published_model_runs_on_the_kernels() -> None:
    torch.manual_seed(4)
    given = config(
        hidden_size=50, kv_channels=50, num_attention_heads=1, num_layers=1, max_seq_len=200,
        scaling_seqlen=211, alpha=1.0, norm_epsilon=1e-6, learnable_norm=False, uvqk_bias=False,
        proj_bias=True, relative_bias="position_time",
    )  # fmt: skip
    block, batch = HSTUBlock(given), sequences([60])
    block.biases[0].time.data *= 10
    x = torch.randn(60, 50, dtype=torch.float64)
    results = []
    for call in (lambda: block(x, batch), lambda: published(x, block, batch.times,
                                                            batch.next_times)):  # fmt: skip
        block.zero_grad()
        out = call()
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in block.parameters())])
    assert (results[0][0] - results[1][0]).abs().max() < 1e-9
    for (name, _), one, other in zip(block.named_parameters(), *(r[1:] for r in results),
                                     strict=True):  # fmt: skip
        assert (one - other).abs().max() < 1e-7, name


def test_time_buckets_are_logarithmic() -> None:
    times = torch.tensor([[0, 10, 100]])
    after = torch.tensor([[10, 100, 10**9]])
    assert time_buckets(times, after)[0].tolist() == [[7, 0, 14], [15, 14, 0], [68, 68, 68]]


def test_candidates_share_the_position_behind_the_history() -> None:
    block = HSTUBlock(config(position_buckets=4)).positions
    encoded = block(torch.zeros(9, 12, dtype=torch.float64), sequences([6, 3], targets=[3, 1]))
    wanted = [0, 1, 2, 3, 3, 3, 0, 1, 2]
    assert torch.equal(encoded, block.table[torch.tensor(wanted)])
    given = sequences([6, 3], targets=[3, 1])._replace(encoded=torch.tensor([9, *wanted[1:]]))
    encoded = block(torch.zeros(9, 12, dtype=torch.float64), given)
    assert torch.equal(encoded, block.table[torch.tensor([3, *wanted[1:]])])
    encoded = block(torch.zeros(6, 12, dtype=torch.float64), sequences([6]))
    assert torch.equal(encoded, block.table[torch.tensor([0, 1, 2, 3, 3, 3])])


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", 0), ("kv_channels", 257), ("hidden_dropout", 1.0), ("dtype", torch.int32),
     ("relative_bias", "time"), ("kernel_backend", "cutlass"), ("scaling_seqlen", 0),
     ("alpha", float("nan")), ("is_causal", 1), ("norm_epsilon", 0.0)],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        config(**{field: value})
    with pytest.raises(ValueError, match=field):
        given = {"hidden_size": 8, "kv_channels": 4, "num_attention_heads": 1, "num_layers": 1,
                 "dtype": torch.float32, "max_seq_len": 5}  # fmt: skip
        get_hstu_config(**{**given, field: value})
