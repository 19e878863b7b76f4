"""One comparison of the mask that is off by one is noticed, in PyTorch and in the kernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from generative_recommenders.ops.pytorch import pt_hstu_attention

from tests.hstu_triton import cases, oracle
from tests.hstu_triton.cases import DEVICE, INTERPRETED, needs_triton

LENGTHS, N = [17, 25], 25
STARTS = cases.starts_of(LENGTHS)
RULES: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"max_attn_len": 5},
    "full": {"max_attn_len": 4, "min_full_attn_seq_len": 6},
    "targets": {"num_targets": torch.tensor([4, 7], device=DEVICE)},
}
RULES["contexts"] = RULES["targets"] | {"contextual_seq_len": 3}
# Rule -> the comparison and what it is turned into, in PyTorch.
IN_PYTORCH = {
    "window": ("distance <= max_attn_len", "distance < max_attn_len"),
    "full": ("row >= end - min_full_attn_seq_len", "row > end - min_full_attn_seq_len"),
    "targets": ("distance > 0", "distance >= 0"),
    "contexts": ("column < end", "column <= end"),
}
IN_TRITON = {
    "causal": ("columns[None, :] >= 0", "columns[None, :] > 0"),
    "window": ("distance <= window", "distance < window"),
    "full": ("row_ids >= end - full", "row_ids > end - full"),
    "targets": ("distance > 0", "distance >= 0"),
    "contexts": ("column_ids < end", "column_ids <= end"),
}


def changed(source: Path, change: tuple[str, str], folder: Path) -> ModuleType:
    """The module with that one comparison changed."""
    text = source.read_text()
    assert text.count(change[0]) == 1, change
    path = folder / "changed.py"
    path.write_text(text.replace(*change))
    spec = importlib.util.spec_from_file_location("changed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attention(kernel: HammerKernel, rule: str) -> torch.Tensor:
    qkv = [cases.drawn(sum(LENGTHS), 1, 16, seed=i) for i in range(3)]
    return hstu_mha(N, 0.3, *qkv, STARTS, kernel=kernel, **RULES[rule])


def by_the_formula(rule: str) -> torch.Tensor:
    qkv = [cases.drawn(sum(LENGTHS), 1, 16, seed=i).cpu() for i in range(3)]
    options = dict(RULES[rule])
    targets = options.pop("num_targets", None)
    rest = [options.get(name, 0) for name in
            ("max_attn_len", "contextual_seq_len", "min_full_attn_seq_len")]  # fmt: skip
    given = None if targets is None else targets.tolist()
    return oracle.attention(N, 0.3, *qkv, STARTS.tolist(), given, *rest)


def close(kernel: HammerKernel, rule: str) -> bool:
    got = attention(kernel, rule).double().cpu()
    return torch.allclose(got, by_the_formula(rule), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", IN_PYTORCH)
def test_pytorch_with_one_comparison_changed_is_not_the_formula(
    rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert close(HammerKernel.PYTORCH, rule)
    module = changed(Path(pt_hstu_attention.__file__), IN_PYTORCH[rule], tmp_path)
    monkeypatch.setattr(pt_hstu_attention, "visible", module.visible)
    assert not close(HammerKernel.PYTORCH, rule)


@needs_triton
@pytest.mark.skipif(not INTERPRETED, reason="is for the interpreter, which looks names up late")
@pytest.mark.parametrize("rule", IN_TRITON)
def test_triton_with_one_comparison_changed_is_not_the_formula(
    rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from generative_recommenders.ops.triton import _attention_kernels, _mask

    assert close(HammerKernel.TRITON, rule)
    module = changed(Path(_mask.__file__), IN_TRITON[rule], tmp_path)
    monkeypatch.setattr(_attention_kernels, "visible", module.visible)
    assert not close(HammerKernel.TRITON, rule)


def test_every_comparison_of_the_kernels_mask_is_changed_once() -> None:
    from generative_recommenders.ops.triton import _mask

    text = Path(_mask.__file__).read_text()
    body = text.partition("def visible(")[2].partition("@triton.jit")[0]
    code = [line for line in body.splitlines() if not line.strip().startswith(("#", '"""'))]
    signs = sum(line.count(sign) for line in code for sign in ("<", ">"))
    assert signs == len(IN_TRITON)
