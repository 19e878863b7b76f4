"""What training.py measures of whole steps, and of their batches alone."""

from __future__ import annotations

from pathlib import Path

import harness
import torch

# A table that holds the items of its batches: the whole one has 70 GB, which take a minute to pin.
ITEMS = ("item/DynamicEmbeddingArgs.item_vocab_size_or_capacity=2000000",
         "item/DynamicEmbeddingArgs.item_vocab_gpu_capacity_ratio=None")  # fmt: skip
GIN = Path(__file__).parents[1] / "examples/hstu/benchmark_ranking.gin"


def timed(call: harness.Call) -> float:
    """Milliseconds."""
    return harness.best_seconds(call, torch.cuda.synchronize, repeats=10) * 1e3


def graph_ms(call: harness.Call) -> float:
    """Milliseconds of its kernels, one after the other."""
    with torch.cuda.stream(torch.cuda.Stream()):
        return harness.median_ms([call])


def row_ms(call: harness.Call) -> float:
    """Milliseconds of one of eager calls in a row."""
    return harness.call_us(call, 8, wait=True, repeats=4) / 1e3


def step(table: harness.Table, *bindings: str, name: str = "step") -> None:
    """A step of training, and its tokens a second; this case alone needs gin."""
    from hstu_training.training import gin_file
    from hstu_training.training.build import build
    from hstu_training.training.processes import Processes
    from hstu_training.training.settings import Settings
    from hstu_training.training.trainer import Trainer, Watch

    gin_file.parse(GIN, (*ITEMS, *bindings))
    built = build(Settings.read(ranking=True), Processes("cuda"))
    trainer = Trainer(built, Path("."))
    trainer.watch = Watch(trainer.device)
    built.model.train()
    batches = [trainer._to_device(built.train(s)) for s in range(2)]
    turn = iter(range(10**6))
    ms = timed(lambda: trainer.train_step(s := next(turn), batches[s % 2]))
    share = trainer._flops(batches[0]) / ms / 1e9 / table.ceilings.matmul_tflops
    said, rate = f"{share:.2f} matmul", batches[0].order.numel() / ms
    table.row(name, said, None, None, None, ms, None, None, None, rate)


def loader(table: harness.Table, batches: int = 20) -> None:
    """Tokens a second of the batches alone."""
    from hstu_training.data.batches import BatchMaker, Order, ahead
    from hstu_training.training import gin_file
    from hstu_training.training.settings import Settings

    gin_file.parse(GIN)
    settings = Settings.read(ranking=True)
    columns, trainer = settings.columns(), settings.trainer
    maker = BatchMaker(columns, settings.task(columns), "train")
    order = Order(maker, trainer.train_batch_size, seed=trainer.seed)
    pins = torch.cuda.is_available()
    finish = lambda b: b.map(lambda t: t.pin_memory()) if pins else b  # noqa: E731
    counts: list[int] = []

    def read() -> None:
        made = ahead(order, 0, batches, trainer.num_workers, 3, finish)
        counts[:] = [batch.order.numel() for batch in made]

    ms = harness.best_seconds(read, lambda: None, repeats=3) * 1e3
    rate = sum(counts) / ms
    table.row("loader", f"{batches} batches", None, None, None, ms, None, None, None, rate)
