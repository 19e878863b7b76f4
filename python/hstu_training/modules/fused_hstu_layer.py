"""The HSTU layer as one autograd function over our kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.modules.jagged import Sequences
from hstu_training.modules.native_hstu_layer import HSTULayer
from hstu_training.ops.elementwise import Drop
from hstu_training.ops.fused_hstu_op import Plan, fused_hstu_layer


class FusedHSTULayer(HSTULayer):
    """``ops.fused_hstu_op``; called as NativeHSTULayer is."""

    columns: Tensor
    back: Tensor

    def __init__(self, config: HSTUConfig, index: int) -> None:
        super().__init__(config, index)
        heads, channels = config.num_attention_heads, config.kv_channels
        u, v, q, k = torch.arange(4 * heads * channels).view(heads, 4, channels).unbind(1)
        columns = torch.stack((u, q, k, v)).flatten()
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("back", columns.argsort(), persistent=False)

    def forward(
        self, x: Tensor, sequences: Sequences, rab: Tensor | None, targets_only: bool = False
    ) -> Tensor:
        c = self.config
        rows = sequences.target_rows if targets_only else None
        plan = Plan(
            c.num_attention_heads, c.kv_channels, c.padded_channels, c.norm_epsilon,
            sequences.attend(c, targets_only),
            Drop(c.hidden_dropout, sequences.random, self.index, rows), rows,
            self.columns, self.back, c.recompute_input_layernorm, c.recompute_input_silu,
        )  # fmt: skip
        return fused_hstu_layer(
            x, self.uvqk_weight, self.uvqk_bias, self.proj_weight, self.proj_bias,
            (self.norm1_weight, self.norm1_bias), (self.norm2_weight, self.norm2_bias), rab, plan,
        )  # fmt: skip
