"""Names that scripts of recsys-examples import from here."""

from __future__ import annotations

import torch

from hstu_training.configs.hstu_config import HSTUConfig, HSTULayerType, KernelBackend
from hstu_training.modules.hstu_attention import ONLY_CUTLASS
from hstu_training.training.gin_config_args import NetworkArgs


def create_hstu_config(network_args: NetworkArgs, max_seq_len: int) -> HSTUConfig:
    """The model of a NetworkArgs, for sequences of at most ``max_seq_len`` tokens.

    Raises:
        ValueError: kernel_backend is not "cutlass".
    """
    n = network_args
    if n.kernel_backend.lower() != "cutlass":
        raise ValueError(f"{ONLY_CUTLASS}: kernel_backend must be 'cutlass', got "
                         f"{n.kernel_backend!r}")  # fmt: skip
    return HSTUConfig(
        hidden_size=n.hidden_size,
        kv_channels=n.kv_channels,
        num_attention_heads=n.num_attention_heads,
        num_layers=n.num_layers,
        max_seq_len=max_seq_len,
        scaling_seqlen=n.scaling_seqlen,
        alpha=n.attention_alpha,
        hidden_dropout=float(n.hidden_dropout),
        norm_epsilon=n.norm_epsilon,
        is_causal=n.is_causal,
        target_group_size=n.target_group_size,
        learnable_norm=n.learnable_norm,
        uvqk_bias=n.uvqk_bias,
        proj_bias=n.proj_bias,
        dtype=getattr(torch, n.dtype_str),
        kernel_backend=KernelBackend.CUTLASS,
        hstu_layer_type=HSTULayerType[n.layer_type],
        recompute_input_layernorm=n.recompute_input_layernorm,
        recompute_input_silu=n.recompute_input_silu,
        relative_bias=n.relative_bias,
        targets_only_last_layer=n.targets_only_last_layer,
        position_buckets=n.num_position_buckets,
    )
