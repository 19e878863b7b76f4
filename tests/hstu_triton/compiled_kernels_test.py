"""TRITON_CC: kernels that were compiled with the wheel. Without a GPU every op comes as far as the
launch: its kernel is found, and the list of its arguments agrees with what was compiled."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from generative_recommenders import common
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import jagged_tensors as jagged
from generative_recommenders.ops import layer_norm as norms
from generative_recommenders.ops.hstu_attention import delta_hstu_mha, hstu_mha
from generative_recommenders.ops.hstu_compute import hstu_compute_output, hstu_compute_uqvk
from generative_recommenders.ops.mm import addmm
from generative_recommenders.ops.position import add_timestamp_positional_embeddings
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.common import gpus
from tests.hstu_triton import cases
from tests.hstu_triton.hstu_attention_test import MASKS, mask_of

compiled = pytest.importorskip("generative_recommenders.ops.compiled", exc_type=ImportError)
rows = importlib.import_module("generative_recommenders.ops.compiled_rows")
CC = HammerKernel.TRITON_CC
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
on_gpu = pytest.mark.skipif(bool(gpus.why_none()), reason=str(gpus.why_none()))
# Of names: the kernels whose shape is a head dim, or a width.
NAMES = sorted(compiled.NAMES)
SIZED = tuple(n.split(".")[0] for n in NAMES if n.endswith((".whole", ".any")))


def attention_call(name: str) -> Any:
    kernel, dtype, dim, kind, mask = name.split(".")
    q = torch.zeros(24, 2, int(dim), dtype=DTYPES[dtype])
    starts = torch.tensor([0, 4, 24])
    longest = 200 if kind == "short" else 300
    targets = torch.tensor([1, 2]) if mask == "general" else None
    rest = (starts, targets, None, None, longest, 0.5, 0, 0, 0)
    if kernel == "attention_fwd":
        op = compiled.delta_attention if kind == "delta" else compiled.attention_fwd
        return lambda: op(q[:8] if kind == "delta" else q, q, q, *rest)
    return lambda: compiled.attention_bwd(q, q, q, q, *rest)


def norm_call(name: str) -> Any:
    kernel, dtype, width = name.split(".")
    x = torch.zeros(5, int(width), dtype=DTYPES[dtype])
    w, rstd = x[0].clone(), torch.zeros(5)
    seed = torch.zeros(2, dtype=torch.int64)
    kind = (1e-5, 0.1, False, True, True, 1, False, 1)
    return {
        "norm_fwd": lambda: compiled.norm_fwd(x, w, w, 1e-5, 1, False),
        "norm_bwd": lambda: compiled.norm_bwd(x, rstd, rstd, x, w, w, 1e-5, 0, False),
        "norm_bwd_gated": lambda: compiled.norm_bwd(x, rstd, rstd, x, w, w, 1e-5, 1, False),
        "norm_mul_dropout_fwd": lambda: compiled.norm_mul_dropout_fwd(x, x, w, w, seed, *kind),
        "norm_mul_dropout_bwd": lambda: compiled.norm_mul_dropout_bwd(
            x.repeat(1, 3), rstd[:, None], rstd[:, None], x, x, w, w, seed, *kind
        ),
    }[kernel]


def sized_call(name: str) -> Any:
    kernel, dtype, kind = name.split(".")
    n = 32 if kind == "whole" else 30
    x = torch.zeros(12, n, dtype=DTYPES.get(dtype, torch.bfloat16))
    starts, left, right = (torch.tensor(t) for t in ([0, 7, 12], [0, 4, 7], [0, 3, 5]))
    dense, table = x.new_zeros(2, n, n), torch.zeros(5, n)
    times, wide = torch.arange(12), x.repeat(1, 4)
    places = (x, starts, starts.diff(), None, table, table, times, 7, 1, 1)
    product = (starts, x, dense, dense[:, 0], 7)
    return {
        "addmm": lambda: rows.addmm(x[0].clone(), x, dense[0]),
        "bmm": lambda: rows.jagged_bmm(*product),
        "bmm_outer": lambda: rows.jagged_bmm_bwd(x, *product),
        "concat": lambda: rows.concat_rows(x, x, starts, starts, 14, 1, False),
        "split": lambda: rows.split_rows(x, 7, 5, left, right, 7, 0, True),
        "position_sqrt": lambda: rows.add_embeddings(*places, True, 1.0),
        "position_log": lambda: rows.add_embeddings(*places, False, 1.0),
        "sum_of_rows": lambda: rows.sum_of_rows(x, times, torch.tensor([0, 5, 12])),
        "bias_silu_fwd": lambda: rows.bias_silu(wide, wide[0].clone(), n),
        "bias_silu_bwd": lambda: rows.bias_silu_bwd(x, x, x, x, wide, wide[0].clone(), n),
    }["bmm_outer" if kernel.startswith("bmm_") else kernel]


# Blocks for the sizes above.
GRIDS = {
    "addmm": "1 x 1 x 1",
    "bmm": "2 x 1 x 1",
    "bmm_outer": "2 x 1 x 1",
    "concat": "2 x 1 x 1",
    "split": "2 x 1 x 1",
    "position_sqrt": "2 x 1 x 1",
    "position_log": "2 x 1 x 1",
    "sum_of_rows": "2 x 1 x 1",
    "bias_silu_fwd": "1 x 1 x 1",
    "bias_silu_bwd": "1 x 4 x 1",
}


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("add_up")])
def test_the_arguments_of_every_launch_agree_with_the_object(name: str) -> None:
    first, kernel = name, name.split(".")[0]
    grid = ""
    if kernel in SIZED:
        call = sized_call(name)
        if kernel.startswith("bmm_"):  # one op; what all of them take is compared before the first
            first = name.replace(kernel, "bmm_outer")
        grid = re.escape(GRIDS[first.split(".")[0]])
    elif name.startswith("attention"):
        call = attention_call(name)
        first = name if "bwd" not in name else "attention_bwd"
    else:
        call = norm_call(name)
    message = f"{re.escape(first)}.*needs a GPU: the tensors are on the CPU; its grid: {grid}"
    with pytest.raises(RuntimeError, match=message):
        call()


def test_a_grid_covers_every_row_and_column() -> None:
    x, w = torch.zeros(1000, 64).bfloat16(), torch.zeros(64, 700).bfloat16()
    with pytest.raises(RuntimeError, match="its grid: 176 x 1 x 1"):  # 16 x 11 of 64 x 64
        rows.addmm(w[0].clone(), x, w)


@pytest.mark.parametrize("name", sorted(set(SIZED)))
def test_the_fake_of_every_op_has_the_results_of_the_formula(name: str) -> None:
    whole = next(n for n in NAMES if n.startswith(name + ".") and n.endswith(".whole"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = sized_call(whole)()
    shapes = {
        "addmm": [(12, 32)],
        "bmm": [(12, 32)],
        "concat": [(24, 32)],
        "split": [(7, 32), (5, 32)],
        "position_sqrt": [(12, 32), (12,), (12,)],
        "position_log": [(12, 32), (12,), (12,)],
        "sum_of_rows": [(2, 32)],
        "bias_silu_fwd": [(12, 128)],
        "bias_silu_bwd": [(12, 128), (128,)],
    }.get(name, [(12, 32), (2, 32, 32), (2, 32)])
    results = found if isinstance(found, tuple) else (found,)
    assert [tuple(t.shape) for t in results] == shapes


def test_auto_takes_a_compiled_kernel_where_there_is_one() -> None:
    with FakeTensorMode():
        x = torch.empty(3, 64, dtype=torch.bfloat16, device="cuda")
        for width, expected in ((64, CC), (65, HammerKernel.TRITON), (None, HammerKernel.TRITON)):
            taken = common._fastest(("norm_fwd", width), x)
            assert taken is expected
        assert common._fastest(("concat", None), x) is CC
        assert common._fastest(("concat", None), x.float()) is HammerKernel.TRITON
        assert common._fastest(None, x) is HammerKernel.TRITON
    assert common._fastest(("concat", None), torch.zeros(3, 64).bfloat16()) is HammerKernel.PYTORCH


def test_every_gpu_has_the_same_kernels_with_the_same_arguments() -> None:
    by_arch: dict[str, dict[str, str]] = {}
    for o in compiled.build_info()["objects"]:
        by_arch.setdefault(o["arch"], {})[o["name"]] = o["parameters"]
    assert set(by_arch) == {"sm_80", "sm_90", "compute_80"}
    assert by_arch["sm_80"] == by_arch["compute_80"]
    for name, parameters in by_arch["sm_80"].items():
        assert by_arch["sm_90"][name] == parameters, name
    only = by_arch["sm_90"].keys() - by_arch["sm_80"].keys()
    assert all(".short." in name for name in only)


def test_a_shape_without_an_object_names_the_nearest() -> None:
    q = torch.zeros(4, 1, 96, dtype=torch.bfloat16)
    message = r"no compiled kernel attention_fwd.bf16.96.long.causal; nearest: attention_fwd.bf16"
    with pytest.raises(RuntimeError, match=message):
        hstu_mha(300, 1.0, q, q, q, torch.tensor([0, 4]), kernel=CC)
    with pytest.raises(RuntimeError, match="q must be bfloat16 or float16 with TRITON_CC"):
        hstu_mha(300, 1.0, q.float(), q.float(), q.float(), torch.tensor([0, 4]), kernel=CC)


@cases.needs_triton
def test_allow_jit_lets_triton_take_a_shape_without_an_object() -> None:
    q = cases.drawn(4, 1, 16)
    starts = cases.starts_of([4])
    common.set_allow_jit(True)
    try:
        got = hstu_mha(4, 1.0, q, q, q, starts, kernel=CC)
    finally:
        common.set_allow_jit(False)
    torch.testing.assert_close(got, hstu_mha(4, 1.0, q, q, q, starts), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_pytorch_with_gradients(mask: str, dtype: torch.dtype) -> None:
    for lengths in ([17, 0, 300, 131, 512, 64], [40, 0, 200, 3]):
        starts, options = cases.starts_of(lengths), mask_of(mask, lengths)
        for dim in (32, 64, 128, 256):
            if not compiled.serves("attention_fwd", dim, torch.empty(0, dtype=dtype)):
                continue

            def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return hstu_mha(max(lengths), 0.3, q, k, v, starts, kernel=kernel, **options)  # noqa: B023

            qkv = [cases.drawn(sum(lengths), 2, dim, dtype=dtype, seed=i) for i in range(3)]
            cases.assert_equal_results(attention, qkv, CC)


@pytest.mark.gpu
@on_gpu
def test_strided_views_orders_and_scales_are_read() -> None:
    lengths, dim = [190, 8, 300], 64
    starts = cases.starts_of(lengths)
    scale = cases.drawn(sum(lengths))

    def attention(kernel: HammerKernel, uvqk: Tensor) -> Tensor:
        _, v, q, k = (t.unflatten(1, (2, dim)) for t in uvqk.split(2 * dim, 1))
        return hstu_mha(
            300, 0.3, q, k, v, starts, sort_by_length=True, attn_scale=scale, kernel=kernel
        )

    cases.assert_equal_results(
        attention, [cases.drawn(sum(lengths), 8 * dim, dtype=torch.bfloat16)], CC
    )


@pytest.mark.gpu
@on_gpu
def test_the_last_rows_alone_are_pytorch_s() -> None:
    starts = cases.starts_of([700, 20, 333])
    q, k, v = (cases.drawn(n, 2, 64, dtype=torch.bfloat16, seed=n) for n in (60, 1053, 1053))
    options = {"num_targets": torch.tensor([5, 20, 0], device="cuda"), "max_attn_len": 100}
    expected, got = (
        delta_hstu_mha(700, 0.3, q, k, v, starts, kernel=kernel, **options)
        for kernel in (HammerKernel.PYTORCH, CC)
    )
    torch.testing.assert_close(got, expected, rtol=3e-2, atol=3e-3)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dim", [50, 64, 256, 1024])
def test_norms_are_pytorch_s_with_gradients(dim: int) -> None:
    if not compiled.serves("norm_fwd", dim, torch.empty(0, dtype=torch.bfloat16)):
        pytest.skip("not in this build")
    calls = {
        "layer": lambda k, x, w, b: norms.layer_norm(x, w, b, 1e-5, k),
        "swish": lambda k, x, w, b: norms.swish_layer_norm(x, w, b, 1e-5, k),
        "silu": lambda k, x, w, b: norms.rms_norm(x, w, 1e-5, True, k),
    }
    for rows in (0, 1, 37, 5000):
        shapes = [(rows, dim), (dim,), (dim,)]
        inputs = [cases.drawn(*s, dtype=torch.bfloat16, seed=i) for i, s in enumerate(shapes)]
        for call in calls.values():
            cases.assert_equal_results(call, inputs, CC, scale=2)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("group", [False, True])
def test_a_layer_is_pytorch_s_dropout_included(group: bool) -> None:
    rows, heads, dim = 300, 4, 64
    wide, size = heads * dim, heads if group else heads * dim
    if not compiled.serves("norm_mul_dropout_fwd", dim if group else wide, torch.empty(0).half()):
        pytest.skip("not in this build")
    shapes = [(rows, wide), (rows, wide), (rows, 32), (size,), (size,), (3 * wide, 32)]
    inputs = [cases.drawn(*s, dtype=torch.bfloat16, seed=i) for i, s in enumerate(shapes)]

    def output(kernel: HammerKernel, *t: Tensor) -> Tensor:
        attn, u, x, weight, bias, out = t
        torch.manual_seed(3)
        return hstu_compute_output(
            attn, u, x, weight, bias, 1e-6, out / 16, heads, dim, 0.2, True, True, True, "silu",
            group, False, kernel,
        )  # fmt: skip

    cases.assert_equal_results(output, inputs, CC, scale=2)


@pytest.mark.gpu
@on_gpu
def test_projection_into_u_q_k_v_is_pytorch_s() -> None:
    shapes = [(50, 64), (64,), (64,), (64, 512), (512,)]
    inputs = [cases.drawn(*s, dtype=torch.bfloat16, seed=i) for i, s in enumerate(shapes)]

    def uqvk(kernel: HammerKernel, *t: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias, w, b = t
        return hstu_compute_uqvk(x, weight, bias, 1e-6, 2, 64, 64, w / 8, b, kernel)

    cases.assert_equal_results(uqvk, inputs, CC, scale=2)


def sized_cases(dim: int) -> dict[str, tuple[Any, list[Tensor]]]:
    """Calls that take a kernel and tensors, and these."""
    lengths, others = [170, 0, 333, 1], [3, 70, 0, 2]
    starts, more = cases.starts_of(lengths), cases.starts_of(others)
    count = sum(lengths)

    def drawn(*shape: int) -> Tensor:
        return cases.drawn(*shape, dtype=torch.bfloat16)

    times = torch.randint(0, 10**6, (count,), device="cuda").sort()[0]
    targets = torch.tensor([5, 0, 20, 1], device="cuda")

    def position(kernel: HammerKernel, x: Tensor, pos: Tensor, ts: Tensor, way: str) -> Tensor:
        return add_timestamp_positional_embeddings(
            0.5, 333, 2, pos, ts, starts, starts.diff(), x, times, targets, True, way, kernel
        )

    tables = [drawn(count, dim), cases.drawn(300, dim), cases.drawn(90, dim)]
    return {
        "addmm": (lambda k, *t: addmm(*t, k), [drawn(dim), drawn(count, 96), drawn(96, dim)]),
        "addmm matrix": (
            lambda k, *t: addmm(*t, k),
            [drawn(count, dim), drawn(count, 96), drawn(96, dim)],
        ),
        "concat": (
            lambda k, a, b: jagged.concat_2D_jagged(
                403, a, b, offsets_left=starts, offsets_right=more, kernel=k
            ),
            [drawn(count, dim), drawn(sum(others), dim)],
        ),
        "split": (
            lambda k, x: jagged.split_2D_jagged(
                403, x, count, offsets_left=starts, offsets_right=more, kernel=k
            ),
            [drawn(count + sum(others), dim)],
        ),
        "bmm": (
            lambda k, *t: jagged.jagged_dense_bmm_broadcast_add(333, starts, *t, k),
            [drawn(count, 48), drawn(4, 48, dim) / 8, drawn(4, dim)],
        ),
        "position sqrt": (lambda k, *t: position(k, *t, "sqrt"), tables),
        "position log": (lambda k, *t: position(k, *t, "log"), tables),
    }


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dim", [50, 64, 416])
def test_ops_of_every_width_are_pytorch_s_with_gradients(dim: int) -> None:
    for call, inputs in sized_cases(dim).values():
        cases.assert_equal_results(call, inputs, CC, scale=2)
