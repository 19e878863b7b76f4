"""Attention by the kernels of ``hstu_attn``, and on which GPU they may run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hstu_attn import hstu_attn_varlen_func
from torch import Tensor, nn

from hstu_training.checks import CHECKS
from hstu_training.configs.hstu_config import HEAD_DIMS, KernelBackend
from hstu_training.ops.fused_hstu_op import Attend

ONLY_CUTLASS = "Only CUTLASS backend is supported for A100 GPU"


def check_a100_gpu(allow: str = "a100") -> str:
    """Prints which GPU there is, and raises where it is not to be trained on.

    Args:
        allow: "a100", or "any" that ``hstu_attn`` serves: compute capability 8.0 and newer.

    Returns:
        the line that is printed.

    Raises:
        RuntimeError: no GPU, or another one.
    """
    if allow not in ("a100", "any"):
        CHECKS.fail(f"allow must be 'a100' or 'any', got {allow!r}")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "This code is optimized for A100 GPU (SM 8.0) only. No CUDA device was found. Please "
            "use an A100 GPU, or --device=cpu."
        )
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) == (8, 0):
        line = "[GPU Check] Detected A100 GPU (SM 8.0) - OK"
    elif allow == "a100":
        raise RuntimeError(
            "This code is optimized for A100 GPU (SM 8.0) only. "
            f"Detected SM {major}.{minor}. Please use an A100 GPU."
        )
    elif major < 8:
        raise RuntimeError(
            f"hstu_attn serves GPUs of SM 8.0 and newer. Detected SM {major}.{minor}."
        )
    else:
        name = torch.cuda.get_device_name()
        line = f"[GPU Check] Detected {name} (SM {major}.{minor}) - not an A100, goes on as asked"
    print(line, flush=True)
    return line


class FusedHSTUAttention(nn.Module):
    """``hstu_attn_varlen_func`` for any head dim up to 256.

    Args:
        num_heads, attention_dim: of q, k and v.
    """

    def __init__(self, num_heads: int, attention_dim: int) -> None:
        super().__init__()
        CHECKS.integer(num_heads, "num_heads", 1)
        CHECKS.integer(attention_dim, "attention_dim", 1, HEAD_DIMS[-1])
        self.num_heads, self.attention_dim = num_heads, attention_dim
        self.padded = next(dim for dim in HEAD_DIMS if dim >= attention_dim)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, attend: Attend, rab: Tensor | None = None
    ) -> Tensor:
        """(rows, heads * dim) of q (rows, heads, dim), k and v (tokens, heads, dim)."""
        extra = self.padded - self.attention_dim
        if extra:
            q, k, v = (F.pad(t, (0, extra)) for t in (q, k, v))
        out = hstu_attn_varlen_func(
            q, k, v, attend.cu_q, attend.cu_k, attend.max_q, attend.max_k, attend.contexts,
            attend.targets, attend.group, (-1, 0) if attend.causal else (-1, -1), attend.alpha,
            rab, rab is not None and rab.requires_grad, scaling_seqlen=attend.divisor,
            deterministic=attend.deterministic,
        )  # fmt: skip
        return out[..., : self.attention_dim].flatten(1)


def create_hstu_attention(
    kernel_backend: KernelBackend, num_heads: int, attention_dim: int
) -> FusedHSTUAttention:
    """The attention of a backend.

    Raises:
        ValueError: any backend but CUTLASS.
    """
    if kernel_backend is not KernelBackend.CUTLASS:
        raise ValueError(f"{ONLY_CUTLASS}, got {kernel_backend!r}")
    return FusedHSTUAttention(num_heads, attention_dim)
