"""Retrieval: the next item among all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.configs.task_config import RetrievalConfig
from hstu_training.data.batches import Batch
from hstu_training.modules.embeddings import Embeddings
from hstu_training.modules.hstu_block import HSTUBlock
from hstu_training.modules.hstu_processor import HSTUProcessor, sequences_of
from hstu_training.modules.negatives_sampler import Negatives, NegativesSampler
from hstu_training.modules.sampled_softmax_loss import l2_normalised, sampled_softmax_losses
from hstu_training.ops.counter import Randomness, token_keys


class _Drawn(NamedTuple):
    negatives: Negatives
    ids: Tensor  # every item of the step, distinct
    inputs: Tensor  # where each input item stands in ids
    of_negatives: Tensor  # where each of negatives.ids does


class RetrievalGR(nn.Module):
    """Items; the token of each foretells the next one, by a sampled softmax of dot products.

    Args:
        config, task: of the model.
        embeddings: its tables; the item's rows are what tokens are compared with, too.
        catalogue: (items) int64, distinct, ascending.
        rank: of the process, for its draws.
    """

    catalogue: Tensor

    def __init__(
        self, config: HSTUConfig, task: RetrievalConfig, embeddings: Embeddings, catalogue: Tensor,
        rank: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        item = embeddings.table_of["item"].dim
        if item != config.hidden_size:
            raise ValueError(
                f"hstu_training: item_embedding_dim must be hidden_size, {config.hidden_size}, for "
                f"retrieval, got {item}"
            )
        self.task, self.rank = task, rank
        self.embeddings = embeddings
        dims = {feature: table.dim for feature, table in embeddings.table_of.items()}
        self.processor = HSTUProcessor(
            dims, config.hidden_size, config.param_dtype, config.dtype, task.l2_norm_eps
        )
        self.block = HSTUBlock(config)
        self.register_buffer("catalogue", catalogue, persistent=False)
        self.sampler = NegativesSampler(task.sampling, task.num_negatives, catalogue)

    def _encoded(self, rows: dict[str, Tensor], batch: Batch, seed: int | None) -> Tensor:
        tokens = self.processor.tokens(rows, batch)
        encoded = self.block(tokens, sequences_of(batch, seed, self.rank))
        return self.processor.outputs(encoded, batch)

    def queries(self, batch: Batch) -> Tensor:
        """(outputs, hidden), each of norm 1, in evaluation."""
        return self._encoded(self.embeddings(batch.features), batch, None)

    def items(self, ids: Tensor) -> Tensor:
        """(ids, hidden), each of norm 1."""
        return l2_normalised(self.embeddings({"item": ids})["item"], self.task.l2_norm_eps)

    def _draw(self, batch: Batch, seed: int) -> _Drawn:
        read = batch.read_rows
        assert read is not None
        keys = token_keys(batch.slots, batch.positions)[read]
        items = batch.features["item"]
        self.sampler.catalogue = self.catalogue  # it may have moved with the model
        negatives = self.sampler(batch.labels, Randomness(seed, self.rank, keys), items)
        every = torch.cat([items, negatives.ids])
        ids, inverse = torch.unique(every, return_inverse=True)
        inputs, others = inverse.split([len(items), len(negatives.ids)])
        return _Drawn(negatives, ids, inputs, others)

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """The sum of the batch's losses."""
        drawn = self._draw(batch, seed)
        features = {**batch.features, "item": drawn.ids}
        rows = self.embeddings(features)
        items = rows["item"]
        by_feature = {name: rows[name] for name in batch.features}
        by_feature["item"] = items.index_select(0, drawn.inputs)
        queries = self._encoded(by_feature, batch, seed)
        others = l2_normalised(items.index_select(0, drawn.of_negatives), self.task.l2_norm_eps)
        losses = sampled_softmax_losses(queries, others, drawn.negatives, self.task.temperature)
        return losses.sum() if batch.count else losses.sum() * 0.0
