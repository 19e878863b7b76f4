"""How fast HSTU attention is, beside the ceilings of the GPU that it runs on.

    python benchmarks/hstu_attention.py [--case SUBSTRING] [--forward-only] [--host] [--markdown F]

Uses the installed package alone: ``hstu_attn_varlen_func`` and autograd. Per case: the median time
of CUDA-graph replays, each over several input sets in turn (inputs uniform in (-1, 1), so that
nothing stays in cache that would not in training), the rate, and that rate as a share of a bf16
8192^3 ``torch.matmul`` measured in the same run.

The rate counts unmasked causal pairs only: a sequence of length L counts L (L + 1) / 2 pairs of
4 head_dim operations per head, also where targets and contexts change which pairs are visible;
backward counts 2.5 times that. Bytes count q, k, v and the output once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import harness
import host_calls
import torch
from harness import jagged, median_ms
from hstu_attn import hstu_attn_varlen_func

HEADS = 4
DTYPE = torch.bfloat16
COLUMNS = {"case": "<51", "fwd ms": ">8.4f", "fwd TF/s": ">8.0f", "fwd share": ">9.3f"}
COLUMNS |= {"fwd TB/s": ">8.2f", "bwd ms": ">8.4f", "bwd TF/s": ">8.0f", "bwd share": ">9.3f"}


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


class Inputs:
    """One set of tensors of a case, and the calls to be timed on it."""

    def __init__(self, case: Case) -> None:
        total = sum(case.lengths)
        self.longest = max(case.lengths)

        def uniform(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device="cuda", dtype=DTYPE).uniform_(-1.0, 1.0)

        def per_sequence(value: int) -> torch.Tensor | None:
            size = (len(case.lengths),)
            return torch.full(size, value, device="cuda", dtype=torch.int32) if value else None

        starts = torch.tensor((0, *case.lengths)).cumsum(0)
        self.cu_seqlens = starts.to(device="cuda", dtype=torch.int32)
        self.q, self.k, self.v, self.grad = (uniform(total, HEADS, case.head_dim) for _ in range(4))
        rab_shape = (len(case.lengths), HEADS, self.longest, self.longest)
        self.rab = uniform(*rab_shape) if case.rab else None
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
    return forward, None if forward_only else median_ms([s.make_backward() for s in sets])


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", default="", help="only the cases whose name has this in it")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--host", action="store_true", help="what a call costs the host instead")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    ceilings = harness.Ceilings.measure()
    files = harness.files(arguments)
    if arguments.host:
        host_calls.measure(ceilings, files)
        return
    title = f"H={HEADS}, bf16, causal; shares are of matmul"
    table = harness.Table(ceilings, title, COLUMNS, files)
    with torch.cuda.stream(torch.cuda.Stream()):
        for case in (c for c in CASES if arguments.case in c.name):
            forward, backward = measure(case, arguments.forward_only)
            rate = case.flops / forward / 1e9
            moved = 4.0 * sum(case.lengths) * HEADS * case.head_dim * DTYPE.itemsize
            cells = [forward, rate, rate / ceilings.matmul_tflops, moved / forward / 1e9]
            cells += [None] * 3
            if backward is not None:
                rate = 2.5 * case.flops / backward / 1e9
                cells[4:] = [backward, rate, rate / ceilings.matmul_tflops]
            table.row(case.name, *cells)


if __name__ == "__main__":
    main()
