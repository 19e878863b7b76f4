"""One HSTU model: sizes, masks, kernels."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

import torch

from hstu_training.checks import CHECKS

HEAD_DIMS = (32, 64, 128, 256)  # of the attention kernels; others are padded with zeros
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
BIASES = ("none", "position", "position_time")


class KernelBackend(enum.Enum):
    """Whose attention kernels run: those of ``hstu_attn``, for SM 8.0 and newer."""

    CUTLASS = "CUTLASS"


class HSTULayerType(enum.Enum):
    """FUSED: one autograd function over our kernels. NATIVE: PyTorch's autograd over the same
    parts. DEBUG: the formula, sequence by sequence."""

    FUSED = "FUSED"
    NATIVE = "NATIVE"
    DEBUG = "DEBUG"


@dataclass(frozen=True)
class HSTUConfig:
    """What ``HSTUBlock`` is built from.

    Args:
        hidden_size: width of a token.
        kv_channels: head dim, at most 256; those that the kernels lack are padded with zeros.
        num_attention_heads, num_layers: >= 1.
        max_seq_len: the longest sequence in tokens; it bounds the relative bias.
        scaling_seqlen: what attention is divided by; -1: ``max_seq_len``. Never the length of the
            longest row of a batch.
        alpha: factor of the scores; None: 1 / sqrt(kv_channels).
        hidden_dropout: in [0, 1).
        norm_epsilon: of both norms.
        is_causal: every token sees those before it.
        target_group_size: candidates that see one another.
        learnable_norm: both norms have weight and bias.
        uvqk_bias, proj_bias: the two linear maps have a bias.
        dtype: what is computed in; parameters are float32 (float64 for float64).
        kernel_backend: CUTLASS.
        hstu_layer_type: see there.
        recompute_input_layernorm, recompute_input_silu: keep less for the backward (FUSED).
        relative_bias: "none", "position" or "position_time"; added to the scores, one for all
            heads, before ``alpha``.
        targets_only_last_layer: the last layer computes candidates alone where they are all that
            is read.
        deterministic: the backward gives equal bits in every run.
        position_buckets: rows of the table of positions.
    """

    hidden_size: int
    kv_channels: int
    num_attention_heads: int
    num_layers: int
    max_seq_len: int
    scaling_seqlen: int = -1
    alpha: float | None = None
    hidden_dropout: float = 0.2
    norm_epsilon: float = 1e-5
    is_causal: bool = True
    target_group_size: int = 1
    learnable_norm: bool = True
    uvqk_bias: bool = True
    proj_bias: bool = False
    dtype: torch.dtype = torch.bfloat16
    kernel_backend: KernelBackend = KernelBackend.CUTLASS
    hstu_layer_type: HSTULayerType = HSTULayerType.FUSED
    recompute_input_layernorm: bool = False
    recompute_input_silu: bool = False
    relative_bias: str = "none"
    targets_only_last_layer: bool = True
    deterministic: bool = True
    position_buckets: int = 8192

    def __post_init__(self) -> None:
        for name in ("hidden_size", "kv_channels", "num_attention_heads", "num_layers"):
            CHECKS.integer(getattr(self, name), name, 1)
        CHECKS.integer(self.kv_channels, "kv_channels", 1, HEAD_DIMS[-1])
        for name in ("max_seq_len", "target_group_size", "position_buckets"):
            CHECKS.integer(getattr(self, name), name, 1)
        if self.scaling_seqlen != -1:
            CHECKS.integer(self.scaling_seqlen, "scaling_seqlen", 1)
        for name in ("hidden_dropout", "norm_epsilon"):
            CHECKS.number(getattr(self, name), name)
        if not 0.0 <= self.hidden_dropout < 1.0:
            CHECKS.fail(f"hidden_dropout must lie in [0, 1), got {self.hidden_dropout}")
        if self.norm_epsilon <= 0:
            CHECKS.fail(f"norm_epsilon must be > 0, got {self.norm_epsilon}")
        if self.alpha is not None:
            CHECKS.number(self.alpha, "alpha")
        if self.dtype not in DTYPES:
            CHECKS.fail(f"dtype must be one of {DTYPES}, got {self.dtype!r}")
        if not isinstance(self.kernel_backend, KernelBackend):
            CHECKS.fail(f"kernel_backend must be a KernelBackend, got {self.kernel_backend!r}")
        if not isinstance(self.hstu_layer_type, HSTULayerType):
            CHECKS.fail(f"hstu_layer_type must be an HSTULayerType, got {self.hstu_layer_type!r}")
        if self.relative_bias not in BIASES:
            CHECKS.fail(f"relative_bias must be one of {BIASES}, got {self.relative_bias!r}")
        if self.relative_bias != "none" and not self.is_causal:
            CHECKS.fail("is_causal must be True with a relative_bias, got False")
        for name in ("is_causal", "learnable_norm", "uvqk_bias", "proj_bias", "deterministic",
                     "recompute_input_layernorm", "recompute_input_silu",
                     "targets_only_last_layer"):  # fmt: skip
            CHECKS.boolean(getattr(self, name), name)

    @property
    def divisor(self) -> int:
        """N of the attention."""
        return self.max_seq_len if self.scaling_seqlen == -1 else self.scaling_seqlen

    @property
    def scale(self) -> float:
        return self.kv_channels**-0.5 if self.alpha is None else float(self.alpha)

    @property
    def param_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def padded_channels(self) -> int:
        """The head dim that the attention kernels see."""
        return next(dim for dim in HEAD_DIMS if dim >= self.kv_channels)

    def with_(self, **changes: Any) -> HSTUConfig:
        return replace(self, **changes)


def get_hstu_config(
    hidden_size: int,
    kv_channels: int,
    num_attention_heads: int,
    num_layers: int,
    dtype: torch.dtype,
    *,
    max_seq_len: int,
    **others: Any,
) -> HSTUConfig:
    """An HSTUConfig; the keywords are its other fields.

    Raises:
        ValueError: a field, its value and what is allowed.

    Example::

        >>> get_hstu_config(64, 32, 2, 1, torch.float32, max_seq_len=200).divisor
        200
    """
    return HSTUConfig(
        hidden_size,
        kv_channels,
        num_attention_heads,
        num_layers,
        dtype=dtype,
        max_seq_len=max_seq_len,
        **others,
    )
