"""How fast HSTU attention in Triton is, beside hstu_attn's CUDA kernels and the GPU's ceilings.

    python benchmarks/triton_hstu.py [--case SUBSTRING ...] [--kernel TRITON] [--markdown FILE]

The cases, and what a rate counts, are those of benchmarks/hstu_attention.py; here scores are scaled
by 1 / max_seq_len in both. TMA stands for TRITON with ``enable_tma``; AUTO takes for each direction
what the table says.
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.ops.hstu_attention import hstu_mha
from harness import median_ms
from hstu_attention import CASES, DTYPE, HEADS, Case

KINDS = {
    "TRITON": (HammerKernel.TRITON, False),
    "TMA": (HammerKernel.TRITON, True),
    "TRITON_CC": (HammerKernel.TRITON_CC, False),
    "CUDA": (HammerKernel.CUDA, False),
    "AUTO": (HammerKernel.AUTO, False),
}
COLUMNS = {"case": "<51", "kernel": "<9", "fwd ms": ">8.4f", "fwd share": ">9.3f"}
COLUMNS |= {"bwd ms": ">8.4f", "bwd share": ">9.3f"}


class Inputs:
    """One set of tensors of a case, and the calls to be timed on it."""

    def __init__(self, case: Case, kernel: HammerKernel, enable_tma: bool) -> None:
        def uniform(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device="cuda", dtype=DTYPE).uniform_(-1.0, 1.0)

        self.offsets = torch.tensor((0, *case.lengths), device="cuda").cumsum(0)
        shape = (sum(case.lengths), HEADS, case.head_dim)
        self.q, self.k, self.v, self.grad = (uniform(*shape) for _ in range(4))
        targets = torch.full((len(case.lengths),), case.num_targets, device="cuda")
        self.options = {
            "num_targets": targets if case.num_targets else None,
            "contextual_seq_len": case.num_contexts,
            "kernel": kernel,
            "enable_tma": enable_tma,
        }
        self.longest = max(case.lengths)

    def forward(self) -> torch.Tensor:
        qkv = (self.q, self.k, self.v)
        return hstu_mha(self.longest, 1.0, *qkv, self.offsets, **self.options)

    def make_backward(self) -> Callable[[], object]:
        wanted = [t.requires_grad_() for t in (self.q, self.k, self.v)]
        out = self.forward()
        return lambda: torch.autograd.grad(out, wanted, self.grad, retain_graph=True)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", nargs="*", default=[""], help="parts of their names")
    parser.add_argument("--kernel", choices=KINDS, help="only this one")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    ceilings = harness.Ceilings.measure()
    title = f"H={HEADS}, bf16, causal; shares are of matmul"
    table = harness.Table(ceilings, title, COLUMNS, harness.files(arguments))
    with torch.cuda.stream(torch.cuda.Stream()):
        chosen = (c for c in CASES if any(part in c.name for part in arguments.case))
        for case in (c for c in chosen if not c.rab):
            for name in [arguments.kernel] if arguments.kernel else KINDS:
                sets = [Inputs(case, *KINDS[name]) for _ in range(3)]
                with torch.no_grad():
                    forward = median_ms([s.forward for s in sets])
                backward = median_ms([s.make_backward() for s in sets])
                shares = [
                    factor * case.flops / ms / 1e9 / ceilings.matmul_tflops
                    for factor, ms in ((1.0, forward), (2.5, backward))
                ]
                table.row(case.name, name, forward, shares[0], backward, shares[1])


if __name__ == "__main__":
    main()
