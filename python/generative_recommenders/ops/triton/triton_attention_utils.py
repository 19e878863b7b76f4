"""One block's share in the gradient of q, for kernels that add it up over blocks of columns."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def acc_dq(
    dq_ptrs_trans,
    start_m,
    stride_dqm,
    k,
    dqk_trans,
    alpha,
    mask_m,
    MAX_SEQ_LEN,
    LOCK,
    BLOCK_M: tl.constexpr,
    ATOMIC_ADD: tl.constexpr,
    ALLOW_TF32: tl.constexpr,
):
    """``dq += (dqk kᵀ)ᵀ alpha`` for rows from ``start_m``.

    dq_ptrs_trans: pointers (dim, BLOCK_M) to row 0; k: (BLOCK_N, dim); dqk_trans:
    (BLOCK_N, BLOCK_M); mask_m: (BLOCK_M,). With ATOMIC_ADD by atomics, which want float32; without,
    no other program may write these rows. MAX_SEQ_LEN and LOCK are taken for the signature's sake:
    there is no lock.
    """
    pointers = dq_ptrs_trans + start_m * stride_dqm
    share = alpha * tl.dot(tl.trans(k), dqk_trans, allow_tf32=ALLOW_TF32)
    if ATOMIC_ADD:
        tl.atomic_add(pointers, share, mask=mask_m[None, :], sem="relaxed")
    else:
        dq = tl.load(pointers, mask=mask_m[None, :], other=0.0)
        tl.store(pointers, dq + share.to(k.dtype), mask=mask_m[None, :])
