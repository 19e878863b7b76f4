"""The public functions of hstu_attn.

The mathematics. Per sequence of the batch and head, with rows of q counted by their absolute
position ``i`` (the last row of q stands at the last position of k) and columns ``j``::

    S[i,j] = alpha * (q_i . k_j + rab[i,j])
    P[i,j] = visible[i,j] * silu(S[i,j]) / N         silu(x) = x * sigmoid(x)
    o_i    = sum_j P[i,j] * v_j

N is ``scaling_seqlen`` (default: ``max_seqlen_q``), one number for the whole call. There is no
softmax. A row that sees nothing, and an empty sequence, give 0. Backward, from ``do``::

    dP = (do . v) / N        dS = visible * dP * sigmoid(S) * (1 + S * (1 - sigmoid(S)))
    dv = P^T do              dq = alpha * dS k         dk = alpha * dS^T q      drab = alpha * dS

On the CPU a pair that the mask hides adds nothing, whatever k, v and rab hold there, and
``rab = -inf`` hides a pair too (with alpha > 0). On a GPU hidden pairs are multiplied with 0: q, k,
v, rab and dout must be finite, also where the mask hides them; an infinity or a NaN may reach every
row of its own sequence, and none of another. A large negative bias, e.g. -1e4, hides on both.
Rows behind the last sequence (``cu_seqlens[-1]``) are not read, and are zeros in the output and the
gradients.

A sequence is laid out as [contexts | history | targets]. What a row (down) sees of the columns
(across), for 6 positions; ``#`` is visible::

    none (-1,-1)    causal (-1,0)   local (1,1)     causal, q shorter than k (3 rows)
    ######          #.....          ##....
    ######          ##....          ###...
    ######          ###...          .###..
    ######          ####..          ..###.          ####..
    ######          #####.          ...###          #####.
    ######          ######          ....##          ######

    2 contexts      2 targets       4 targets in    2 contexts,     func, n_func = 3:
                                    groups of 2     2 targets       [0,f0) + [f1,f2)
    ######          #.....          #.....          ####..          #..##.
    ######          ##....          ##....          ####..          ##..##
    ###...          ###...          ###...          ###...          .#.##.
    ####..          ####..          ####..          ####..          ###..#
    #####.          #####.          ##..#.          #####.          ......
    ######          ####.#          ##..##          ####.#          ##.#..

References: J. Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential
Transducers for Generative Recommendations" (2024). Signatures, argument order and semantics follow
the Ampere interface of the ``hstu_attn`` package in NVIDIA recsys-examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from hstu_attn import checks, ops
from hstu_attn._core.autocast import autocast_dtype, lowered
from hstu_attn.problem import Mask, Pages, Problem


def _op_checks(p: Problem) -> bool:
    """Whether the op may be asked first: on CUDA tensors in eager mode it refuses by itself all
    that needs no values, but for numbers of a wrong type."""
    m, window = p.mask, p.mask.window_size
    return (
        not torch.compiler.is_compiling()
        and isinstance(p.q, Tensor)
        and p.q.is_cuda
        and type(p.max_seqlen_q) is type(p.max_seqlen_k) is type(p.scaling_seqlen) is int
        and type(m.target_group_size) is int
        and type(window) is tuple
        and len(window) == 2
        and type(window[0]) is type(window[1]) is int
        and type(p.alpha) is float
        and not checks.values_wanted(p.q)
    )


def _run(p: Problem, call: Callable[[Problem], Any], cu_seqlens_t: Tensor | None = None) -> Tensor:
    """``call(p)`` once all is well with ``p``, its number of targets filled in."""
    if cu_seqlens_t is None and _op_checks(p):
        try:
            return cast(Tensor, call(p))
        except (RuntimeError, TypeError, ValueError):
            checks.check_arguments(p)  # names what is wrong with the arguments, if anything
            raise
    checks.check_arguments(p, cu_seqlens_t)
    eager_values = checks.values_wanted(p.q)
    if cu_seqlens_t is not None:
        if eager_values or (p.q.device.type == "cpu" and not torch.compiler.is_compiling()):
            checks.check_targets(cu_seqlens_t, p.mask.num_targets)
        if p.mask.num_targets is None:
            p = p._replace(mask=p.mask._replace(num_targets=torch.diff(cu_seqlens_t)))
    if eager_values:
        checks.check_values(p)
    return cast(Tensor, call(p))


def _deterministic(wanted: bool) -> bool:
    return torch.are_deterministic_algorithms_enabled() if wanted is False else wanted


def hstu_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_contexts: Tensor | None = None,
    num_targets: Tensor | None = None,
    target_group_size: int = 1,
    window_size: tuple[int, int] = (-1, -1),
    alpha: float = 1.0,
    rab: Tensor | None = None,
    has_drab: bool = False,
    kv_cache: Tensor | None = None,
    page_offsets: Tensor | None = None,
    page_ids: Tensor | None = None,
    last_page_lens: Tensor | None = None,
    cu_seqlens_t: Tensor | None = None,
    func: Tensor | None = None,
    scaling_seqlen: int = -1,
    *,
    deterministic: bool = False,
    causal: bool = False,
) -> Tensor:
    """HSTU attention over a batch of sequences of different lengths, packed without padding.

    Formulas and pictures of the masks: the docstring of this module. CPU tensors are computed by
    the reference in plain PyTorch (``hstu_attn.ref``). Works under torch.compile, torch.export
    (forward) and CUDA-graph capture. Under ``torch.autocast`` its floating-point tensors are cast
    as those of torch's own attention are. Of torch.func, the reverse-mode transforms work.

    Args:
        q: (total_q, H, D) bfloat16 or float16, last stride 1, other strides free, so slices of a
            packed tensor are fine; D is 32, 64, 128 or 256. On the CPU also float32, float64.
        k: (total_k, H_k, D), dtype as q; H_k divides H (each head of k serves H / H_k of q).
        v: (total_k, H_k, D), as k.
        cu_seqlens_q: (B + 1) int32, contiguous: prefix sums of the lengths of the sequences in q,
            contexts and targets included. Rows behind the last sequence are not read, and
            zeros in the results.
        cu_seqlens_k: (B + 1) int32: the same for k and v. No sequence is longer in q than in k;
            where it is shorter, the rows of q are the last positions of the sequence.
        max_seqlen_q: the longest sequence in q, in rows (a larger number is allowed).
        max_seqlen_k: the longest sequence in k; at least ``max_seqlen_q``.
        num_contexts: (B) int32: positions at the front of each sequence that see the whole
            history. Causal only.
        num_targets: (B) int32: positions at the end of each sequence that see the history and
            their own group of targets up to themselves. Causal only.
        target_group_size: targets per group, >= 1; other than 1 only with targets.
        window_size: (left, right) visible columns beside the diagonal; a negative side is
            unbounded: (-1, -1) no mask, (-1, 0) causal, anything else local.
        alpha: factor of (q k^T + rab); usually 1 / sqrt(D).
        rab: (B, H or 1, max_seqlen_k, max_seqlen_k) relative attention bias in q's dtype, last
            stride 1, indexed by absolute row and column.
        has_drab: give ``rab`` a gradient (if it requires one); zero where masked.
        kv_cache: (pages, 2, page_size, H_k, D) keys [:, 0] and values [:, 1] of the history in
            pages of 16 to 256 positions, last stride 1. Then q, k and v hold the new positions
            (new history and targets) of each sequence, laid out by ``cu_seqlens_q``; the history,
            new positions included, is read from the pages, and of k and v only the targets are
            read. ``cu_seqlens_k`` counts history and targets. Forward only.
        page_offsets: (B + 1) int32: the pages of sequence b are
            ``page_ids[page_offsets[b]:page_offsets[b + 1]]``.
        page_ids: (page_offsets[B]) int32: indices into ``kv_cache``.
        last_page_lens: (B) int32: positions used in the last page of each sequence. They follow
            from the lengths; that they agree is checked (see Errors).
        cu_seqlens_t: (B + 1) int32, only with ``kv_cache``: prefix sums of ``num_targets``, in
            place of it or beside it.
        func: (1, n_func, >= total_q) int32, n_func odd: packed row p sees the columns
            [0, func[0, 0, p]) and, for n = 1, 3, ..., [func[0, n, p], func[0, n + 1, p]), inside
            its own sequence. ``window_size`` must be (-1, -1).
        scaling_seqlen: N, the divisor of P; -1: ``max_seqlen_q``.
        deterministic: gradients that are bit-equal from run to run (slower backward). Also on
            under ``torch.use_deterministic_algorithms(True)``.
        causal: the same as ``window_size=(-1, 0)``, beside which no other window is allowed.

    Returns:
        (total_q, H, D), contiguous, dtype of q. Gradients go to q, k, v and, with ``has_drab``,
        to rab.

    Raises:
        ValueError: a bad argument, named with its value and what is allowed, before anything is
            launched. Errors in the values of the index tensors (prefix sums that do not start at
            0, fall or pass the end; a maximum below the longest sequence; page ids out of range;
            contradicting lengths) are found on CPU tensors always and on CUDA tensors when the
            environment variable HSTU_CHECK is 1 (costs a synchronisation; not in compiled code
            nor under graph capture).
        RuntimeError: a feature that this build was made without (names the HSTU_DISABLE_ switch),
            a GPU that it does not serve, or an error of CUDA, by name.
        NotImplementedError: backward through paged attention, a second derivative, or a
            forward-mode one (torch.func.jvp, jacfwd, torch.autograd.forward_ad).

    Example::

        >>> q = k = v = torch.randn(5, 2, 32)                     # sequences of 3 and 2 positions
        >>> cu = torch.tensor([0, 3, 5], dtype=torch.int32)
        >>> hstu_attn_varlen_func(q, k, v, cu, cu, 3, 3, window_size=(-1, 0)).shape
        torch.Size([5, 2, 32])
    """
    if causal is not False:
        window_size = checks.causal_window(causal, window_size)
    if (dtype := autocast_dtype(q)) is not None:
        q, k, v = (lowered(t, dtype) for t in (q, k, v))
        rab, kv_cache = lowered(rab, dtype), lowered(kv_cache, dtype)
    p = Problem(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        scaling_seqlen,
        Mask(num_contexts, num_targets, target_group_size, window_size, func),
        alpha,
        rab,
        has_drab,
        _deterministic(deterministic),
        Pages(kv_cache, page_offsets, page_ids, last_page_lens),
    )
    return _run(p, lambda p: ops.varlen(*p.schema(), *p.pages), cu_seqlens_t)


def hstu_attn_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_contexts: Tensor | None = None,
    num_targets: Tensor | None = None,
    target_group_size: int = 1,
    window_size: tuple[int, int] = (-1, -1),
    alpha: float = 1.0,
    rab: Tensor | None = None,
    has_drab: bool = False,
    func: Tensor | None = None,
    scaling_seqlen: int = -1,
    *,
    deterministic: bool = False,
    causal: bool = False,
) -> Tensor:
    """HSTU self-attention on packed q, k and v.

    Args:
        qkv: (total, 3, H, D) bfloat16 or float16, last stride 1: q is ``qkv[:, 0]``, k
            ``qkv[:, 1]``, v ``qkv[:, 2]``. Its gradient comes as one tensor of this shape, written
            by the kernels without a copy.

    The other arguments, the result (total, H, D) and the errors are those of
    ``hstu_attn_varlen_func``.

    Example::

        >>> qkv = torch.randn(5, 3, 2, 32)
        >>> cu = torch.tensor([0, 3, 5], dtype=torch.int32)
        >>> hstu_attn_qkvpacked_func(qkv, cu, cu, 3, 3, window_size=(-1, 0)).shape
        torch.Size([5, 2, 32])
    """
    checks.check_packed(qkv)
    if causal is not False:
        window_size = checks.causal_window(causal, window_size)
    if (dtype := autocast_dtype(qkv)) is not None:
        qkv, rab = lowered(qkv, dtype), lowered(rab, dtype)
    q, k, v = qkv.unbind(1)
    p = Problem(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        scaling_seqlen,
        Mask(num_contexts, num_targets, target_group_size, window_size, func),
        alpha,
        rab,
        has_drab,
        _deterministic(deterministic),
    )
    return _run(p, lambda p: ops.qkvpacked(qkv, *p.schema()[3:]))
