"""FUSED on a GPU computes what the oracle computes, with equal bits from run to run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hstu_training.configs.hstu_config import HSTULayerType
from hstu_training.modules.hstu_block import HSTUBlock
from torch import Tensor

from tests.common.accuracy import assert_accurate
from tests.hstu_training.cases import config, sequences

SIZES = [(64, 32, 2), (50, 50, 1), (128, 64, 4)]
LENGTHS = [70, 1, 129, 40]


def gradients(kind: str, dtype: torch.dtype, device: str, size: tuple[int, int, int],
              step: int | None = None, **changes: Any) -> list[Tensor]:  # fmt: skip
    """Output, and gradients of x and of all parameters, of one block."""
    hidden, channels, heads = size
    given = config(
        hidden_size=hidden, kv_channels=channels, num_attention_heads=heads, max_seq_len=200,
        dtype=dtype, hstu_layer_type=HSTULayerType[kind], **changes,
    )  # fmt: skip
    torch.manual_seed(1)
    block = HSTUBlock(given).to(device)
    targets = [5, 1, 9, 3]
    batch = sequences(LENGTHS, contexts=[2, 0, 1, 3], targets=targets, step=step, device=device)
    x = torch.randn(sum(LENGTHS), hidden, generator=torch.Generator().manual_seed(2))
    x = x.to(device, given.param_dtype).requires_grad_()
    out = block(x, batch)
    out.double().square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in block.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", ["none", "position_time"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_is_as_accurate_as_native(
    gpu: str, size: tuple[int, int, int], bias: str, recompute: bool, dtype: torch.dtype
) -> None:
    changes: dict[str, Any] = {"relative_bias": bias}
    exact = gradients("DEBUG", torch.float64, "cpu", size, **changes)
    plain = gradients("NATIVE", dtype, gpu, size, **changes)
    changes |= dict.fromkeys(("recompute_input_layernorm", "recompute_input_silu"), recompute)
    fused = gradients("FUSED", dtype, gpu, size, **changes)
    for i, (got, right, other) in enumerate(zip(fused, exact, plain, strict=True)):
        right = right.to(gpu).float()
        assert_accurate(f"tensor {i}", got, right, other, factor=4)


def test_fused_gives_the_same_bits_in_every_run(gpu: str) -> None:
    size = SIZES[2]
    changes = {"hidden_dropout": 0.2, "relative_bias": "position_time"}
    one, two = (gradients("FUSED", torch.bfloat16, gpu, size, 3, **changes) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
    other = gradients("FUSED", torch.bfloat16, gpu, size, 4, **changes)
    assert not torch.equal(one[0], other[0])


def test_recomputing_keeps_less(gpu: str) -> None:
    kept = {}
    for recompute in (False, True):
        sizes: dict[int, int] = {}
        flags = dict.fromkeys(("recompute_input_layernorm", "recompute_input_silu"), recompute)
        given = config(hidden_size=256, kv_channels=64, num_attention_heads=4, max_seq_len=600,
                       dtype=torch.bfloat16, num_layers=1, **flags)  # fmt: skip
        block, batch = HSTUBlock(given).to(gpu), sequences([500, 600], device=gpu)
        x = torch.randn(1100, 256, device=gpu, dtype=torch.bfloat16, requires_grad=True)
        parameters = {p.data_ptr() for p in block.parameters()}

        def pack(t: Tensor, sizes: Any = sizes, parameters: Any = parameters) -> Tensor:
            if t.shape[:1] == (1100,) and t.data_ptr() not in parameters:
                sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            block.layers[0](x, batch, None)
        kept[recompute] = sum(sizes.values()) / (1100 * 256 * 2)
    assert kept[False] <= 12.2 and kept[True] <= 7.2, kept
