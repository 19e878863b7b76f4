"""HSTU attention over jagged sequences, without softmax.

``O = (M * silu(alpha Q Kᵀ) / N) V``, N = ``max_seq_len``; the mask M is described in
``ops.pytorch.pt_hstu_attention.visible``. Names, order and defaults are those of
``generative_recommenders.ops.hstu_attention`` of Meta's package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generative_recommenders._checks import CHECKS, indices, offsets
from generative_recommenders.common import HammerKernel, chosen_kernel
from generative_recommenders.ops import cuda
from generative_recommenders.ops.kinds import Kinds, attention, fastest
from generative_recommenders.ops.problem import Mask, Problem
from generative_recommenders.ops.pytorch.pt_hstu_attention import (
    pytorch_cached_hstu_mha,
    pytorch_hstu_mha,
)


def _check(
    max_seq_len: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None,
    sizes: dict[str, int],
    query: str = "q",
) -> None:
    CHECKS.integer(max_seq_len, "max_seq_len", 1)
    for name, size in sizes.items():
        CHECKS.integer(size, name, 0)
    for t, name in ((q, query), (k, "k"), (v, "v")):
        CHECKS.tensor(t, name)
        if t.dim() != 3:
            CHECKS.fail(f"{name} must have shape (rows, heads, dim), got {tuple(t.shape)}")
        CHECKS.integer(t.shape[0], f"rows of {name}", 0)  # kernels count them in int32
        if not t.is_floating_point():
            CHECKS.fail(f"{name} must be a floating-point tensor, got {t.dtype}")
        if t is not q:
            CHECKS.like(t, name, q, query)
    if k.shape[1:] != q.shape[1:]:
        shapes = f"{query} {tuple(q.shape)}, k {tuple(k.shape)}"
        CHECKS.fail(f"k must have the heads and the dim of {query}, got {shapes}")
    if v.shape[:2] != k.shape[:2]:
        shapes = f"k {tuple(k.shape)}, v {tuple(v.shape)}"
        CHECKS.fail(f"v must have the rows and the heads of k, got {shapes}")
    offsets(seq_offsets, "seq_offsets", k.shape[0], k, "k")
    if num_targets is None:
        return
    batch = seq_offsets.shape[0] - 1
    indices(num_targets, "num_targets", k, "k", batch)
    if num_targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if type(num_targets) is Tensor:
        lengths = (seq_offsets[1:] - seq_offsets[:-1]).tolist()
        for b, (targets, length) in enumerate(zip(num_targets.tolist(), lengths, strict=True)):
            if not 0 <= targets <= length:
                CHECKS.fail(
                    f"num_targets must lie between 0 and the sequence's length, got "
                    f"num_targets[{b}] = {targets} for a sequence of {length}"
                )


def _compiled(kernel: HammerKernel, k: Tensor, v: Tensor) -> tuple[str, int] | None:
    """The compiled kernel; asked for by name it may say itself that it has one head dim alone."""
    if kernel is HammerKernel.AUTO and k.shape[2] != v.shape[2]:
        return None
    return ("attention_fwd", k.shape[2])


def hstu_mha(
    max_seq_len: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    causal: bool = True,
    dropout_pr: float = 0.0,
    training: bool = True,
    num_targets: Tensor | None = None,
    attn_scale: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    min_full_attn_seq_len: int = 0,
    sort_by_length: bool = False,
    kernel: HammerKernel = HammerKernel.PYTORCH,
    enable_tma: bool = False,
) -> Tensor:
    """HSTU attention of jagged sequences, with gradients for q, k and v.

    Args:
        max_seq_len: N; also what scores are divided by. Rows of a sequence beyond it are 0.
        alpha: scale of Q Kᵀ.
        q, k: (rows, heads, dim). float32, bfloat16, float16, and float64 with PYTORCH.
        v: (rows, heads, dim_v), of one dtype and device with them.
        seq_offsets: int32 or int64 (batch + 1,): where sequences begin, and ``rows``.
        causal: must be True.
        dropout_pr: of the scores; PYTORCH alone.
        training: whether dropout acts.
        num_targets: int32 or int64 (batch,): the last so many rows see the history and themselves.
        attn_scale: takes the place of 1 / N: a scalar tensor, or (rows,) for each query.
        max_attn_len: how far back a query sees; 0: everything.
        contextual_seq_len: the first so many rows see the whole history; 0: none.
        min_full_attn_seq_len: so many last rows of the history ignore ``max_attn_len``.
        sort_by_length: long sequences first; results do not change.
        kernel: what computes it, see ``HammerKernel``.
        enable_tma: tensor descriptors, where TRITON and the GPU have them; results do not change.

    Returns:
        (rows, heads, dim_v) of the dtype of v.

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: a kernel that is not installed.
    """
    sizes = {
        "max_attn_len": max_attn_len,
        "contextual_seq_len": contextual_seq_len,
        "min_full_attn_seq_len": min_full_attn_seq_len,
    }
    _check(max_seq_len, q, k, v, seq_offsets, num_targets, sizes)
    CHECKS.number(alpha, "alpha")
    CHECKS.number(dropout_pr, "dropout_pr")
    if causal is not True:
        CHECKS.fail(f"causal must be True, got {causal!r}")
    if not 0.0 <= dropout_pr < 1.0:
        CHECKS.fail(f"dropout_pr must lie in [0, 1), got {dropout_pr}")
    if attn_scale is not None:
        CHECKS.tensor(attn_scale, "attn_scale")
        CHECKS.device(attn_scale, "attn_scale", q, "q")
        if attn_scale.dim() > 1 or (attn_scale.dim() == 1 and attn_scale.shape[0] != q.shape[0]):
            CHECKS.fail(
                f"attn_scale must be a scalar or have shape ({q.shape[0]},), got "
                f"{tuple(attn_scale.shape)}"
            )
    compiled = _compiled(kernel, q, v)
    taken = chosen_kernel(kernel, "hstu_mha", q, cuda=True, compiled=compiled)
    if taken is HammerKernel.PYTORCH:
        return pytorch_hstu_mha(
            max_seq_len,
            alpha,
            q,
            k,
            v,
            seq_offsets,
            causal,
            dropout_pr,
            training,
            num_targets,
            attn_scale,
            max_attn_len,
            contextual_seq_len,
            min_full_attn_seq_len,
        )
    if training and dropout_pr > 0.0:
        CHECKS.fail(f"dropout_pr must be 0 with {taken.value}, got {dropout_pr}; PYTORCH has it")
    mask = Mask(num_targets, max_attn_len, contextual_seq_len, min_full_attn_seq_len)
    problem = Problem(max_seq_len, alpha, q, k, v, seq_offsets, mask, attn_scale)
    if taken is HammerKernel.CUDA:
        cuda.check(problem)
        return attention(problem, Kinds(taken, taken))
    if kernel is HammerKernel.AUTO:
        kinds = fastest(problem, taken is HammerKernel.TRITON_CC)
        if kinds.forward is not kinds.backward or kinds.forward is HammerKernel.CUDA:
            return attention(problem, kinds)
        taken, enable_tma = kinds.forward, kinds.enable_tma
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops import compiled as of_the_wheel

        args = (max_seq_len, alpha, q, k, v, seq_offsets, *mask)
        return of_the_wheel.attention(*args, sort_by_length, attn_scale)
    from generative_recommenders.ops.triton.triton_hstu_attention import triton_hstu_mha

    return triton_hstu_mha(
        max_seq_len,
        alpha,
        q,
        k,
        v,
        seq_offsets,
        *mask[:3],
        sort_by_length,
        enable_tma,
        attn_scale,
        min_full_attn_seq_len,
    )


def delta_hstu_mha(
    max_seq_len: int,
    alpha: float,
    delta_q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
    kernel: HammerKernel = HammerKernel.PYTORCH,
    enable_tma: bool = False,
) -> Tensor:
    """The attention of each sequence's last ``delta`` rows alone, for cached inference.

    Args:
        delta_q: (batch * delta, heads, dim): the same number of rows for each sequence.
        k, v, seq_offsets and the others: as in ``hstu_mha``.

    Returns:
        (batch * delta, heads, dim_v). It has no gradient with TRITON.

    Raises:
        as ``hstu_mha``.
    """
    sizes = {"max_attn_len": max_attn_len, "contextual_seq_len": contextual_seq_len}
    _check(max_seq_len, delta_q, k, v, seq_offsets, num_targets, sizes, "delta_q")
    CHECKS.number(alpha, "alpha")
    batch = seq_offsets.shape[0] - 1
    if delta_q.shape[0] % max(batch, 1) or (batch == 0 and delta_q.shape[0]):
        CHECKS.fail(
            f"delta_q must have a multiple of {batch} rows, one for each sequence, got "
            f"{delta_q.shape[0]}"
        )
    args = (max_seq_len, alpha, delta_q, k, v, seq_offsets)
    mask = (num_targets, max_attn_len, contextual_seq_len)
    compiled = _compiled(kernel, k, v)
    taken = chosen_kernel(kernel, "delta_hstu_mha", k, compiled=compiled)
    if taken is HammerKernel.PYTORCH:
        return pytorch_cached_hstu_mha(*args, *mask)
    if taken is HammerKernel.TRITON_CC:
        from generative_recommenders.ops.compiled import last_rows_attention

        return last_rows_attention(*args, *mask)
    from generative_recommenders.ops.triton.triton_hstu_attention import triton_cached_hstu_mha

    return triton_cached_hstu_mha(*args, *mask, enable_tma)


def hstu_mha_cuda(
    max_seq_len: int,
    alpha: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_offsets: Tensor,
    num_targets: Tensor | None = None,
    max_attn_len: int = 0,
    contextual_seq_len: int = 0,
) -> Tensor:
    """``hstu_mha`` with ``kernel=HammerKernel.CUDA``."""
    return hstu_mha(
        max_seq_len,
        alpha,
        q,
        k,
        v,
        seq_offsets,
        num_targets=num_targets,
        max_attn_len=max_attn_len,
        contextual_seq_len=contextual_seq_len,
        kernel=HammerKernel.CUDA,
    )
