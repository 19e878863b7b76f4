"""A stack of HSTU layers over a batch of sequences."""

from __future__ import annotations

from torch import Tensor, nn

from hstu_training.configs.hstu_config import HSTUConfig, HSTULayerType
from hstu_training.modules.fused_hstu_layer import FusedHSTULayer
from hstu_training.modules.jagged import Sequences, take
from hstu_training.modules.native_hstu_layer import DebugHSTULayer, HSTULayer, NativeHSTULayer
from hstu_training.modules.position_encoder import PositionEncoder
from hstu_training.modules.relative_bias import RelativeBias, buckets_of

_LAYERS: dict[HSTULayerType, type[HSTULayer]] = {
    HSTULayerType.FUSED: FusedHSTULayer,
    HSTULayerType.NATIVE: NativeHSTULayer,
    HSTULayerType.DEBUG: DebugHSTULayer,
}


class HSTUBlock(nn.Module):
    """Positions, then ``config.num_layers`` layers.

    ``forward(x (tokens, hidden), sequences)`` is (tokens, hidden) in ``config.dtype``; with
    candidates (``sequences.target_rows``) their rows alone.
    """

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = PositionEncoder(
            config.position_buckets, config.hidden_size, config.hidden_dropout, config.param_dtype
        )
        layer = _LAYERS[config.hstu_layer_type]
        self.layers = nn.ModuleList(layer(config, i) for i in range(config.num_layers))
        self.biases = nn.ModuleList()
        if config.relative_bias != "none":
            with_time = config.relative_bias == "position_time"
            for _ in range(config.num_layers):
                bias = RelativeBias(config.max_seq_len, with_time, config.param_dtype)
                self.biases.append(bias)

    def forward(self, x: Tensor, sequences: Sequences) -> Tensor:
        c, rows = self.config, sequences.target_rows
        x = self.positions(x.to(c.dtype), sequences)
        buckets = buckets_of(sequences) if c.relative_bias == "position_time" else None
        only = rows is not None and c.targets_only_last_layer
        for i, layer in enumerate(self.layers):
            rab = None
            if len(self.biases):
                rab = self.biases[i](sequences.max_len, buckets).to(c.dtype)
                rab = rab.expand(sequences.cu.numel() - 1, -1, -1, -1)
            x = layer(x, sequences, rab, only and i == c.num_layers - 1)
        return x if rows is None or only else take(x, rows)
