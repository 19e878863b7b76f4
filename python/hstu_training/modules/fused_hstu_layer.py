"""The HSTU layer as one autograd function over our kernels."""

from __future__ import annotations

from torch import Tensor

from hstu_training.modules.jagged import Sequences
from hstu_training.modules.native_hstu_layer import HSTULayer
from hstu_training.ops.elementwise import Drop
from hstu_training.ops.fused_hstu_op import Plan, fused_hstu_layer


class FusedHSTULayer(HSTULayer):
    """``ops.fused_hstu_op``; called as NativeHSTULayer is."""

    def forward(
        self, x: Tensor, sequences: Sequences, rab: Tensor | None, targets_only: bool = False
    ) -> Tensor:
        c = self.config
        weight, bias, proj, proj_bias = self.parts()
        rows = sequences.target_rows if targets_only else None
        plan = Plan(
            c.num_attention_heads, c.kv_channels, c.padded_channels, c.norm_epsilon,
            sequences.attend(c, targets_only),
            Drop(c.hidden_dropout, sequences.random, self.index, rows), rows,
            c.recompute_input_layernorm, c.recompute_input_silu,
        )  # fmt: skip
        return fused_hstu_layer(
            x, weight, bias, proj, proj_bias, (self.norm1_weight, self.norm1_bias),
            (self.norm2_weight, self.norm2_bias), rab, plan,
        )  # fmt: skip
