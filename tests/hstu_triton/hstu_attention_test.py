"""HSTU attention: PyTorch against loops of the formula, Triton and CUDA against PyTorch."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops import cuda
from generative_recommenders.ops.hstu_attention import delta_hstu_mha, hstu_mha, hstu_mha_cuda
from torch import Tensor

from tests.hstu_triton import cases, oracle
from tests.hstu_triton.cases import DEVICE, INTERPRETED, needs_triton

# rule -> its argument
MASKS: dict[str, dict[str, Any]] = {
    "causal": {},
    "targets": {"targets": True},
    "window": {"max_attn_len": 5},
    "contexts": {"contextual_seq_len": 3},
    "window and full": {"max_attn_len": 4, "min_full_attn_seq_len": 6},
    "all": {
        "targets": True,
        "max_attn_len": 5,
        "contextual_seq_len": 3,
        "min_full_attn_seq_len": 4,
    },
}


def mask_of(name: str, lengths: list[int], seed: int = 0) -> dict[str, Any]:
    options = dict(MASKS[name])
    if options.pop("targets", False):
        rng = random.Random(seed)
        counts = [rng.randint(0, length) for length in lengths]
        options["num_targets"] = torch.tensor(counts, device=DEVICE)
    return options


def qkv(
    rows: int, heads: int, dim: int, dim_v: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    sizes = (dim, dim, dim_v)
    return [cases.drawn(rows, heads, d, dtype=dtype, seed=i) for i, d in enumerate(sizes)]


@pytest.mark.parametrize("mask", MASKS)
def test_pytorch_is_the_formula(mask: str) -> None:
    lengths, n = [9, 0, 1, 12], 12
    starts = cases.starts_of(lengths)
    q, k, v = qkv(sum(lengths), 2, 4, 3, torch.float64)
    options = mask_of(mask, lengths)
    got = hstu_mha(n, 0.7, q, k, v, starts, **options)
    targets = options["num_targets"].tolist() if "num_targets" in options else None
    expected = oracle.attention(
        n,
        0.7,
        q.cpu(),
        k.cpu(),
        v.cpu(),
        starts.tolist(),
        targets,
        options.get("max_attn_len", 0),
        options.get("contextual_seq_len", 0),
        options.get("min_full_attn_seq_len", 0),
    )
    torch.testing.assert_close(got.cpu(), expected)


def test_pytorch_has_the_gradient_of_the_formula() -> None:
    starts = cases.starts_of([4, 3], "cpu")
    inputs = [t.cpu().requires_grad_() for t in qkv(7, 1, 3, 2, torch.float64)]
    targets = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(
        lambda q, k, v: hstu_mha(4, 0.5, q, k, v, starts, num_targets=targets, max_attn_len=2),
        inputs,
    )


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_triton_is_pytorch_with_gradients(mask: str, dtype: torch.dtype) -> None:
    lengths, n = ([17, 0, 25], 25) if INTERPRETED else ([17, 0, 300, 131, 512, 64], 512)
    starts = cases.starts_of(lengths)
    options = mask_of(mask, lengths)
    for dim, dim_v in [(16, 16)] if INTERPRETED else [(32, 32), (64, 128), (128, 64), (256, 256)]:

        def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return hstu_mha(n, 0.3, q, k, v, starts, kernel=kernel, **options)

        cases.assert_equal_results(attention, qkv(sum(lengths), 2, dim, dim_v, dtype))


@needs_triton
@pytest.mark.parametrize(("dim", "dim_v"), [(25, 16), (16, 50)])
def test_triton_takes_head_dims_that_are_no_power_of_two(dim: int, dim_v: int) -> None:
    starts = cases.starts_of([17, 3])

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_mha(17, 0.3, q, k, v, starts, kernel=kernel)

    cases.assert_equal_results(attention, qkv(20, 1, dim, dim_v))


@needs_triton
@pytest.mark.parametrize("enable_tma", [False, True])
def test_views_of_one_buffer_are_read_by_their_strides(enable_tma: bool) -> None:
    lengths, heads, dim = [19, 8], 2, 16
    starts = cases.starts_of(lengths)

    def attention(kernel: HammerKernel, uvqk: Tensor) -> Tensor:
        _, v, q, k = (t.unflatten(1, (heads, dim)) for t in uvqk.split(heads * dim, 1))
        tma = enable_tma and kernel is HammerKernel.TRITON
        return hstu_mha(19, 0.3, q, k, v, starts, kernel=kernel, enable_tma=tma)

    cases.assert_equal_results(attention, [cases.drawn(27, 4 * heads * dim)])


@needs_triton
def test_rows_beyond_the_maximum_and_behind_the_end_are_zeros() -> None:
    starts = cases.starts_of([20, 9])
    q, k, v = qkv(29, 1, 16, 16)
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        out, *grads = cases.results(
            lambda q, k, v, kernel=kernel: hstu_mha(16, 0.3, q, k, v, starts, kernel=kernel),
            [q, k, v],
        )
        for t in (out, *grads):
            assert not t[16:20].any() and t[:16].any() and t[20:29].any(), kernel


@needs_triton
def test_a_scale_for_each_query_takes_the_place_of_the_length() -> None:
    starts = cases.starts_of([17, 9])
    for scale in (torch.tensor(0.25, device=DEVICE), cases.drawn(26)):

        def attention(
            kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor, scale: Tensor = scale
        ) -> Tensor:
            return hstu_mha(17, 0.3, q, k, v, starts, attn_scale=scale, kernel=kernel)

        cases.assert_equal_results(attention, qkv(26, 1, 16, 16))


@needs_triton
def test_the_order_of_sequences_changes_nothing() -> None:
    starts = cases.starts_of([3, 20, 0, 9])
    q, k, v = qkv(32, 1, 16, 16)
    options = {"kernel": HammerKernel.TRITON, "num_targets": torch.tensor([1, 2, 0, 9]).to(DEVICE)}
    plain, ordered = (
        hstu_mha(20, 0.3, q, k, v, starts, sort_by_length=s, **options) for s in (False, True)
    )
    assert torch.equal(plain, ordered)


@needs_triton
@pytest.mark.parametrize("mask", ["causal", "targets", "window", "contexts"])
def test_the_last_rows_alone_are_those_of_the_whole(mask: str) -> None:
    lengths, delta = [20, 7, 33], 6
    starts = cases.starts_of(lengths)
    options = mask_of(mask, [min(length, delta) for length in lengths])
    q, k, v = qkv(60, 2, 16, 16)
    whole = hstu_mha(33, 0.3, q, k, v, starts, **options)
    last = torch.cat([torch.arange(e - delta, e) for e in starts[1:].tolist()]).to(DEVICE)
    for kernel in (HammerKernel.PYTORCH, HammerKernel.TRITON):
        got = delta_hstu_mha(33, 0.3, q[last], k, v, starts, kernel=kernel, **options)
        torch.testing.assert_close(got, whole[last], rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(
    importlib.util.find_spec("hstu_attn") is None, reason="hstu_attn is not installed"
)
@pytest.mark.parametrize("mask", MASKS)
def test_cuda_is_pytorch_with_gradients(mask: str) -> None:
    lengths, n = [40, 0, 17, 64], 64
    starts = cases.starts_of(lengths)
    options = mask_of(mask, lengths)
    dtype = torch.float32 if INTERPRETED else torch.bfloat16

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_mha(n, 0.3, q, k, v, starts, kernel=kernel, **options)

    inputs = qkv(sum(lengths), 2, 32, 32, dtype)
    cases.assert_equal_results(attention, inputs, HammerKernel.CUDA)
    if "min_full_attn_seq_len" not in options:
        got = hstu_mha_cuda(n, 0.3, *inputs, starts, **options)
        assert torch.equal(got, attention(HammerKernel.CUDA, *inputs))


def test_rows_beyond_the_length_are_sequences_of_their_own_to_cuda() -> None:
    for dtype in (torch.int32, torch.int64):
        cut = cuda.cut_at(torch.tensor([0, 5, 5, 25, 27], dtype=dtype), 8)
        assert cut.tolist() == [0, 5, 5, 5, 5, 13, 25, 27, 27] and cut.dtype == torch.int32
        assert cuda.cut_at(torch.zeros(1, dtype=dtype), 8).tolist() == [0]
        inside = cuda.cut_targets(torch.tensor([2, 0, 15, 1], dtype=dtype), cut)
        assert inside.tolist() == [2, 0, 0, 0, 3, 0, 1, 0] and inside.dtype == torch.int32


@pytest.mark.skipif(
    importlib.util.find_spec("hstu_attn") is None, reason="hstu_attn is not installed"
)
def test_sequences_are_cut_once_for_cuda_s_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuts, cut_at = [], cuda.cut_at
    monkeypatch.setattr(cuda, "cut_at", lambda *given: cuts.append(given) or cut_at(*given))
    q = qkv(20, 1, 32, 32, torch.bfloat16)[0].requires_grad_()
    hstu_mha(9, 0.3, q, q, q, cases.starts_of([20]), kernel=HammerKernel.CUDA).sum().backward()
    assert len(cuts) == 1


@needs_triton
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_no_sequences_and_no_rows_work(lengths: list[int]) -> None:
    starts = cases.starts_of(lengths)

    def attention(kernel: HammerKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_mha(8, 0.3, q, k, v, starts, kernel=kernel)

    cases.assert_equal_results(attention, qkv(0, 2, 16, 16))
