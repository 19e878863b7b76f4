"""The ops as torch knows them: schemas, fakes, graphs of torch.compile and torch.export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

pytestmark = needs_triton
STARTS = cases.starts_of([17, 9])
UTILITIES = ("test_schema", "test_faketensor")


def calls() -> dict[str, tuple[Any, ...]]:
    ops = torch.ops.generative_recommenders
    q = cases.drawn(26, 1, 16)
    x, w = cases.drawn(26, 16), cases.drawn(16, seed=1)
    mean, rstd = torch.zeros(26, 1, device=DEVICE), torch.ones(26, 1, device=DEVICE)
    seed = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    kind = (1e-6, 0.25, False, True, True, "silu", False, 1, -1)
    dq, dk, dv = (torch.empty_like(q) for _ in range(3))
    attention = (None, 17, 0.3, 5, 2, None, False, 0)
    times = torch.arange(26, device=DEVICE) * 1000
    return {
        "attention_fwd": (
            ops.triton_hstu_attention_fwd, 17, 0.3, q, q, q, STARTS, None, 5, 2, None, False, 0,
        ),
        "attention_bwd": (
            ops.triton_hstu_attention_bwd, q, q, q, q, dq, dk, dv, STARTS, *attention,
        ),
        "cached": (
            ops.triton_cached_hstu_attention, 17, 0.3, q[:8], q, q, STARTS, None, 0, 0, False,
        ),
        "norm_fwd": (ops.triton_norm_fwd, x, w, w, 1e-6, "swish", False),
        "norm_bwd": (
            ops.triton_norm_bwd, x, x, w, None, mean[:0, 0], rstd[:, 0], "none", True,
        ),
        "linear_fwd": (ops.triton_norm_mul_dropout_fwd, x, x, w, w, seed, *kind),
        "linear_bwd": (
            ops.triton_norm_mul_dropout_bwd, x.repeat(1, 3), x, x, w, w, mean, rstd, seed, *kind,
        ),
        "addmm": (ops.triton_addmm_fwd, x, x.t().contiguous(), cases.drawn(26)),
        "swiglu": (ops.triton_swiglu, x, x, x),
        "tails": (ops.triton_clear_tails, q.clone(), STARTS, 5),
        "join": (ops.triton_concat_2D_jagged, 34, x, x, STARTS, STARTS, 1, False),
        "part": (ops.triton_split_2D_jagged, 17, x, 13, 13, STARTS // 2, STARTS // 2, 0, True),
        "bmm": (ops.triton_jagged_bmm, 17, STARTS, x, cases.drawn(2, 16, 4), None, "none"),
        "outer": (ops.triton_jagged_outer, 17, STARTS, x, x),
        "sum": (ops.triton_jagged_sum, 17, STARTS, x),
        "position": (
            ops.triton_add_embeddings, x, STARTS, x, x, times, 17, 1, STARTS.diff(), None, 1, True,
            0.5,
        ),
        "position_bwd": (
            ops.triton_add_embeddings_bwd, x, STARTS, STARTS.diff(), (times % 5).int(), 7, 5, 17, 1,
            0.5,
        ),
    }  # fmt: skip


def import_all() -> None:
    from generative_recommenders.ops.triton import (  # noqa: F401
        triton_hstu_linear,
        triton_hstu_preprocess_and_attention,
        triton_jagged_tensors,
        triton_position,
        triton_swiglu,
        triton_tails,
    )


import_all() if cases.HAS_TRITON else None
CALLS = list(calls()) if cases.HAS_TRITON else []


@pytest.mark.parametrize("name", CALLS)
def test_schema_and_fake_are_those_of_the_op(name: str) -> None:
    op, *arguments = calls()[name]
    torch.library.opcheck(op.default, tuple(arguments), test_utils=UTILITIES)


def test_every_op_is_in_the_list() -> None:
    registered = {
        schema.name.split("::")[1]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("generative_recommenders::")
    }
    assert registered == {call[0].__name__ for call in calls().values()}


@pytest.mark.parametrize("kernel", [HammerKernel.PYTORCH, HammerKernel.TRITON])
def test_attention_is_one_graph_of_torch_compile(kernel: HammerKernel) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_mha(17, 0.3, q, k, v, STARTS, max_attn_len=5, kernel=kernel)

    qkv = [cases.drawn(26, 1, 16, seed=i) for i in range(3)]
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for expected, got in zip(
        cases.results(attention, qkv), cases.results(compiled, qkv), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [HammerKernel.PYTORCH, HammerKernel.TRITON])
def test_attention_can_be_exported(kernel: HammerKernel) -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            with torch.no_grad():
                return hstu_mha(17, 0.3, q, q, q, STARTS, kernel=kernel)

    q = cases.drawn(26, 1, 16)
    program = torch.export.export(Attention(), (q,))
    torch.testing.assert_close(program.module()(q), Attention()(q))
