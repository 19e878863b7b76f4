"""How fast HSTU attention is, beside the ceilings of the GPU that it runs on.

    python benchmarks/hstu_attention.py [--case SUBSTRING] [--forward-only] [--markdown FILE]

Uses the installed package alone: ``hstu_attn_varlen_func`` and autograd. Per case: the median time
of CUDA-graph replays, each over several input sets in turn (inputs uniform in (-1, 1), so that
nothing stays in cache that would not in training), the rate, and that rate as a share of a bf16
8192^3 ``torch.matmul`` measured in the same run.

The rate counts unmasked causal pairs only: a sequence of length L counts L (L + 1) / 2 pairs of
4 head_dim operations per head, also where targets and contexts change which pairs are visible;
backward counts 2.5 times that. Bytes count q, k, v and the output once.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hstu_attn import hstu_attn_varlen_func

HEADS = 4
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """A row of the table: a batch of sequences, and the masks on top of causal."""

    name: str
    lengths: tuple[int, ...]
    head_dim: int
    num_targets: int = 0
    num_contexts: int = 0
    rab: bool = False

    @property
    def flops(self) -> float:
        """Operations of one forward pass."""
        pairs = sum(n * (n + 1) // 2 for n in self.lengths)
        return 4.0 * self.head_dim * HEADS * pairs

    @property
    def bytes(self) -> float:
        """Bytes that one forward pass must move."""
        return 4.0 * sum(self.lengths) * HEADS * self.head_dim * DTYPE.itemsize


def jagged(batch: int, shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths drawn uniformly, the same ones in every run."""
    draw = random.Random(1)
    return tuple(draw.randint(shortest, longest) for _ in range(batch))


CASES = (
    Case("B16 L2048 D64", (2048,) * 16, 64),
    Case("B16 L2048 D128", (2048,) * 16, 128),
    Case("B16 L2048 D256", (2048,) * 16, 256),
    Case("B4 L8192 D128", (8192,) * 4, 128),
    Case("B32 jagged 512..4096 D128", jagged(32, 512, 4096), 128),
    Case("B32 jagged 512..4096 D64, 128 targets", jagged(32, 512, 4096), 64, 128),
    Case("B32 jagged 512..4096 D128, 128 targets, 6 contexts", jagged(32, 512, 4096), 128, 128, 6),
    Case("B512 jagged 32..256 D64", jagged(512, 32, 256), 64),
    Case("B1 L2048 D128", (2048,), 128),
    Case("B1 L4096 D128", (4096,), 128),
    Case("B1 L8192 D128", (8192,), 128),
    Case("B16 L2048 D32", (2048,) * 16, 32),
    Case("B16 L2048 D64 rab", (2048,) * 16, 64, rab=True),
    Case("B16 L2048 D128 rab", (2048,) * 16, 128, rab=True),
    Case("B16 L2048 D256 rab", (2048,) * 16, 256, rab=True),
)


def median_ms(calls: Sequence[Callable[[], object]], budget_ms: float = 100.0) -> float:
    """The median time of one of ``calls``, which run in turn as one CUDA graph.

    The current stream must not be the default one, which cannot be captured.
    """
    stream = torch.cuda.current_stream()
    for call in calls:
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()

    def replay() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    replay()
    repeats = max(7, min(50, int(budget_ms / replay())))
    return statistics.median(replay() for _ in range(repeats)) / len(calls)


def matmul_tflops(n: int = 8192) -> float:
    """The rate of a bf16 n^3 matrix product on random data."""
    x = [torch.randn(n, n, device="cuda", dtype=DTYPE) for _ in range(3)]
    ms = median_ms([lambda i=i: torch.matmul(x[i], x[(i + 1) % 3]) for i in range(3)])
    return 2.0 * n**3 / ms / 1e9


def stream_tbps(gib: int = 4) -> float:
    """The rate of a kernel that reads a tensor and writes one, bytes of both."""
    source = torch.empty(gib << 28, device="cuda", dtype=torch.int32).random_()
    target = torch.empty_like(source)
    ms = median_ms([lambda: torch.bitwise_not(source, out=target)])
    return 2.0 * source.numel() * source.element_size() / ms / 1e9


class Inputs:
    """One set of tensors of a case, and the calls to be timed on it."""

    def __init__(self, case: Case) -> None:
        total = sum(case.lengths)
        self.longest = max(case.lengths)

        def uniform(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device="cuda", dtype=DTYPE).uniform_(-1.0, 1.0)

        def per_sequence(value: int) -> torch.Tensor | None:
            if value == 0:
                return None
            return torch.full((len(case.lengths),), value, device="cuda", dtype=torch.int32)

        starts = torch.tensor((0, *case.lengths)).cumsum(0)
        self.cu_seqlens = starts.to(device="cuda", dtype=torch.int32)
        self.q, self.k, self.v, self.grad = (uniform(total, HEADS, case.head_dim) for _ in range(4))
        self.rab = (
            uniform(len(case.lengths), HEADS, self.longest, self.longest) if case.rab else None
        )
        self.targets = per_sequence(case.num_targets)
        self.contexts = per_sequence(case.num_contexts)

    def forward(self) -> torch.Tensor:
        return hstu_attn_varlen_func(
            self.q,
            self.k,
            self.v,
            self.cu_seqlens,
            self.cu_seqlens,
            self.longest,
            self.longest,
            num_contexts=self.contexts,
            num_targets=self.targets,
            window_size=(-1, 0),
            rab=self.rab,
        )

    def make_backward(self) -> Callable[[], object]:
        """Runs the forward once with gradients on; returns the call that differentiates it."""
        wanted = [t.requires_grad_() for t in (self.q, self.k, self.v)]
        out = self.forward()
        return lambda: torch.autograd.grad(out, wanted, self.grad, retain_graph=True)


def measure(case: Case, forward_only: bool) -> tuple[float, float | None]:
    """Milliseconds of the forward and of the backward pass."""
    sets = [Inputs(case) for _ in range(1 if case.rab else 3)]
    with torch.no_grad():
        forward = median_ms([s.forward for s in sets])
    if forward_only:
        return forward, None
    return forward, median_ms([s.make_backward() for s in sets])


def table(cases: Sequence[Case], forward_only: bool) -> list[str]:
    """Measures the ceilings, then the cases; prints the lines as they come."""
    matmul, stream = matmul_tflops(), stream_tbps()
    ceilings = f"matmul 8192^3 {matmul:.0f} TFLOP/s, read and write {stream:.2f} TB/s"
    gpu = torch.cuda.get_device_name()
    lines = [
        f"{gpu}, H={HEADS}, bf16, causal; ceilings of this run: {ceilings}",
        "",
        "| case | fwd ms | fwd TF/s | of matmul | fwd TB/s | bwd ms | bwd TF/s | of matmul |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for case in cases:
        forward, backward = measure(case, forward_only)
        rate = case.flops / forward / 1e9
        row = (
            f"| {case.name} | {forward:.4f} | {rate:.0f} | {rate / matmul:.3f} "
            f"| {case.bytes / forward / 1e9:.2f} "
        )
        if backward is None:
            row += "| | | |"
        else:
            rate = 2.5 * case.flops / backward / 1e9
            row += f"| {backward:.4f} | {rate:.0f} | {rate / matmul:.3f} |"
        lines.append(row)
        print(row, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", default="", help="only the cases whose name has this in it")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--markdown", help="also write the table to this file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("hstu_attention.py: no CUDA device, nothing can be measured")

    with torch.cuda.stream(torch.cuda.Stream()):
        lines = table([c for c in CASES if args.case in c.name], args.forward_only)
    if args.markdown:
        with open(args.markdown, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
