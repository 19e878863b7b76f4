"""Bad arguments are named with their value before anything runs, alike for every kernel."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_recommenders import common
from generative_recommenders.common import HammerKernel, HammerModule
from generative_recommenders.ops import hstu_attention, hstu_compute, jagged_tensors, mm, position
from generative_recommenders.ops import layer_norm as norms

from tests.hstu_triton import cases
from tests.hstu_triton.cases import DEVICE, needs_triton

KERNELS = [HammerKernel.PYTORCH, pytest.param(HammerKernel.TRITON, marks=needs_triton)]
MISSING = [HammerKernel.TLX, HammerKernel.CUTEDSL]
if not (Path(common.__file__).parent / "libhstu_triton.so").is_file():
    MISSING.append(HammerKernel.TRITON_CC)
STARTS = cases.starts_of([4, 3])
Q = cases.drawn(7, 2, 16)
GOOD = {"max_seq_len": 4, "alpha": 0.5, "q": Q, "k": Q, "v": Q, "seq_offsets": STARTS}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_seq_len": 0}, "max_seq_len must be >= 1, got 0"),
    ({"max_seq_len": "4"}, "max_seq_len must be an int, got str"),
    ({"max_attn_len": -1}, "max_attn_len must be >= 0, got -1"),
    ({"contextual_seq_len": 1.5}, "contextual_seq_len must be an int, got float"),
    ({"min_full_attn_seq_len": -2}, "min_full_attn_seq_len must be >= 0, got -2"),
    ({"alpha": "x"}, "alpha must be a number, got str"),
    ({"causal": False}, "causal must be True, got False"),
    ({"dropout_pr": 1.0}, r"dropout_pr must lie in \[0, 1\), got 1.0"),
    ({"q": Q[0]}, r"q must have shape \(rows, heads, dim\), got \(2, 16\)"),
    ({"q": Q[:1].expand(2**31, 2, 16)}, "rows of q must be <= 2147483647, got 2147483648"),
    ({"q": Q.int()}, "q must be a floating-point tensor, got torch.int32"),
    ({"k": Q.half()}, "k is torch.float16, but q is torch.float32"),
    ({"k": Q[:, :, :8]}, r"k must have the heads and the dim of q"),
    ({"v": Q[:5]}, "v must have the rows and the heads of k"),
    ({"seq_offsets": STARTS.float()}, "seq_offsets must be int32 or int64, got torch.float32"),
    ({"seq_offsets": STARTS[:0]}, r"seq_offsets must have shape \(batch \+ 1,\)"),
    ({"num_targets": torch.ones(3, dtype=torch.int64)}, r"num_targets must have shape \(2,\)"),
    ({"attn_scale": torch.ones(3)}, r"attn_scale must be a scalar or have shape \(7,\)"),
    ({"kernel": "TRITON"}, "kernel must be a HammerKernel, got str"),
]
# Values are looked at where that waits for nobody.
BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"seq_offsets": torch.tensor([0, 4, 6])}, r"seq_offsets must end at the 7 rows .*\[-1\] = 6"),
    ({"seq_offsets": torch.tensor([0, 9, 7])}, r"seq_offsets must not decrease, .*\[1\] = 9"),
    ({"seq_offsets": torch.tensor([1, 4, 7])}, "seq_offsets must start at 0, got 1"),
    ({"num_targets": torch.tensor([1, 4])}, r"num_targets\[1\] = 4 for a sequence of 3"),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("change", "message"), BAD + (BAD_VALUES if DEVICE == "cpu" else []))
def test_attention_names_the_argument(
    kernel: HammerKernel, change: dict[str, Any], message: str
) -> None:
    moved = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=f"^generative_recommenders: .*{message}"):
        hstu_attention.hstu_mha(**({"kernel": kernel} | GOOD | moved))


@needs_triton
def test_triton_refuses_what_it_has_not_by_name() -> None:
    triton = {"kernel": HammerKernel.TRITON} | GOOD
    with pytest.raises(ValueError, match=r"dropout_pr must be 0 with TRITON, got 0\.5"):
        hstu_attention.hstu_mha(**triton, dropout_pr=0.5)
    scale = torch.ones((), device=DEVICE, requires_grad=True)
    with pytest.raises(ValueError, match="attn_scale must not require a gradient with TRITON"):
        hstu_attention.hstu_mha(**triton, attn_scale=scale)


@pytest.mark.parametrize("kernel", MISSING)
def test_a_kernel_that_is_not_there_raises_and_nothing_stands_in_for_it(
    kernel: HammerKernel,
) -> None:
    with pytest.raises(ImportError, match=f"hstu_mha: {kernel.value}"):
        hstu_attention.hstu_mha(**GOOD, kernel=kernel)
    with pytest.raises(ImportError, match=f"addmm: {kernel.value}"):
        mm.addmm(Q[0], Q[0, :, :2], Q[0], kernel)
    with pytest.raises(ImportError, match="addmm has no CUDA kernel"):
        mm.addmm(Q[0], Q[0, :, :2], Q[0], HammerKernel.CUDA)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_other_ops_name_the_argument(kernel: HammerKernel) -> None:
    x, w = cases.drawn(7, 16), cases.drawn(16)
    for call, message in (
        (lambda: norms.layer_norm(x, w[:3], w, 1e-5, kernel), r"weight must have shape \(16,\)"),
        (lambda: norms.rms_norm(x, w, -1.0, False, kernel), "eps must be >= 0, got -1.0"),
        (lambda: mm.addmm(w, x, x, kernel), "mat2 must have 16 rows"),
        (lambda: mm.addmm(w[:3], x, x.t(), kernel), r"input must have shape \(7, 7\) or \(7,\)"),
        (
            lambda: jagged_tensors.concat_2D_jagged(9, x, x[:, :3], kernel=kernel),
            "values_left and values_right must have one dim, got 16 and 3",
        ),
        (
            lambda: jagged_tensors.split_2D_jagged(9, x, kernel=kernel),
            "offsets_left or offsets_right must be given",
        ),
        (
            lambda: position.add_timestamp_positional_embeddings(
                1.0, 4, 0, x, x, STARTS, STARTS.diff(), x, w[:7], None, False, "exp", kernel
            ),
            "time_bucket_fn must be 'sqrt' or 'log', got 'exp'",
        ),
        (
            lambda: hstu_compute.hstu_compute_uqvk(x, w, w, 1e-6, 2, 4, 4, x.t(), w, kernel),
            r"uvqk_weight must have shape \(16, 32\), got \(16, 7\)",
        ),
        (
            lambda: hstu_compute.hstu_compute_output(
                x,
                x,
                x,
                w,
                w,
                1e-6,
                w[:, None],
                1,
                16,
                0.0,
                False,
                False,
                False,
                "relu",
                False,
                False,
                kernel,
            ),
            "mul_u_activation_type must be one of .*, got 'relu'",
        ),
    ):
        with pytest.raises(ValueError, match=f"^generative_recommenders: .*{message}"):
            call()


def test_a_module_asks_for_the_kernel_that_was_set_then_for_compiled_ones_in_inference() -> None:
    class Outer(HammerModule):
        def __init__(self) -> None:
            super().__init__(is_inference=True)
            self.inner = norms.LayerNorm(4)

    module = Outer()
    assert module.hammer_kernel() is HammerKernel.TRITON_CC
    assert module.inner.hammer_kernel() is HammerKernel.TRITON
    module.set_use_triton_cc(False)
    assert module.hammer_kernel() is HammerKernel.TRITON
    module.set_hammer_kernel(HammerKernel.PYTORCH)
    assert module.inner.hammer_kernel() is HammerKernel.PYTORCH
    module.set_is_inference(False)
    module.set_training_dtype(torch.bfloat16)
    assert module.is_train and module.inner._training_dtype is torch.bfloat16


def test_the_package_imports_and_runs_without_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from generative_recommenders.ops.hstu_attention import hstu_mha\n"
        "q = torch.rand(3, 1, 4); print(hstu_mha(3, 1.0, q, q, q, torch.tensor([0, 3])).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "torch.Size([3, 1, 4])\n", done.stderr


def test_the_report_says_which_kinds_can_run() -> None:
    command = [sys.executable, "-m", "generative_recommenders"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert said["PYTORCH"] == "can run"
    compiled = HammerKernel.TRITON_CC not in MISSING
    begin = "can run: " if compiled else "cannot run: this wheel has no compiled kernels"
    assert said["TRITON_CC"].startswith(begin)


def test_lengths_are_drawn_in_the_range_that_sparsity_says() -> None:
    torch.manual_seed(0)
    device = torch.device("cpu")
    assert common.generate_sparse_seq_len(5, 100, 0.0, device).tolist() == [0] * 5
    assert common.generate_sparse_seq_len(5, 100, 1.0, device).tolist() == [100] * 5
    low = common.generate_sparse_seq_len(1000, 100, 0.25, device)
    high = common.generate_sparse_seq_len(1000, 100, 0.75, device)
    assert low.min() < 3 and 45 < low.max() < 50 and 50 <= high.min() < 53 and high.max() > 95
    cut = common.apply_sampling(torch.full((1000,), 100), 1.5, 100)
    assert set(cut.tolist()) == {100, 31} and 50 < (cut == 100).sum() < 150


def test_lengths_stand_for_others_where_configurations_are_chosen() -> None:
    common.set_static_max_seq_lens([])  # a DlrmHSTU of this process has set its own
    assert common.autotune_max_seq_len(100) == 1
    common.set_static_max_seq_lens([256, 64])
    assert [common.autotune_max_seq_len(n) for n in (3, 65, 999)] == [64, 256, 256]
    common.set_use_runtime_max_seq_len(True)
    assert [common.autotune_max_seq_len(n) for n in (64, 100)] == [64, 64]
    common.set_use_runtime_max_seq_len(False)
    common.set_static_max_seq_lens([])
    assert [common.next_power_of_2(n) for n in (0, 1, 3, 64)] == [1, 1, 4, 64]


def test_padded_and_jagged_are_each_others_inverse() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(0, 5) for _ in range(6)]
    starts = cases.starts_of(lengths)
    values = cases.drawn(sum(lengths), 2, 3)
    padded = common.jagged_to_padded_dense(values, [starts], [5], -1.0)
    assert padded.shape == (6, 5, 2, 3) and (padded[0, lengths[0] :] == -1).all()
    back, _ = common.dense_to_jagged(padded, [starts])
    assert torch.equal(back, values)
    short = common.jagged_to_padded_dense(values, [starts], [2], -1.0)
    assert torch.equal(short, padded[:, :2])


def test_the_ops_take_the_kernel_pytorch_unless_told_otherwise() -> None:
    for function in (
        hstu_attention.hstu_mha,
        hstu_attention.delta_hstu_mha,
        hstu_compute.hstu_compute_uqvk,
        mm.addmm,
        norms.layer_norm,
        jagged_tensors.concat_2D_jagged,
    ):
        kernel = inspect.signature(function).parameters["kernel"]
        assert kernel.default is HammerKernel.PYTORCH
