"""A model and what trains it, out of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hstu_training.configs.hstu_config import HSTUConfig
from hstu_training.data.batches import BatchMaker, Order, Task
from hstu_training.data.columns import Columns
from hstu_training.data.generated import Generated
from hstu_training.model.ranking_gr import RankingGR
from hstu_training.model.retrieval_gr import RetrievalGR
from hstu_training.modules.embeddings import Embeddings, TableConfig
from hstu_training.ops.counter import mix
from hstu_training.training.processes import Processes
from hstu_training.training.settings import Settings
from hstu_training.training.tables import dumper, loader, make_tables

_ORDER, _INIT = 2, 3  # streams of the seed


@dataclass
class Built:
    """Everything that the loop turns.

    Args:
        dense: the model behind DistributedDataParallel, if there are more processes.
        identity: what a checkpoint must agree in.
        parts: the parts that are evaluated.
    """

    settings: Settings
    processes: Processes
    columns: Columns | Generated
    task: Task
    config: HSTUConfig
    tables: list[TableConfig]
    model: RankingGR | RetrievalGR
    dense: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    train: Order
    parts: dict[str, Order]
    backend: str

    @property
    def identity(self) -> dict[str, Any]:
        c = self.config
        sizes = (
            "hidden_size", "kv_channels", "num_attention_heads", "num_layers", "max_seq_len",
            "learnable_norm", "uvqk_bias", "proj_bias", "relative_bias", "position_buckets",
        )  # fmt: skip
        tables = {
            f"table {t.name}": [t.dim, "dynamic" if t.dynamic else t.rows] for t in self.tables
        }
        head = self.settings.ranking.prediction_head_arch if self.settings.ranking else ()
        optimizer = self.settings.optimizer.optimizer_str.lower()
        said = {name: getattr(c, name) for name in sizes}
        return said | tables | {"head": list(head), "optimizer": optimizer}

    def dump(self) -> Callable[[Path], None] | None:
        """Writes the dynamic tables, all processes together."""
        collection = self.model.embeddings.collection
        return None if collection is None else dumper(collection)

    def load(self) -> Callable[[Path], None] | None:
        """Reads them."""
        collection = self.model.embeddings.collection
        return None if collection is None else loader(collection)


def _embeddings(
    tables: list[TableConfig], settings: Settings, processes: Processes, dtype: torch.dtype
) -> tuple[Embeddings, str]:
    dynamic = [table for table in tables if table.dynamic]
    collection, backend = None, "none"
    if dynamic:
        collection, backend = make_tables(dynamic, settings, processes)
    return Embeddings(tables, collection, dtype), backend


def _optimizer(settings: Settings, dense: nn.Module) -> torch.optim.Optimizer:
    o, parameters = settings.optimizer, list(dense.parameters())
    if o.optimizer_str.lower() == "sgd":
        return torch.optim.SGD(parameters, o.learning_rate, weight_decay=o.weight_decay)
    betas = (o.adam_beta1, o.adam_beta2)
    return torch.optim.AdamW(
        parameters, o.learning_rate, betas, o.adam_eps, o.weight_decay, fused=True
    )


def summed(bucket: Any) -> Any:
    """Gradients are summed: each process's loss is its share of the global one already."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def build(settings: Settings, processes: Processes) -> Built:
    """Reads the data and makes the model.

    Raises:
        ConfigError, DataError, ValueError: what cannot be, before a step is taken.
    """
    trainer = settings.trainer
    columns = settings.columns(verify=processes.rank == 0)
    task = settings.task(columns)
    config = settings.hstu_config(task, processes.device)
    tables = settings.tables(columns, task)
    torch.manual_seed(mix(trainer.seed, _INIT) % 2**31)
    embeddings, backend = _embeddings(tables, settings, processes, config.param_dtype)
    model: RankingGR | RetrievalGR
    if settings.ranking is not None:
        model = RankingGR(
            config, settings.ranking, embeddings, settings.dataset.positive_action, processes.rank
        )
    else:
        assert settings.retrieval is not None
        catalogue = torch.from_numpy(columns["catalogue"].copy())
        model = RetrievalGR(config, settings.retrieval, embeddings, catalogue, processes.rank)
    model.to(processes.device)
    dense: nn.Module = model
    if processes.world > 1:
        dense = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        # A lambda: PyTorch compares a hook's annotations, which here are text.
        dense.register_comm_hook(None, lambda _, bucket: summed(bucket))
    parts = {}
    names = ("valid", "test") if task.split == "leave_one_out" else ("test",)
    for name in names:
        maker = BatchMaker(columns, task, name)
        parts[name] = Order(maker, trainer.eval_batch_size, processes.rank, processes.world)
    train = Order(
        BatchMaker(columns, task, "train"), trainer.train_batch_size, processes.rank,
        processes.world, mix(trainer.seed, _ORDER), settings.dataset.shuffle,
        trainer.enable_balanced_shuffler,
    )  # fmt: skip
    half = config.dtype is torch.float16
    scaler = torch.amp.GradScaler(processes.device.type, enabled=half)
    return Built(
        settings, processes, columns, task, config, tables, model, dense,
        _optimizer(settings, model), scaler, train, parts, backend,
    )  # fmt: skip


def describe(built: Built) -> dict[str, Any]:
    """What report.json says of the run."""
    s = built.settings
    return {
        "data": {k: v for k, v in built.columns.manifest.items() if k != "files"},
        "task": dataclasses.asdict(built.task),
        "model": built.identity,
        "trainer": dataclasses.asdict(s.trainer),
        "optimizer": dataclasses.asdict(s.optimizer),
        "dtype": str(built.config.dtype),
        "device": str(built.processes.device),
        "processes": built.processes.world,
        "embedding_backend": built.backend,
        "dense_parameters": sum(p.numel() for p in built.model.parameters()),
    }
