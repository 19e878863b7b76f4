"""Op x argument x kind: each argument does with every kernel kind what it does with PYTORCH, no
kernel of Triton's hides a product of PyTorch's, and a wrong value has one error text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import cuda, hstu_attention, hstu_compute, jagged_tensors
from generative_recommenders.ops import layer_norm as norms
from generative_recommenders.ops.mm import addmm
from generative_recommenders.ops.position import add_timestamp_positional_embeddings
from torch import Tensor

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, HAS_TRITON

ROWS, DIM, HEADS = 12, 32, 1
STARTS = cases.starts_of([7, 5])
LEFT, RIGHT = cases.starts_of([4, 1]), cases.starts_of([3, 4])
TARGETS = torch.tensor([2, 0], device=DEVICE)
X = cases.drawn(ROWS, DIM)
W, B = cases.drawn(DIM, seed=1), cases.drawn(DIM, seed=2)
Q = cases.drawn(ROWS, HEADS, DIM)
FLOAT16 = torch.float16


class Op(NamedTuple):
    """A call; values that arguments may have beside it; wrong ones."""

    function: Callable[..., Any]
    good: dict[str, Any]
    others: dict[str, Any]
    wrong: dict[str, Any]
    kinds: tuple[str, ...] = ("TRITON", "AUTO")


def _masks() -> dict[str, Any]:
    return {"num_targets": TARGETS, "max_attn_len": 2, "contextual_seq_len": 2}


WRONG_MASKS = {
    "max_seq_len": 0,
    "seq_offsets": STARTS.float(),
    "num_targets": TARGETS[:1],
    "max_attn_len": -1,
    "contextual_seq_len": -2,
}
UQVK = {
    "x": X, "norm_weight": W, "norm_bias": B, "norm_eps": 1e-6, "num_heads": 1, "attn_dim": 8,
    "hidden_dim": 4, "uvqk_weight": cases.drawn(DIM, 24, seed=3), "uvqk_bias": cases.drawn(24),
}  # fmt: skip
WRONG_UQVK = {
    "x": X[0], "norm_weight": W[:3], "norm_bias": B[:3], "num_heads": 0, "attn_dim": 0,
    "hidden_dim": 0, "uvqk_weight": X, "uvqk_bias": B,
}  # fmt: skip
OPS = {
    "hstu_mha": Op(
        hstu_attention.hstu_mha,
        {"max_seq_len": 7, "alpha": 0.3, "q": Q, "k": Q, "v": Q, "seq_offsets": STARTS},
        _masks() | {
            "max_seq_len": 6, "alpha": 1.5, "training": False, "dropout_pr": 0.0,
            "seq_offsets": STARTS.int(), "sort_by_length": True,
        },
        WRONG_MASKS | {
            "alpha": "x", "q": Q.int(), "k": Q.to(FLOAT16), "v": Q[:5], "causal": False,
            "dropout_pr": 1.0, "min_full_attn_seq_len": -1, "attn_scale": torch.ones(3),
        },
        ("TRITON", "AUTO", "CUDA"),
    ),
    "delta_hstu_mha": Op(
        hstu_attention.delta_hstu_mha,
        {"max_seq_len": 7, "alpha": 0.3, "delta_q": Q[:6], "k": Q, "v": Q, "seq_offsets": STARTS},
        _masks() | {"enable_tma": True},
        WRONG_MASKS | {"alpha": "x", "delta_q": Q[:5], "k": Q.to(FLOAT16), "v": Q[:5]},
    ),
    "hstu_compute_uqvk": Op(
        hstu_compute.hstu_compute_uqvk, UQVK, {"norm_eps": 0.5}, WRONG_UQVK
    ),
    "hstu_preprocess_and_attention": Op(
        hstu_compute.hstu_preprocess_and_attention,
        UQVK | {
            "max_seq_len": 7, "seq_offsets": STARTS, "attn_alpha": 0.3, "causal": True,
            "num_targets": None, "max_attn_len": 0, "contextual_seq_len": 0,
            "recompute_uvqk_in_backward": False, "recompute_normed_x_in_backward": False,
            "sort_by_length": False,
        },
        _masks() | {
            "recompute_uvqk_in_backward": True, "recompute_normed_x_in_backward": True,
            "sort_by_length": True, "enable_tma": True,
        },
        WRONG_UQVK | WRONG_MASKS | {"causal": False, "attn_alpha": "x"},
    ),
    "hstu_compute_output": Op(
        hstu_compute.hstu_compute_output,
        {
            "attn": X, "u": X, "x": X, "norm_weight": W, "norm_bias": B, "norm_eps": 1e-6,
            "output_weight": cases.drawn(3 * DIM, DIM), "num_heads": 1, "linear_dim": DIM,
            "dropout_ratio": 0.0, "training": True, "concat_u": True, "concat_x": True,
            "mul_u_activation_type": "none", "group_norm": False, "recompute_y_in_backward": False,
        },
        {"mul_u_activation_type": "silu", "norm_eps": 0.5, "recompute_y_in_backward": True},
        {
            "attn": X[:3], "u": X[:3], "x": X[0], "norm_weight": W[:3], "norm_bias": B[:3],
            "output_weight": X, "num_heads": 0, "linear_dim": 0, "dropout_ratio": 1.0,
            "mul_u_activation_type": "relu",
        },
    ),
    "addmm": Op(
        addmm,
        {"input": cases.drawn(16), "mat1": X, "mat2": cases.drawn(DIM, 16)},
        {"input": cases.drawn(ROWS, 16)},
        {"input": X, "mat1": X[0], "mat2": X},
    ),
    "layer_norm": Op(
        norms.layer_norm, {"x": X, "weight": W, "bias": B}, {"eps": 0.5},
        {"x": X.int(), "weight": W[:3], "bias": B[:3], "eps": -1.0},
    ),
    "swish_layer_norm": Op(
        norms.swish_layer_norm, {"x": X, "weight": W, "bias": B}, {"eps": 0.5},
        {"x": X.int(), "weight": W[:3], "bias": B[:3], "eps": -1.0},
    ),
    "rms_norm": Op(
        norms.rms_norm, {"x": X, "weight": W}, {"eps": 0.5, "silu": True},
        {"x": X.int(), "weight": W[:3], "eps": -1.0},
    ),
    "add_timestamp_positional_embeddings": Op(
        add_timestamp_positional_embeddings,
        {
            "alpha": 0.5, "max_seq_len": 7, "max_contextual_seq_len": 0,
            "position_embeddings_weight": X, "timestamp_embeddings_weight": X,
            "seq_offsets": STARTS, "seq_lengths": STARTS.diff(), "seq_embeddings": X,
            "timestamps": torch.arange(ROWS, device=DEVICE) * 1000, "num_targets": None,
            "interleave_targets": False,
        },
        {"max_contextual_seq_len": 2, "num_targets": TARGETS, "interleave_targets": True,
         "time_bucket_fn": "log"},
        {
            "alpha": "x", "max_seq_len": 0, "max_contextual_seq_len": -1,
            "position_embeddings_weight": X[:, :3], "timestamp_embeddings_weight": X[:, :3],
            "seq_offsets": STARTS.float(), "seq_lengths": STARTS, "seq_embeddings": X[0],
            "timestamps": X, "num_targets": STARTS, "interleave_targets": 1,
            "time_bucket_fn": "exp",
        },
    ),
    "concat_2D_jagged": Op(
        jagged_tensors.concat_2D_jagged,
        {"max_seq_len": 7, "values_left": X[:5], "values_right": X[:7], "offsets_left": LEFT,
         "offsets_right": RIGHT},
        {"offsets_left": LEFT.int()},
        {"max_seq_len": -1, "values_left": X[0], "values_right": X[:, :3],
         "offsets_left": LEFT.float(), "offsets_right": RIGHT.float()},
    ),
    "split_2D_jagged": Op(
        jagged_tensors.split_2D_jagged,
        {"max_seq_len": 7, "values": X, "offsets_left": LEFT, "offsets_right": RIGHT},
        {"total_len_left": 5, "total_len_right": 7},
        {"max_seq_len": -1, "values": X[0], "offsets_left": LEFT.float()},
    ),
    "hstu_split_l2_embeddings": Op(
        jagged_tensors.hstu_split_l2_embeddings,
        {"max_seq_len": 7, "x": X, "prefix_offsets": LEFT, "l2_offsets": RIGHT,
         "contextual_seq_len": 0},
        {"contextual_seq_len": 2},
        {"max_seq_len": -1, "contextual_seq_len": -1},
    ),
    "hstu_concat_l2_embeddings": Op(
        jagged_tensors.hstu_concat_l2_embeddings,
        {"max_prefix_len": 4, "prefix_x": X[:5], "prefix_offsets": LEFT, "max_l2_len": 4,
         "l2_x": X[:7], "l2_offsets": RIGHT, "contextual_seq_len": 0},
        {"contextual_seq_len": 2},
        {"max_prefix_len": -1, "max_l2_len": -1, "contextual_seq_len": -1},
    ),
    "jagged_dense_bmm_broadcast_add": Op(
        jagged_tensors.jagged_dense_bmm_broadcast_add,
        {"max_seq_len": 7, "seq_offsets": STARTS, "jagged": X, "dense": cases.drawn(2, DIM, 16),
         "bias": cases.drawn(2, 16)},
        {"seq_offsets": STARTS.int()},
        {"max_seq_len": 0, "seq_offsets": STARTS.float(), "jagged": X[0],
         "dense": cases.drawn(2, 3, 16), "bias": X},
    ),
}  # fmt: skip
LACKS = {"TRITON": not HAS_TRITON, "CUDA": not cuda.INSTALLED}


def cells(field: str) -> list[Any]:
    return [
        pytest.param(
            op, argument, kind, id=f"{op}-{argument}-{kind}",
            marks=pytest.mark.skipif(LACKS.get(kind, False), reason=f"{kind} is not installed"),
        )
        for op, row in OPS.items()
        for argument in getattr(row, field)
        for kind in row.kinds
    ]  # fmt: skip


def outputs(op: str, kind: str, **changes: Any) -> list[Tensor]:
    row = OPS[op]
    found = row.function(**(row.good | changes), kernel=HammerKernel(kind))
    return [t for t in (found if isinstance(found, tuple) else (found,)) if t is not None]


PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::einsum")


@pytest.mark.parametrize(("op", "argument", "kind"), cells("others"))
def test_an_argument_does_what_it_does_with_pytorch(op: str, argument: str, kind: str) -> None:
    change = {argument: OPS[op].others[argument]}
    given = OPS[op].good | change
    if kind == "CUDA" and DEVICE == "cuda":
        given = {k: v.half() if isinstance(v, Tensor) and v.is_floating_point() else v
                 for k, v in given.items()}  # fmt: skip
    expected = outputs(op, "PYTORCH", **given)
    with torch.profiler.profile() as profile:
        got = outputs(op, kind, **given)
    for e, g in zip(expected, got, strict=False):  # TRITON keeps k and v of a fused op to itself
        scale = 200.0 if e.dtype is torch.float16 else 1.0
        torch.testing.assert_close(g, e, rtol=2e-5 * scale, atol=2e-5 * scale)
    if kind == "TRITON":
        names = {event.key for event in profile.key_averages()}
        assert not names & set(PRODUCTS)


@pytest.mark.parametrize(("op", "argument", "kind"), cells("wrong"))
def test_a_wrong_value_has_the_error_text_of_pytorch(op: str, argument: str, kind: str) -> None:
    change = {argument: OPS[op].wrong[argument]}
    texts = []
    for each in ("PYTORCH", kind):
        with pytest.raises(ValueError) as caught:
            outputs(op, each, **change)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert texts[0].startswith("generative_recommenders: ")


def test_every_op_with_a_kernel_is_in_the_table() -> None:
    import inspect

    modules = (hstu_attention, hstu_compute, jagged_tensors, norms)
    found = {
        name
        for module in modules
        for name, f in vars(module).items()
        if inspect.isfunction(f) and "kernel" in inspect.signature(f).parameters
        and not name.startswith("_") and f.__module__ == module.__name__
    }  # fmt: skip
    found -= {"concat_2D_jagged_multirow", "split_2D_jagged_multirow"}  # the same by other names
    assert found | {"addmm", "add_timestamp_positional_embeddings"} == set(OPS)
