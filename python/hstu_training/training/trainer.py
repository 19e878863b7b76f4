"""The loop: steps, reports, evaluations, checkpoints. Resumed, it goes on as if never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstu_training.data.batches import Batch, Order, ahead
from hstu_training.model.ranking_gr import RankingGR
from hstu_training.ops.counter import mix
from hstu_training.training import checkpoint
from hstu_training.training.build import Built, describe
from hstu_training.training.evaluate import evaluate_ranking, evaluate_retrieval
from hstu_training.training.processes import StopFlag
from hstu_training.training.report import (
    Bar,
    MetricsFile,
    TensorBoard,
    matmul_flops,
    peak_flops,
    plot,
    write_report,
)

_DRAWS = 1  # the stream of the seed that dropout and negatives are drawn from
_AHEAD = 3  # batches that are made ahead
_LOOK = 8  # steps until a GPU's loss is looked at


class NotFinite(RuntimeError):
    """The loss is NaN or infinite."""


class Watch:
    """Which step's loss was not finite, found without waiting for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._losses = torch.zeros(_LOOK, device=device)  # of the last steps
        self._steps: list[int] = []  # whose losses they are
        self._copies: list[tuple[list[int], Tensor, Any]] = []
        self._first = -1

    def see(self, step: int, loss: Tensor) -> int:
        """Takes a step's loss; -1, or the first bad step that is known of."""
        self._losses[len(self._steps)].copy_(loss)
        self._steps.append(step)
        if not self._losses.is_cuda:
            return self.known()
        if len(self._steps) == _LOOK:
            copy = torch.empty(_LOOK, pin_memory=True)
            copy.copy_(self._losses, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            self._copies.append((self._steps, copy, done))
            self._steps = []
        while self._copies and self._copies[0][2].query():
            self._note(*self._copies.pop(0)[:2])
        return self._first

    def _note(self, steps: list[int], losses: Tensor) -> None:
        for step, loss in zip(steps, losses.tolist(), strict=False):
            if self._first < 0 and not math.isfinite(loss):
                self._first = step

    def known(self) -> int:
        """The same, and waits."""
        for steps, copy, done in self._copies:
            done.synchronize()
            self._note(steps, copy)
        self._note(self._steps, self._losses)
        self._copies, self._steps = [], []
        return self._first


class Trainer:
    """One run.

    Args:
        built: the model and its data.
        output: a folder for metrics.csv, report.json, training.png.
    """

    def __init__(self, built: Built, output: Path) -> None:
        self.built, self.output = built, output
        self.args, self.processes = built.settings.trainer, built.processes
        self.device, self.first_rank = built.processes.device, built.processes.rank == 0
        self.total = self.args.max_train_iters or built.train.per_epoch
        self.checkpoints = checkpoint.Checkpoints(
            self.args.ckpt_save_dir, self.args.ckpt_keep, self.processes
        )
        self.step = 0
        self.best: dict[str, Any] = {}
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.loss_steps = 0
        self.problems: list[str] = []
        self.metrics = MetricsFile(Path(), (), 0)
        self.matmul: float | None = None
        self.rates: list[float] = []

    # -- one step

    def _finish(self, batch: Batch) -> Batch:
        """A batch on its way to the device."""
        if self.device.type == "cpu":
            self.built.model.embeddings.check(batch.features)
            return batch
        return batch.map(lambda t: t.pin_memory())

    def _to_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return batch.map(lambda t: t.to(self.device, non_blocking=True))

    def _global_count(self, step: int) -> int:
        """Outputs of all processes in a step: every process knows them."""
        order = self.built.train
        chosen, maker = order.global_batch(step), order.maker
        length = maker.length[chosen]
        if not self.built.task.ranking:
            return int((length - 1).sum())
        targets = maker._targets(length) if maker.candidates else length
        return int(targets.sum())

    def train_step(self, step: int, batch: Batch) -> Tensor:
        """Forward, backward, update.

        Returns:
            this process's share of the loss.

        Raises:
            NotFinite: on the CPU, before anything is updated by that step.
        """
        built = self.built
        built.model.embeddings.begin_step(step)
        scaler = built.scaler
        if scaler.is_enabled():
            scale = scaler.scale(torch.ones((), device=self.device))
            built.model.embeddings.unscale = scale.reciprocal()
        loss = built.dense(batch, mix(self.args.seed, _DRAWS, step)) / self._global_count(step)
        share: Tensor = loss.detach()
        if self.device.type == "cpu":
            self._look(self.watch.see(step, share))
        built.optimizer.zero_grad(set_to_none=True)
        # By this thread: waking one of autograd's own takes long, and then the GPU waits for it.
        with torch.autograd.set_multithreading_enabled(False):
            scaler.scale(loss).backward()
        scaler.step(built.optimizer)
        scaler.update()
        if self.device.type != "cpu":
            self._look(self.watch.see(step, share))
        return share

    def _look(self, bad: int) -> None:
        if bad < 0:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"bad_batch_step{bad}_rank{self.processes.rank}.pt"
        torch.save(vars(self.built.train(bad)), path)
        raise NotFinite(
            f"hstu_training: the loss of step {bad} is not finite on rank {self.processes.rank}; "
            f"its batch is in {path}"
        )

    # -- reports

    def _flops(self, batch: Batch) -> float:
        """Of the layers, forward and backward, visible pairs alone."""
        c = self.built.config
        inner = c.num_attention_heads * c.kv_channels
        tokens = float(batch.order.numel())
        dense = 6 * tokens * c.hidden_size * inner * 5
        return c.num_layers * (dense + 14.0 * batch.pairs * inner)

    def _report(self, tokens: float, flops: float, begin: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        sums = self.processes.all((float(self.loss_sum), tokens, flops))
        loss = math.fsum(s[0] for s in sums) / max(self.loss_steps, 1)
        rate = sum(s[1] for s in sums) / seconds
        speed = sum(s[2] for s in sums) / seconds / self.processes.world
        peak = peak_flops(self.device)
        mfu = None if peak is None else speed / peak
        self.rates.append(rate)
        self.row = {
            "step": self.step, "epoch": self.step / self.built.train.per_epoch, "loss": loss,
            "tokens_per_second": rate, "mfu": mfu,
            "mfu_of_matmul": None if not self.matmul else speed / self.matmul, "seconds": seconds,
        }  # fmt: skip
        self.bar.show(self.step, loss, rate, mfu or self.row["mfu_of_matmul"],
                      self.step == self.total)  # fmt: skip
        self.loss_sum.zero_()
        self.loss_steps = 0

    def evaluate(self, part: str) -> dict[str, float]:
        """Metrics of "valid" or "test"."""
        model, order = self.built.model, self.built.parts[part]
        model.eval()
        steps = order.per_epoch
        if self.args.max_eval_iters is not None:
            steps = min(steps, self.args.max_eval_iters)
        batches = map(self._to_device, self._batches(order.evaluation, 0, steps))
        if isinstance(model, RankingGR):
            found = evaluate_ranking(model, batches, self.processes)
        else:
            found = evaluate_retrieval(model, batches, self.processes)
        model.train()
        return {f"{part}_{name}": value for name, value in found.items()}

    def _evaluate(self) -> None:
        """The validation's metrics, and the test's where they are the best so far."""
        first = next(iter(self.built.parts))
        found = self.evaluate(first)
        names = [n for n in found if n.startswith(f"{first}_NDCG")] or list(found)
        watched = names[0]
        better = not self.best or found[watched] > self.best[watched]
        if better and first != "test":
            found |= self.evaluate("test")
        if better:
            self.best = {"step": self.step, **found}
        self.row |= found
        if self.first_rank:
            said = "  ".join(f"{n} {v:.4f}" for n, v in found.items() if not n.endswith("_all"))
            print(f"\n[eval] step {self.step}: {said}", flush=True)

    def _metric_names(self) -> list[str]:
        s = self.built.settings
        if s.ranking is not None:
            names = list(s.ranking.eval_metrics)
            if s.ranking.binary and s.ranking.num_tasks > 1:
                names += [f"{n}_{i}" for n in names for i in range(s.ranking.num_tasks)]
        else:
            assert s.retrieval is not None
            names = [f"{n}{a}" for n in s.retrieval.eval_metrics for a in ("", "_all")]
        return [f"{part}_{name}" for part in self.built.parts for name in names]

    # -- checkpoints

    def save(self) -> None:
        """A checkpoint of the steps done; a failure is kept for the end."""
        self._look(self.watch.known())
        built = self.built
        state = checkpoint.State(
            self.step, built.identity,
            {"best": self.best, "loss_steps": self.loss_steps, "seed": self.args.seed},
        )  # fmt: skip
        extra = {"loss_sums": self.processes.all(float(self.loss_sum)),
                 "scaler": built.scaler.state_dict()}  # fmt: skip
        problem = self.checkpoints.save(state, built.model, built.optimizer, built.dump(), extra)
        if problem:
            self.problems.append(f"checkpoint of step {self.step}: {problem}")
            if self.first_rank:
                print(f"\ncheckpoint of step {self.step} was not saved: {problem}", flush=True)

    def resume(self) -> None:
        """Loads what ``ckpt_load_dir`` names, if anything."""
        wanted = self.args.ckpt_load_dir
        if wanted is None:
            return
        found = self.checkpoints.latest() if wanted == "latest" else Path(wanted)
        if found is None:
            return
        built = self.built
        state, extra = checkpoint.load(
            found, built.identity, built.model, built.optimizer, built.load()
        )
        built.scaler.load_state_dict(extra["scaler"])
        self.step, self.best = state.step, state.progress["best"]
        self.loss_steps = state.progress["loss_steps"]
        if len(extra["loss_sums"]) == self.processes.world:
            self.loss_sum += extra["loss_sums"][self.processes.rank]
        elif self.first_rank:
            self.loss_sum += math.fsum(extra["loss_sums"])
        if self.first_rank:
            print(f"resumed from {found} at step {self.step}", flush=True)

    # -- the loop

    def _batches(self, make: Any, first: int, last: int) -> Iterator[Batch]:
        depth = 0 if self.args.pipeline_type == "none" else _AHEAD
        return ahead(make, first, last, self.args.num_workers, depth, self._finish)

    def run(self) -> int:
        """Trains.

        Returns:
            0, or 1 where something could not be saved.

        Raises:
            NotFinite: the loss is no number.
        """
        self.watch = Watch(self.device)
        torch.use_deterministic_algorithms(self.args.deterministic, warn_only=True)
        # PyTorch would fill each new tensor first: an eighth of a step, and no bit of the result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.resume()
        self.output.mkdir(parents=True, exist_ok=True)
        names = self._metric_names()
        self.metrics = MetricsFile(self.output / "metrics.csv", names, self.step)
        self.board = TensorBoard(self.output / "tensorboard", self.first_rank)
        self.bar = Bar(self.total, self.first_rank)
        self.matmul = matmul_flops(self.device, self.built.config.dtype)
        stop = StopFlag(self.processes)
        profiler = self._profiler()
        stopped = False
        try:
            stopped = self._loop(stop, profiler)
            saves = self.args.ckpt_save_dir is not None and not stopped
            if saves and (self._unsaved or not self.checkpoints.there()):
                self.save()
        finally:
            stop.restore()
            if profiler is not None:
                profiler.stop()
        self.finish(names)
        if stopped and self.first_rank:
            print(f"stopped by SIGTERM after step {self.step}", flush=True)
        for problem in self.problems if self.first_rank else ():
            print(problem, flush=True)
        return 1 if self.problems else 0

    def _loop(self, stop: StopFlag, profiler: Any) -> bool:
        """True: SIGTERM."""
        args = self.args
        self._unsaved = self.step < self.total
        self.built.model.train()
        begin, tokens, flops = time.perf_counter(), 0.0, 0.0
        for batch in self._batches(self.built.train, self.step, self.total):
            tokens += batch.order.numel()
            flops += self._flops(batch)
            self.loss_sum += self.train_step(self.step, self._to_device(batch)).double()
            self.loss_steps += 1
            self.step += 1
            self._unsaved = True
            if profiler is not None:
                profiler.step()
            last = self.step == self.total
            report = self.step % args.log_interval == 0 or last
            evaluate = self.step % args.eval_interval == 0 or last
            if report or evaluate:
                self._report(tokens, flops, begin)
                if evaluate:
                    self._evaluate()
                if self.first_rank:
                    self.metrics.add(self.row)
                    self.board.add(self.row)
                begin, tokens, flops = time.perf_counter(), 0.0, 0.0
            told = stop.after_step()
            due = args.ckpt_save_interval > 0 and self.step % args.ckpt_save_interval == 0
            if args.ckpt_save_dir is not None and (due or told):
                self.save()
                self._unsaved = False
            if told:
                return True
        return False

    def _profiler(self) -> Any:
        if not self.args.profile or not self.first_rank:
            return None
        first, last = self.args.profile_step_start, self.args.profile_step_end
        path = str(self.output / "profile.json")
        made = torch.profiler.profile(
            schedule=torch.profiler.schedule(
                wait=max(first - 1, 0), warmup=1 if first else 0, active=last - first, repeat=1
            ),
            on_trace_ready=lambda p: p.export_chrome_trace(path),
        )
        made.start()
        return made

    def finish(self, names: list[str]) -> None:
        """report.json and training.png."""
        if not self.first_rank:
            return
        rates = sorted(self.rates)
        shown = [n for n in names if not n.endswith("_all")][:12]
        report = describe(self.built) | {
            "steps": self.step, "best": self.best,
            "tokens_per_second": rates[len(rates) // 2] if rates else None,
            "matmul_flops": self.matmul, "problems": self.problems,
        }  # fmt: skip
        try:
            write_report(self.output / "report.json", report)
            kind = "ranking" if self.built.task.ranking else "retrieval"
            title = f"{self.built.settings.dataset.dataset_name} {kind}, {self.step} steps"
            plot(self.output / "training.png", self.metrics, shown, title)
        except OSError as error:
            self.problems.append(f"report: {error}")
        self.board.close()
        if self.best:
            print("\n| metric | best |\n|---|---|")
            for name, value in self.best.items():
                print(f"| {name} | {value:.4f} |" if isinstance(value, float) else
                      f"| {name} | {value} |")  # fmt: skip
            print(flush=True)


def orders_alone(order: Order, steps: int) -> float:
    """Batches a second that the loader makes by itself."""
    begin = time.perf_counter()
    for step in range(steps):
        order(step)
    return steps / (time.perf_counter() - begin)
