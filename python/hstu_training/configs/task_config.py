"""What a model is trained for."""

from __future__ import annotations

from dataclasses import dataclass

from hstu_training.checks import CHECKS

ACTIVATIONS = ("relu", "gelu", "silu")
SAMPLINGS = ("in_batch", "uniform", "full")


@dataclass(frozen=True)
class RankingConfig:
    """Scores of candidates: an MLP over each candidate's token.

    Args:
        prediction_head_arch: widths of the MLP; the last one is the number of logits.
        prediction_head_act_type: between its layers.
        prediction_head_bias: of its layers.
        num_tasks: equal to the last width: one binary task for each bit of the action. 1 with a
            last width > 1: one task, of so many classes.
        eval_metrics: "AUC", "GAUC", "NE" for binary tasks; "AUC" and "ACC" for classes.
    """

    prediction_head_arch: tuple[int, ...]
    prediction_head_act_type: str = "relu"
    prediction_head_bias: bool = True
    num_tasks: int = 1
    eval_metrics: tuple[str, ...] = ("AUC",)

    def __post_init__(self) -> None:
        if not self.prediction_head_arch:
            CHECKS.fail("prediction_head_arch must have at least one width, got none")
        for width in self.prediction_head_arch:
            CHECKS.integer(width, "prediction_head_arch", 1)
        CHECKS.integer(self.num_tasks, "num_tasks", 1)
        if self.prediction_head_act_type not in ACTIVATIONS:
            CHECKS.fail(
                f"prediction_head_act_type must be one of {ACTIVATIONS}, got "
                f"{self.prediction_head_act_type!r}"
            )
        if self.num_tasks not in (1, self.logits):
            CHECKS.fail(
                f"num_tasks must be 1 or the last width of prediction_head_arch, {self.logits}, "
                f"got {self.num_tasks}"
            )
        allowed = ("AUC", "GAUC", "NE") if self.binary else ("AUC", "ACC")
        for name in self.eval_metrics:
            if name not in allowed:
                CHECKS.fail(f"eval_metrics must be of {allowed} for these tasks, got {name!r}")

    @property
    def logits(self) -> int:
        return self.prediction_head_arch[-1]

    @property
    def binary(self) -> bool:
        return self.num_tasks == self.logits


@dataclass(frozen=True)
class RetrievalConfig:
    """The next item among all: sampled softmax.

    Args:
        num_negatives: drawn for each position; -1: as many as the batch has distinct items.
        temperature: logits are divided by it.
        l2_norm_eps: the least norm of the vectors, which are divided by theirs.
        sampling: negatives from "in_batch" (the distinct items of the batch), "uniform" over the
            catalogue, or "full": the whole catalogue.
        eval_metrics: "HR@k", "NDCG@k" and "MRR" for any k.
    """

    num_negatives: int = -1
    temperature: float = 0.05
    l2_norm_eps: float = 1e-6
    sampling: str = "in_batch"
    eval_metrics: tuple[str, ...] = ("HR@10", "NDCG@10")

    def __post_init__(self) -> None:
        from hstu_training.modules.metrics.retrieval import parse_metric

        if self.num_negatives != -1:
            CHECKS.integer(self.num_negatives, "num_negatives", 1)
        for name in ("temperature", "l2_norm_eps"):
            CHECKS.number(getattr(self, name), name)
            if getattr(self, name) <= 0:
                CHECKS.fail(f"{name} must be > 0, got {getattr(self, name)}")
        if self.sampling not in SAMPLINGS:
            CHECKS.fail(f"sampling must be one of {SAMPLINGS}, got {self.sampling!r}")
        if self.sampling == "uniform" and self.num_negatives == -1:
            CHECKS.fail("num_negatives must be >= 1 with sampling='uniform', got -1")
        for name in self.eval_metrics:
            parse_metric(name)
