"""Products of matrices: Triton against PyTorch."""

from __future__ import annotations

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.mm import addmm
from generative_recommenders.ops.pytorch.pt_swiglu import pytorch_swiglu

from tests.hstu_triton import cases
from tests.hstu_triton.cases import needs_triton

pytestmark = needs_triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(70, 48, 40), (1, 16, 100), (0, 16, 8)])
def test_addmm_by_triton_is_pytorch(
    m: int, n: int, k: int, broadcast: bool, dtype: torch.dtype
) -> None:
    y = cases.drawn(n) if broadcast else cases.drawn(m, n)
    inputs = [y, cases.drawn(m, k, seed=1), cases.drawn(k, n, seed=2)]
    cases.assert_equal_results(
        lambda kernel, y, x, w: addmm(y, x, w, kernel), [t.to(dtype) for t in inputs], scale=4
    )


def test_swiglu_by_triton_is_pytorch() -> None:
    from generative_recommenders.ops.triton.triton_swiglu import triton_swiglu

    functions = {HammerKernel.PYTORCH: pytorch_swiglu, HammerKernel.TRITON: triton_swiglu}
    inputs = [cases.drawn(37, 24), cases.drawn(40, 24, seed=1), cases.drawn(40, 24, seed=2)]
    cases.assert_equal_results(lambda kernel, *t: functions[kernel](*t), inputs, scale=4)
