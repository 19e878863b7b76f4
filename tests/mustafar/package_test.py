"""The package itself: its report, and the module of older scripts."""

from __future__ import annotations

import doctest
import importlib
import inspect

import mustafar
import mustafar_package
import pytest
import torch
from mustafar.compression import convert_key_batched, convert_value_batched, nz_offsets
from mustafar.ops import build_info
from mustafar.prune import Kt_Mag

from tests.common.processes import python
from tests.mustafar.cases import normal


def test_the_public_names() -> None:
    assert mustafar.__version__ == build_info()["version"]
    assert set(mustafar.__all__) == {"MustafarCache", "__version__", "decode_attention"}
    assert list(inspect.signature(mustafar_package.mustafar_key_formulation).parameters) == [
        "bmp", "NZ", "idx", "NZ_Offset", "B", "M_Global", "K_Global", "Batch_Size",
        "num_key_value_groups",
    ]  # fmt: skip
    assert list(inspect.signature(mustafar_package.mustafar_value_formulation).parameters) == [
        "bmp", "NZ", "idx", "NZ_Offset", "B", "Reduction_Workspace", "M_Global", "K_Global",
        "Batch_Size", "num_key_value_groups",
    ]  # fmt: skip


def test_the_report_has_the_three_lines_versions_and_a_self_test() -> None:
    done = python("-m", "mustafar")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "✓ mustafar_package imported successfully",
        "✓ compression functions imported successfully",
        "✓ All imports successful",
    ]
    for word in (mustafar.__version__, torch.__version__, "GPU", build_info()["archs"]):
        assert word in done.stdout
    assert "self-test  cpu: relative error" in done.stdout


@pytest.mark.parametrize("module", ["", ".prune", ".compression"])
def test_the_examples_of_docstrings_are_right(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"mustafar{module}"))
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("tokens", [64, 320])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rule", ["per token", "any", "full", "none"])
def test_products_with_tiles_equal_dense_products(
    device: str, groups: int, tokens: int, head_dim: int, rule: str
) -> None:
    heads = 2
    x = normal(heads, tokens, head_dim, device=device, dtype=torch.float16)
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).to(device)
    mask = {"per token": Kt_Mag(x, 0.7), "any": drawn < 0.4, "full": drawn < 2, "none": drawn < 0}
    x = x.where(mask[rule], 0)
    dense = x.float().repeat_interleave(groups, 0)
    batch = heads * groups
    q = normal(batch, 8, head_dim, device=device, dtype=torch.float16, seed=2)
    bitmaps, idx, packed = convert_key_batched(x)
    rest = (torch.cat(packed), idx, nz_offsets(idx))
    got = mustafar_package.mustafar_key_formulation(
        bitmaps, *rest, q, tokens, head_dim, batch, groups
    )
    assert got.shape == (batch, 8, tokens) and got.dtype == torch.float16
    torch.testing.assert_close(got.float(), q.float() @ dense.mT, rtol=2e-3, atol=2e-2)

    p = normal(batch, 8, tokens, device=device, dtype=torch.float16, seed=3).abs() / tokens
    bitmaps, idx, packed = convert_value_batched(x)
    rest = (torch.cat(packed), idx, nz_offsets(idx))
    got = mustafar_package.mustafar_value_formulation(
        bitmaps, *rest, p, None, head_dim, tokens, batch, groups
    )
    assert got.shape == (batch, 8, head_dim)
    torch.testing.assert_close(got.float(), p.float() @ dense, rtol=2e-3, atol=2e-3)
