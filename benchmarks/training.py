"""How fast an HSTU layer and a step of training are, beside the parts that they cannot do without.

    python benchmarks/training.py [--case NAME] [--markdown FILE] [--json FILE]

A layer's floor is its matrix products and its attention, each alone as a CUDA graph, and 34 u of
memory traffic (44 with both recompute flags) at 0.8 of copy bandwidth; u = tokens * hidden * 2
bytes. `graph`: the layer as a CUDA graph; `x floor` is the ratio of that. `total`: of eager calls
in a row, which a slow host makes longer. `kept`: what autograd keeps. `step`: a whole step of
examples/hstu/benchmark_ranking.gin. `loader`: its batches alone, made as in training; needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import torch
import training_steps as steps
from hstu_attn import hstu_attn_qkvpacked_func
from hstu_training.configs.hstu_config import HSTUConfig, HSTULayerType
from hstu_training.modules.hstu_block import HSTUBlock
from hstu_training.modules.jagged import Sequences
from hstu_training.ops.counter import Randomness


class Case(NamedTuple):
    hidden: int
    heads: int
    dim: int
    lengths: tuple[int, ...]


CASES = {
    "1024": Case(1024, 4, 256, (4099,) * 32),
    "512": Case(512, 4, 128, harness.jagged(8, 2000, 8400)),
    "256": Case(256, 4, 64, (200,) * 512),
}


def layer(case: Case, kind: str, **flags: bool) -> Callable[[], Any]:
    """Forward of one layer."""
    given = (case.hidden, case.dim, case.heads, 1, max(case.lengths))
    layer_type = HSTULayerType[kind]
    config = HSTUConfig(*given, deterministic=False, hstu_layer_type=layer_type, **flags)
    block = HSTUBlock(config).cuda()
    cu = torch.tensor([0, *case.lengths]).cumsum(0).int().cuda()
    random = Randomness(1, 0, torch.arange(int(cu[-1])).cuda())
    sequences = Sequences(cu, max(case.lengths), random=random)
    x = torch.randn(int(cu[-1]), case.hidden).to("cuda", torch.bfloat16).requires_grad_()

    def forward() -> Any:
        x.grad = None  # in a model nothing is added to it
        return block.layers[0](x, sequences, None)

    return forward


def both(forward: Callable[[], Any]) -> Callable[[], None]:
    grad = torch.randn_like(forward())
    return lambda: forward().backward(grad)


def kept(forward: Callable[[], Any], unit: float) -> float:
    held: list[torch.UntypedStorage] = []
    pack = lambda t: held.append(t.untyped_storage()) or t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward()
    sizes = {storage.data_ptr(): storage.nbytes() for storage in held}
    return sum(size for size in sizes.values() if size >= unit / 4) / unit


def parts(case: Case) -> tuple[float, float]:
    """Milliseconds of the matrix products and of the attention, forward and backward."""
    tokens, inner = sum(case.lengths), case.heads * case.dim

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    x, y, wide = new(tokens, case.hidden), new(tokens, inner), new(tokens, 4 * inner)
    w, o = new(case.hidden, 4 * inner), new(inner, case.hidden)
    products = (
        lambda: x @ w, lambda: wide @ w.t(), lambda: x.t() @ wide,
        lambda: y @ o, lambda: x @ o.t(), lambda: y.t() @ x,
    )  # fmt: skip
    packed = new(tokens, 3, case.heads, case.dim).requires_grad_()
    cu = torch.tensor([0, *case.lengths]).cumsum(0).int().cuda()
    given, alpha = (cu, cu, max(case.lengths), max(case.lengths)), case.dim**-0.5
    attend = both(lambda: hstu_attn_qkvpacked_func(packed, *given, alpha=alpha, causal=True))
    return sum(map(steps.graph_ms, products)), steps.graph_ms(attend)


def measure(name: str, table: harness.Table) -> None:
    case = CASES[name]
    unit, (gemms, attention) = sum(case.lengths) * case.hidden * 2.0, parts(case)
    flags = dict.fromkeys(("recompute_input_layernorm", "recompute_input_silu"), True)
    for kind, chosen, traffic in (("FUSED", {}, 34), ("FUSED", flags, 44), ("NATIVE", {}, 34)):
        elementwise = traffic * unit / (0.8 * table.ceilings.copy_tbps) / 1e9
        forward = layer(case, kind, **chosen)
        floor = gemms + attention + elementwise
        call = both(forward)
        total = steps.row_ms(call)
        graph = (
            steps.graph_ms(call) if kind == "FUSED" else None
        )  # NATIVE's dropout cannot be captured
        said, held = f"{kind}{' recompute' if chosen else ''}", kept(forward, unit)
        ratio = (graph or total) / floor
        table.row(name, said, gemms, attention, elementwise, total, graph, ratio, held, None)
        torch.cuda.empty_cache()


def compiled(name: str, table: harness.Table) -> None:
    total = steps.row_ms(both(torch.compile(layer(CASES[name], "NATIVE"))))
    table.row(name, "compiled NATIVE", None, None, None, total, None, None, None, None)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", choices=[*CASES, "step", "loader"], action="append")
    arguments = parser.parse_args()
    cases = arguments.case or [*CASES, "step", "loader"]
    if cases != ["loader"]:
        harness.need_gpu(__file__)
    columns = {"case": "<14", "layer": "<16"} | dict.fromkeys(
        ["products ms", "attention ms", "traffic ms", "total ms", "graph ms", "x floor", "kept u"],
        ">12.2f",
    )
    columns["K tokens/s"] = ">10.0f"
    ceilings = harness.Ceilings.measure() if torch.cuda.is_available() else harness.Host.here()
    table = harness.Table(ceilings, "bf16, forward and backward", columns, harness.files(arguments))
    for name in cases:
        if name in CASES:
            measure(name, table)
    if "step" in cases:
        steps.step(table, "TrainerArgs.deterministic=False")
        steps.step(table, name="deterministic")
    if "loader" in cases:
        steps.loader(table)
    for name in cases:
        if name in CASES:  # at the end: a compiler takes its time
            compiled(name, table)


if __name__ == "__main__":
    main()
