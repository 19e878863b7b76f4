"""A ranking model on HSTU: from the ids of a user's history and candidates to predictions and
losses. Names, order and defaults are those of ``generative_recommenders.modules.dlrm_hstu`` of
Meta's package.

A batch is a KeyedJaggedTensor: TorchRec's, or anything with its ``keys()``, ``values()``,
``lengths()`` and constructor, such as ``dynamicemb.modules.KeyedJaggedTensor``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule, complete_cumsum, set_static_max_seq_lens
from generative_recommenders.modules.hstu_transducer import HSTUTransducer
from generative_recommenders.modules.multitask_module import (
    DefaultMultitaskModule,
    MultitaskTaskType,
    TaskConfig,
)
from generative_recommenders.modules.positional_encoder import HSTUPositionalEncoder
from generative_recommenders.modules.postprocessors import (
    LayerNormPostprocessor,
    OutputPostprocessor,
    TimestampLayerNormPostprocessor,
)
from generative_recommenders.modules.preprocessors import ContextualPreprocessor
from generative_recommenders.modules.stu import STULayer, STULayerConfig, STUStack
from generative_recommenders.ops.jagged_tensors import concat_2D_jagged
from generative_recommenders.ops.layer_norm import LayerNorm, SwishLayerNorm

HIDDEN = 512  # columns inside the item MLP and the head
PLACES, AGES = 8192, 2048
ACTION_DIM = 8
PERIODS = [(3600, 24), (86400, 7)]  # the hour of a day, the day of a week


class SequenceEmbedding(NamedTuple):
    """The rows of one feature: (batch,) and (rows, dim)."""

    lengths: Tensor
    embedding: Tensor


@dataclass
class DlrmHSTUConfig:
    """Sizes of the model and names of features.

    ``merge_uih_candidate_feature_mapping`` pairs a feature of the history with the one of the
    candidates that goes on with it. ``hstu_transducer_embedding_dim`` must be set.
    """

    max_seq_len: int = 16384
    max_num_candidates: int = 10
    max_num_candidates_inference: int = 5
    hstu_num_heads: int = 1
    hstu_attn_linear_dim: int = 256
    hstu_attn_qk_dim: int = 128
    hstu_attn_num_layers: int = 12
    hstu_embedding_table_dim: int = 192
    hstu_preprocessor_hidden_dim: int = 256
    hstu_transducer_embedding_dim: int = 0
    hstu_group_norm: bool = False
    hstu_input_dropout_ratio: float = 0.2
    hstu_linear_dropout_rate: float = 0.2
    contextual_feature_to_max_length: dict[str, int] = field(default_factory=dict)
    contextual_feature_to_min_uih_length: dict[str, int] = field(default_factory=dict)
    candidates_weight_feature_name: str = ""
    candidates_watchtime_feature_name: str = ""
    candidates_querytime_feature_name: str = ""
    causal_multitask_weights: float = 0.2
    multitask_configs: list[TaskConfig] = field(default_factory=list)
    user_embedding_feature_names: list[str] = field(default_factory=list)
    item_embedding_feature_names: list[str] = field(default_factory=list)
    uih_post_id_feature_name: str = ""
    uih_action_time_feature_name: str = ""
    uih_weight_feature_name: str = ""
    hstu_uih_feature_names: list[str] = field(default_factory=list)
    hstu_candidate_feature_names: list[str] = field(default_factory=list)
    merge_uih_candidate_feature_mapping: list[tuple[str, str]] = field(default_factory=list)
    action_weights: list[int] | None = None
    action_embedding_init_std: float = 0.1
    enable_postprocessor: bool = True
    use_layer_norm_postprocessor: bool = False


class _Batch(NamedTuple):
    """A KeyedJaggedTensor taken apart: values and lengths (batch,) of each feature."""

    values: dict[str, Tensor]
    lengths: dict[str, Tensor]
    longest: dict[str, int]


def _taken_apart(*batches: Any) -> list[_Batch]:
    """Reads the host once: how many values each feature has, and its greatest length."""
    tables = [b.lengths().view(len(b.keys()), -1) for b in batches]
    sizes = torch.cat([t.sum(1) for t in tables]).long()
    longest = torch.cat([t.amax(1) if t.shape[1] else t.new_zeros(t.shape[0]) for t in tables])
    read = torch.stack([sizes, longest.long()]).tolist()
    found, at = [], 0
    for batch, table in zip(batches, tables, strict=True):
        keys = list(batch.keys())
        totals, most = (row[at : at + len(keys)] for row in read)
        at += len(keys)
        found.append(
            _Batch(
                dict(zip(keys, batch.values().split(totals), strict=True)),
                dict(zip(keys, table.unbind(0), strict=True)),
                dict(zip(keys, most, strict=True)),
            )
        )
    return found


Outputs = tuple[Tensor, Tensor, dict[str, Tensor], Tensor, Tensor | None, Tensor | None]


class DlrmHSTU(HammerModule):
    """The model.

    Args:
        hstu_configs: sizes and names.
        embedding_tables: TorchRec's ``EmbeddingConfig`` by table name; their collection is made on
            the meta device, for TorchRec to shard.
        is_inference: no losses, no gradients.
        is_dense: without a collection: for ``main_forward`` alone.
        bf16_training: autocast to bfloat16 in training.
        embedding_collection: takes the place of the one made from ``embedding_tables``: called with
            a KeyedJaggedTensor it returns, by feature, what has ``values()`` (rows, dim) and
            ``lengths()`` (batch,).

    Raises:
        ValueError: an argument, its value, and what is allowed.
        ImportError: ``embedding_tables`` without TorchRec.
    """

    def __init__(
        self,
        hstu_configs: DlrmHSTUConfig,
        embedding_tables: dict[str, Any],
        is_inference: bool,
        is_dense: bool = False,
        bf16_training: bool = True,
        embedding_collection: nn.Module | None = None,
    ) -> None:
        super().__init__(is_inference=is_inference)
        c = self._hstu_configs = hstu_configs
        CHECKS.integer(c.hstu_transducer_embedding_dim, "hstu_transducer_embedding_dim", 1)
        self._bf16_training = bf16_training
        set_static_max_seq_lens([c.max_seq_len])
        if not is_dense:
            self._embedding_collection = embedding_collection or _collection(embedding_tables)
        self._user_pairs = [
            pair
            for pair in c.merge_uih_candidate_feature_mapping
            if pair[0] in c.user_embedding_feature_names
        ]
        self._additional = [uih for uih, _ in self._user_pairs if uih != c.uih_post_id_feature_name]
        self._hstu_transducer = self._transducer()
        dim = c.hstu_transducer_embedding_dim
        self._item_mlp = nn.Sequential(
            nn.Linear(len(c.item_embedding_feature_names) * c.hstu_embedding_table_dim, HIDDEN),
            SwishLayerNorm(HIDDEN, is_inference=is_inference),
            nn.Linear(HIDDEN, dim),
            LayerNorm(dim, is_inference=is_inference),
        )

        def head(in_dim: int, tasks: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(in_dim, HIDDEN),
                SwishLayerNorm(HIDDEN, is_inference=is_inference),
                nn.Linear(HIDDEN, tasks),
            )

        self._multitask_module = DefaultMultitaskModule(
            c.multitask_configs, dim, head, c.causal_multitask_weights, is_inference
        )
        if bf16_training:
            self.set_training_dtype(torch.bfloat16)

    def _transducer(self) -> HSTUTransducer:
        c, is_inference = self._hstu_configs, self._is_inference
        dim = c.hstu_transducer_embedding_dim
        layer = STULayerConfig(
            embedding_dim=dim,
            num_heads=c.hstu_num_heads,
            hidden_dim=c.hstu_attn_linear_dim,
            attention_dim=c.hstu_attn_qk_dim,
            output_dropout_ratio=c.hstu_linear_dropout_rate,
            use_group_norm=c.hstu_group_norm,
        )
        layers = range(c.hstu_attn_num_layers)
        post: OutputPostprocessor | None = None
        if c.enable_postprocessor and c.use_layer_norm_postprocessor:
            post = LayerNormPostprocessor(dim, is_inference=is_inference)
        elif c.enable_postprocessor:
            post = TimestampLayerNormPostprocessor(dim, PERIODS, is_inference=is_inference)
        return HSTUTransducer(
            STUStack([STULayer(layer, is_inference) for _ in layers], is_inference),
            ContextualPreprocessor(
                c.hstu_embedding_table_dim,
                c.hstu_preprocessor_hidden_dim,
                dim,
                c.contextual_feature_to_max_length,
                c.contextual_feature_to_min_uih_length,
                ACTION_DIM,
                c.uih_weight_feature_name,
                c.action_weights,
                self._additional,
                c.action_embedding_init_std,
                is_inference,
            ),
            post,
            c.hstu_input_dropout_ratio,
            HSTUPositionalEncoder(
                PLACES, AGES, dim, sum(c.contextual_feature_to_max_length.values()), is_inference
            ),
            is_inference,
        )

    def preprocess(
        self, uih_features: Any, candidates_features: Any
    ) -> tuple[dict[str, SequenceEmbedding], dict[str, Tensor], int, Tensor, int, Tensor]:
        """Looks up the embeddings, all at once, and takes the other features as they are.

        Args:
            uih_features, candidates_features: KeyedJaggedTensors of histories and candidates.

        Returns:
            embeddings by feature; payloads by feature with ``uih_offsets`` and
            ``candidate_offsets``; the longest history; lengths of histories (batch,); the most
            candidates; their numbers (batch,).
        """
        c = self._hstu_configs
        keys = [*uih_features.keys(), *candidates_features.keys()]
        both = (uih_features, candidates_features)
        values = torch.cat([f.values() for f in both])
        lengths = torch.cat([f.lengths() for f in both])
        merged = type(uih_features)(keys=keys, values=values, lengths=lengths)
        found = self._embedding_collection(merged)
        uih, candidates = _taken_apart(*both)
        first = next(iter(candidates.values))
        uih_lengths, num_candidates = (
            uih.lengths[c.uih_post_id_feature_name],
            candidates.lengths[first],
        )
        payloads = {
            "uih_offsets": complete_cumsum(uih_lengths),
            "candidate_offsets": complete_cumsum(num_candidates),
        }
        unknown = (c.candidates_weight_feature_name, c.candidates_watchtime_feature_name)
        for history, candidate in c.merge_uih_candidate_feature_mapping:
            if history in c.user_embedding_feature_names:
                continue
            payloads[history] = uih.values[history]
            if self._is_inference and candidate in unknown:
                payloads[candidate] = torch.zeros_like(candidates.values[first])
            else:
                payloads[candidate] = candidates.values[candidate]
        names = dict.fromkeys([*c.user_embedding_feature_names, *c.item_embedding_feature_names])
        embeddings = {
            name: SequenceEmbedding(found[name].lengths(), found[name].values()) for name in names
        }
        longest = uih.longest[c.uih_post_id_feature_name]
        return embeddings, payloads, longest, uih_lengths, candidates.longest[first], num_candidates

    def _user(
        self,
        embeddings: dict[str, SequenceEmbedding],
        payloads: dict[str, Tensor],
        max_uih_len: int,
        uih_lengths: Tensor,
        max_candidates: int,
        num_candidates: Tensor,
    ) -> Tensor:
        c = self._hstu_configs

        def joined(history: Tensor, candidates: Tensor) -> Tensor:
            return concat_2D_jagged(
                max_uih_len + max_candidates,
                history,
                candidates,
                offsets_left=payloads["uih_offsets"],
                offsets_right=payloads["candidate_offsets"],
                kernel=self.hammer_kernel(),
            )

        whole = {
            uih: joined(embeddings[uih].embedding, embeddings[candidate].embedding)
            for uih, candidate in self._user_pairs
        }
        times = joined(
            payloads[c.uih_action_time_feature_name][:, None],
            payloads[c.candidates_querytime_feature_name][:, None],
        )[:, 0]
        given = payloads | {name: whole[name] for name in self._additional}
        for name in c.contextual_feature_to_max_length:
            given[name] = embeddings[name].embedding
            given[name + "_offsets"] = complete_cumsum(embeddings[name].lengths)
        rows = whole[c.uih_post_id_feature_name]
        total_uih = embeddings[c.uih_post_id_feature_name].embedding.shape[0]
        low = self._bf16_training and self.is_train
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=low):
            user, _ = self._hstu_transducer(
                max_uih_len,
                max_candidates,
                total_uih,
                rows.shape[0] - total_uih,
                uih_lengths + num_candidates,
                rows,
                times,
                num_candidates,
                given,
            )
        out: Tensor = user
        return out

    def _labels(self, payloads: dict[str, Tensor]) -> dict[str, Tensor]:
        c = self._hstu_configs

        def label(task: TaskConfig) -> Tensor:
            if task.task_type is MultitaskTaskType.REGRESSION:
                return payloads[c.candidates_watchtime_feature_name].float()
            return (
                (payloads[c.candidates_weight_feature_name].long() & task.task_weight) > 0
            ).float()

        return {task.task_name: label(task) for task in c.multitask_configs}

    def main_forward(
        self,
        seq_embeddings: dict[str, SequenceEmbedding],
        payload_features: dict[str, Tensor],
        max_uih_len: int,
        uih_seq_lengths: Tensor,
        max_num_candidates: int,
        num_candidates: Tensor,
    ) -> Outputs:
        """What follows the embeddings.

        Args:
            what ``preprocess`` returns.

        Returns:
            as ``forward``.
        """
        c = self._hstu_configs
        user = self._user(
            seq_embeddings,
            payload_features,
            max_uih_len,
            uih_seq_lengths,
            max_num_candidates,
            num_candidates,
        )
        names = c.item_embedding_feature_names
        items = torch.cat([seq_embeddings[name].embedding for name in names], dim=1)
        low = self._bf16_training and self.is_train
        with torch.autocast(items.device.type, dtype=torch.bfloat16, enabled=low):
            item = self._item_mlp(items).to(user.dtype)
            labels = {} if self._is_inference else self._labels(payload_features)
            predictions, labels_, weights, losses = self._multitask_module(user, item, labels, {})
        aux: dict[str, Tensor] = {}
        if self.is_train:
            tasks = [task.task_name for task in c.multitask_configs]
            aux = dict(zip(tasks, losses.unbind(0), strict=True))
        return user, item, aux, predictions, labels_, weights

    def forward(self, uih_features: Any, candidates_features: Any) -> Outputs:
        """
        Args:
            uih_features, candidates_features: KeyedJaggedTensors of one batch.

        Returns:
            users and items (targets, hstu_transducer_embedding_dim), the losses by task (in
            training), predictions, labels, weights (tasks, targets); no labels and weights in
            inference.
        """
        return self.main_forward(*self.preprocess(uih_features, candidates_features))


def _collection(embedding_tables: dict[str, Any]) -> nn.Module:
    if not embedding_tables:
        CHECKS.fail("embedding_tables must hold a table, or embedding_collection be given, got {}")
    try:
        from torchrec import EmbeddingCollection
    except ImportError as error:
        raise ImportError(
            "generative_recommenders: DlrmHSTU makes its collection with TorchRec, which is not "
            "installed: pip install torchrec, or give embedding_collection"
        ) from error
    made: nn.Module = EmbeddingCollection(
        tables=list(embedding_tables.values()), device=torch.device("meta")
    )
    return made
