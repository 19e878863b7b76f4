"""All gin classes of one run together, and what follows from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.configs.task_config import RankingConfig, RetrievalConfig
from hstu_training.data.batches import Task
from hstu_training.data.columns import Columns, DataError
from hstu_training.data.generated import Generated
from hstu_training.modules.embeddings import TableConfig, TableOptimizer
from hstu_training.training.gin_config_args import (
    BenchmarkDatasetArgs,
    DatasetArgs,
    DynamicEmbeddingArgs,
    EmbeddingArgs,
    NetworkArgs,
    OptimizerArgs,
    RankingArgs,
    RetrievalArgs,
    TensorModelParallelArgs,
    TrainerArgs,
)
from hstu_training.training.gin_file import ConfigError, fail, make
from hstu_training.training.utils import create_hstu_config

_SPARE = 2  # rows of a dynamic table for each id of the data, where nothing says how many


@dataclass
class Settings:
    """A run's settings.

    Args:
        ranking: the task; else retrieval.
    """

    trainer: TrainerArgs
    dataset: DatasetArgs
    network: NetworkArgs
    optimizer: OptimizerArgs
    benchmark: BenchmarkDatasetArgs | None
    ranking: RankingConfig | None
    retrieval: RetrievalConfig | None

    @classmethod
    def read(cls, ranking: bool) -> Settings:
        """From what ``gin_file.parse`` has read.

        Raises:
            ConfigError: see ``gin_file``.
        """
        make(TensorModelParallelArgs)
        dataset = make(DatasetArgs)
        benchmark = make(BenchmarkDatasetArgs) if dataset.dataset_name == "benchmark" else None
        if dataset.split == "auto":
            dataset.split = "users" if ranking or benchmark else "leave_one_out"
        if dataset.split == "last" and not (ranking and dataset.max_num_candidates):
            fail(dataset, "split", "another one where nothing is ranked or max_num_candidates is 0")
        network = make(NetworkArgs)
        tasks: list[Any] = [None, None]
        kind: type[RankingArgs] | type[RetrievalArgs] = RankingArgs if ranking else RetrievalArgs
        given = make(kind)
        try:
            config = RankingConfig if ranking else RetrievalConfig
            tasks[not ranking] = config(**dataclasses.asdict(given))
        except ValueError as error:
            raise ConfigError(f"{error} ({kind.__name__})") from error
        if not ranking and dataset.max_num_candidates:
            fail(dataset, "max_num_candidates", "0 for retrieval")
        return cls(make(TrainerArgs), dataset, network, make(OptimizerArgs), benchmark, *tasks)

    def columns(self, verify: bool = True) -> Columns | Generated:
        """The data.

        Raises:
            ConfigError: there is none, and the command that makes it.
            DataError: it is damaged.
        """
        if self.benchmark is not None:
            tasks = self.ranking
            bits = tasks.num_tasks if tasks is not None and tasks.binary else 0
            classes = tasks.logits if tasks is not None else 10
            size = self.trainer.train_batch_size
            return Generated(self.benchmark, size, bits, classes, self.trainer.seed)
        name = self.dataset.dataset_name
        path = Path(self.dataset.dataset_path or f"data/{name}")
        if not path.exists():
            archive = {"csv": "events.csv"}.get(name, f"the archive of {name}")
            self.dataset.dataset_path = str(path)
            fail(
                self.dataset, "dataset_path", "a folder that `python -m hstu_training.preprocess "
                f"--dataset {name} --input <{archive}> --output {path}` makes",
            )  # fmt: skip
        columns = Columns(path, verify)
        self._check_actions(columns)
        return columns

    def _check_actions(self, columns: Columns) -> None:
        """Raises DataError where the tasks are not those of the data."""
        size, task = int(columns.manifest["action_size"]), self.ranking
        if task is None:
            return
        if task.binary and task.num_tasks > 1:
            bits = (size - 1).bit_length()
            if not columns.manifest["bits"] or bits != task.num_tasks:
                has = f"actions of {bits} bits" if columns.manifest["bits"] else "classes"
                raise DataError(
                    f"hstu_training: RankingArgs.num_tasks is {task.num_tasks}, but "
                    f"{columns.folder} has {has}"
                )
        elif not task.binary and size > task.logits:
            raise DataError(
                f"hstu_training: RankingArgs.prediction_head_arch ends with {task.logits} classes, "
                f"but {columns.folder} has {size}"
            )

    def task(self, columns: Columns | Generated) -> Task:
        """How the data becomes tokens."""
        chosen = self.dataset.contextual_features
        if chosen is None:
            chosen = ("user_id", *columns.contexts) if self.ranking else ()
            if self.benchmark is not None:
                chosen = tuple(columns.contexts)
        unknown = [name for name in chosen if name not in ("user_id", *columns.contexts)]
        if unknown:
            fail(self.dataset, "contextual_features", f"of {['user_id', *columns.contexts]}")
        return Task(
            self.ranking is not None, self.dataset.split, self.dataset.max_history_seqlen,
            self.dataset.max_num_candidates, tuple(chosen),
            not self.network.disable_contextual_mask,
            self.network.relative_bias == "position_time",
        )  # fmt: skip

    def hstu_config(self, task: Task, device: torch.device) -> HSTUConfig:
        """The model; in float32 on the CPU."""
        config = create_hstu_config(self.network, task.max_tokens)
        dtype = config.dtype
        if device.type == "cpu":
            dtype = torch.promote_types(dtype, torch.float32)
        return config.with_(dtype=dtype, deterministic=self.trainer.deterministic)

    def table_optimizer(self) -> TableOptimizer:
        o = self.optimizer
        return TableOptimizer(
            o.optimizer_str.lower(), o.learning_rate, o.adam_beta1, o.adam_beta2, o.adam_eps
        )

    def tables(self, columns: Columns | Generated, task: Task) -> list[TableConfig]:
        """The tables of the model: dynamic for items and users, static for all else."""
        n = self.network
        item_dim = n.hidden_size if n.item_embedding_dim == -1 else n.item_embedding_dim
        dims = n.hidden_size if n.contextual_embedding_dim == -1 else n.contextual_embedding_dim
        sizes = {"item": _SPARE * columns.manifest["items"] + 1024}
        sizes["user_id"] = _SPARE * columns.users + 1024
        renamed = {}
        if self.benchmark is not None:
            renamed = {self.benchmark.item_feature_name: "item",
                       self.benchmark.action_feature_name: "action"}  # fmt: skip
        given = {
            renamed.get(name, name): args
            for args in (self.benchmark.embedding_args if self.benchmark else ())
            for name in args.feature_names
        }
        made = []
        for name in (*task.contexts, "item", *(("action",) if task.ranking else ())):
            args = given.get(name)
            if args is None and name in sizes:
                args = DynamicEmbeddingArgs((name,), name, sizes[name])
            elif args is None:
                size = columns.contexts.get(name, columns.manifest["action_size"])
                args = EmbeddingArgs((name,), name, size)
            made.append(_table(args, name, item_dim if name == "item" else dims))
        return made


def _table(args: EmbeddingArgs, feature: str, dim: int) -> TableConfig:
    table = TableConfig(
        args.table_name, (feature,), args.item_vocab_size_or_capacity, dim, dynamic=False
    )
    if not isinstance(args, DynamicEmbeddingArgs):
        return table
    return dataclasses.replace(
        table, dynamic=True, eviction=args.evict_strategy.lower(),
        hbm_bytes=args.hbm_bytes(dim * 4), caching=args.caching, dist_type=args.dist_type,
    )  # fmt: skip
