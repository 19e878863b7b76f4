"""Ranking: the action of each candidate."""

from __future__ import annotations

from torch import Tensor, nn

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.configs.task_config import RankingConfig
from hstu_training.data.batches import Batch
from hstu_training.modules.embeddings import Embeddings
from hstu_training.modules.hstu_block import HSTUBlock
from hstu_training.modules.hstu_processor import HSTUProcessor, sequences_of
from hstu_training.modules.mlp import MLP
from hstu_training.modules.multi_task_loss import labels_of, multi_task_losses


class RankingGR(nn.Module):
    """Contextual features, items and actions by turns, candidates that see the history alone; an
    MLP over each candidate (without candidates over each item).

    Args:
        config, task: of the model.
        embeddings: its tables.
        positive_action: see ``labels_of``.
        rank: of the process, for its draws.
    """

    def __init__(
        self, config: HSTUConfig, task: RankingConfig, embeddings: Embeddings,
        positive_action: int | None = None, rank: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.task, self.positive_action, self.rank = task, positive_action, rank
        self.embeddings = embeddings
        dims = {feature: table.dim for feature, table in embeddings.table_of.items()}
        self.processor = HSTUProcessor(dims, config.hidden_size, config.param_dtype, config.dtype)
        self.block = HSTUBlock(config)
        self.head = MLP(
            config.hidden_size, task.prediction_head_arch, task.prediction_head_act_type,
            task.prediction_head_bias, config.param_dtype,
        )  # fmt: skip

    def logits(self, batch: Batch, seed: int | None = None) -> Tensor:
        """(outputs, logits); with a seed in training."""
        sequences = sequences_of(batch, seed, self.rank)
        tokens = self.processor.tokens(self.embeddings(batch.features), batch)
        read = self.processor.outputs(self.block(tokens, sequences), batch)
        out: Tensor = self.head(read.to(self.processor.dtype))
        return out

    def labels(self, batch: Batch) -> Tensor:
        return labels_of(batch.labels, self.task, self.positive_action)

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """The sum of the batch's losses."""
        losses = multi_task_losses(self.logits(batch, seed), self.labels(batch), self.task)
        return losses.sum() if batch.count else losses.sum() * 0.0
