"""From sequences of embeddings to one row for each target; name, order and defaults are those of
``generative_recommenders.modules.hstu_transducer`` of Meta's package."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from generative_recommenders._checks import CHECKS
from generative_recommenders.common import HammerModule, complete_cumsum
from generative_recommenders.modules.positional_encoder import HSTUPositionalEncoder
from generative_recommenders.modules.postprocessors import L2NormPostprocessor, OutputPostprocessor
from generative_recommenders.modules.preprocessors import InputPreprocessor, Sequences
from generative_recommenders.modules.stu import STU
from generative_recommenders.ops.jagged_tensors import split_2D_jagged


class HSTUTransducer(HammerModule):
    """Preprocessor, positions, dropout, STU, and the postprocessor on the rows of targets.

    Args:
        stu_module: the layers.
        input_preprocessor: made with the same is_inference.
        output_postprocessor: None: ``L2NormPostprocessor``.
        input_dropout_ratio: in training.
        positional_encoder: None: no positions.
        is_inference: no gradients are needed.
        return_full_embeddings: postprocess and return the rows of histories, too.
        listwise: in training targets are like history for positions and layers.
    """

    def __init__(
        self,
        stu_module: STU,
        input_preprocessor: InputPreprocessor,
        output_postprocessor: OutputPostprocessor | None = None,
        input_dropout_ratio: float = 0.0,
        positional_encoder: HSTUPositionalEncoder | None = None,
        is_inference: bool = True,
        return_full_embeddings: bool = False,
        listwise: bool = False,
    ) -> None:
        super().__init__(is_inference=is_inference)
        if input_preprocessor.is_inference != is_inference:
            CHECKS.fail(
                f"input_preprocessor must have is_inference = {is_inference}, got "
                f"{input_preprocessor.is_inference}"
            )
        self._stu_module = stu_module
        self._input_preprocessor = input_preprocessor
        self._output_postprocessor = output_postprocessor or L2NormPostprocessor(is_inference)
        self._input_dropout_ratio = input_dropout_ratio
        self._positional_encoder = positional_encoder
        self._return_full_embeddings = return_full_embeddings
        self._listwise_training = listwise and self.is_train
        for part in (input_preprocessor, self._output_postprocessor, positional_encoder):
            for module in part.modules() if part is not None else ():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_normal_(module.weight)

    def _layers(self, s: Sequences) -> Tensor:
        targets = None if self._listwise_training else s.num_targets
        x = s.embeddings
        if self._positional_encoder is not None:
            x = self._positional_encoder(
                s.max_seq_len, s.lengths, s.offsets, s.timestamps, x, targets
            )
        x = F.dropout(x, self._input_dropout_ratio, self.training)
        out: Tensor = self._stu_module(x, s.lengths, s.offsets, s.max_seq_len, targets)
        return out

    def forward(
        self,
        max_uih_len: int,
        max_targets: int,
        total_uih_len: int,
        total_targets: int,
        seq_lengths: Tensor,
        seq_embeddings: Tensor,
        seq_timestamps: Tensor,
        num_targets: Tensor,
        seq_payloads: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            as ``InputPreprocessor.forward``.

        Returns:
            (targets, dim) and, with ``return_full_embeddings``, (rows, dim) of whole sequences as
            the preprocessor made them; both in the dtype of seq_embeddings.
        """
        dtype = seq_embeddings.dtype
        if self.is_train:
            seq_embeddings = seq_embeddings.to(self._training_dtype)
        s: Sequences = self._input_preprocessor(
            max_uih_len,
            max_targets,
            total_uih_len,
            total_targets,
            seq_lengths,
            seq_timestamps,
            seq_embeddings,
            num_targets,
            seq_payloads,
        )
        whole = self._layers(s)
        if self._return_full_embeddings:
            whole = self._output_postprocessor(whole, s.timestamps, s.payloads)
        interleaved = self._input_preprocessor.interleave_targets()

        def of_targets(rows: Tensor) -> Tensor:
            targets = split_2D_jagged(
                s.max_seq_len,
                rows,
                s.total_uih_len,
                s.total_targets,
                offsets_left=complete_cumsum(s.lengths - s.num_targets),
                offsets_right=complete_cumsum(s.num_targets),
                kernel=self.hammer_kernel(),
            )[1]
            return targets[::2] if interleaved else targets

        candidates = of_targets(whole)
        if self._return_full_embeddings:
            return candidates.to(dtype), whole.to(dtype)
        times = of_targets(s.timestamps[:, None])[:, 0]
        return self._output_postprocessor(candidates, times, s.payloads).to(dtype), None
