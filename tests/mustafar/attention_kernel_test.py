"""One step of attention through ``mustafar_package``, as older scripts call it: compressed keys,
softmax, compressed values, against the same on dense tensors."""

from __future__ import annotations

import pytest
import torch
from mustafar.compression import convert_key_batched, convert_value_batched, nz_offsets
from mustafar.prune import Kt_Mag, Vt_Mag
from mustafar_package import mustafar_key_formulation, mustafar_value_formulation

from tests.mustafar.cases import assert_right, attention, normal


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
@pytest.mark.parametrize("groups", [1, 4])
def test_attention_over_tiles_equals_pruned_dense_attention(
    device: str, sparsity: float, groups: int
) -> None:
    batch, kv_heads, tokens, head_dim = 2, 2, 512, 128
    half = torch.float16
    k, v = (
        normal(batch * kv_heads, tokens, head_dim, device=device, dtype=half, seed=i)
        for i in (1, 2)
    )
    q = normal(batch * kv_heads * groups, head_dim, device=device, dtype=half, seed=3)
    k, v = k.where(Kt_Mag(k, sparsity), 0), v.where(Vt_Mag(v, sparsity), 0)

    def padded(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x[:, None], (0, 0, 0, 7))

    bitmaps, idx, packed = convert_key_batched(k)
    scores = mustafar_key_formulation(
        bitmaps,
        torch.cat(packed),
        idx,
        nz_offsets(idx),
        padded(q),
        tokens,
        head_dim,
        len(q),
        groups,
    )[:, 0]
    weights = (scores.float() / head_dim**0.5).softmax(-1).half()
    bitmaps, idx, packed = convert_value_batched(v)
    workspace = torch.empty(0, dtype=half, device=device)
    out = mustafar_value_formulation(
        bitmaps, torch.cat(packed), idx, nz_offsets(idx), padded(weights), workspace, head_dim,
        tokens, len(q), groups,
    )[:, 0]  # fmt: skip
    assert_right(out, attention(q, k, v, head_dim**-0.5))
