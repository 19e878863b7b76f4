"""How fast dynamic embeddings train and evaluate, beside the floor of each step.

    python benchmarks/dynamic_embeddings.py [--case NAME] [--markdown FILE] [--json FILE]

Keys follow a power law over the rows of each table, which are filled before. The floor is the bytes
that a step must move (rows read for each lookup and written to the output, gradients read, the rows
of distinct keys read and written with their state) over a large device-to-device copy's bandwidth
in the same run. `graph`: a captured step, replayed, median; `eager`: the same called from Python.
Beside it nn.EmbeddingBag with sparse gradients and its optimizer; ``--case cpu`` is that alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import harness
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbPoolingMode, DynamicEmbTableOptions

LAW = 1.05
ROWS_MOVED = {"sgd": 2, "adam": 6}  # of a distinct key in the update


@dataclass(frozen=True)
class Case:
    tables: int
    lookups: int  # a table
    rows: int  # a table, all present
    dim: int = 128
    hot: int = 1  # ids of a bag; 1: no pooling


CASES = {
    "peer": Case(10, 104_857, 1_680_000),
    "pooled": Case(26, 655_360, 1_000_000, hot=10),
    "small": Case(26, 65_536, 1000, hot=8),
    "large": Case(1, 1_048_576, 60_000_000),
    "cpu": Case(4, 65_536, 200_000),
}


def power_law(case: Case, device: str, seed: int = 1) -> torch.Tensor:
    """(tables * lookups) ids: P(rank) ~ rank^-LAW, by the inverse of its integral."""
    torch.manual_seed(seed)
    u = torch.rand(case.tables * case.lookups, device=device, dtype=torch.float64)
    rank = ((case.rows ** (1 - LAW) - 1) * u + 1) ** (1 / (1 - LAW))
    return (rank.long() - 1).clamp_(0, case.rows - 1)


def module(case: Case, kind: str, device: str) -> Module:
    pooling = DynamicEmbPoolingMode.SUM if case.hot > 1 else DynamicEmbPoolingMode.NONE
    rows = int(case.rows * 1.02) + 128
    options = [DynamicEmbTableOptions(None, case.dim, rows)] * case.tables
    return Module(options, device=device, enforce_hbm=True, optimizer=kind, pooling_mode=pooling)


def fill(made: Module, case: Case, device: str) -> None:
    step = 1 << 18
    for begin in range(0, case.rows, step):
        ids = torch.arange(begin, min(begin + step, case.rows), device=device)
        offsets = torch.arange(case.tables + 1, device=device) * len(ids)
        made._prepare(ids.repeat(case.tables), offsets, None)


def floor_bytes(case: Case, distinct: int, kind: str) -> float:
    row, out = 4 * case.dim, case.tables * case.lookups // case.hot
    forward = distinct + out
    return row * (forward if kind == "eval" else forward + out + ROWS_MOVED[kind] * distinct)


def eager_ms(call: harness.Call, device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return harness.best_seconds(call, wait, repeats=20 if device == "cuda" else 7) * 1e3


def torch_ms(case: Case, kind: str, ids: torch.Tensor, offsets: torch.Tensor) -> Any:
    """The same step by nn.EmbeddingBag: one bag of all tables' rows."""
    device = ids.device
    tables = torch.arange(case.tables, device=device).repeat_interleave(case.lookups)
    bag = torch.nn.EmbeddingBag(
        case.tables * case.rows, case.dim, mode="sum", sparse=True, include_last_offset=True,
        device=device,
    )  # fmt: skip
    made = torch.optim.SparseAdam if kind == "adam" else torch.optim.SGD
    optimizer = made(list(bag.parameters()), lr=0.01)
    flat = ids + tables * case.rows
    grad = torch.randn(len(offsets) - 1, case.dim, device=device)

    def step() -> None:
        optimizer.zero_grad()
        bag(flat, offsets).backward(grad)
        optimizer.step()

    return eager_ms(step, ids.device.type)


def measure(name: str, device: str, table: harness.Table | None) -> None:
    case = CASES[name]
    ids = power_law(case, device)
    ends = torch.arange(0, len(ids) + 1, case.hot, device=device)
    distinct = sum(len(torch.unique(part)) for part in ids.split(case.lookups))
    bags = len(ids) // case.hot
    pooled = (case.lookups // case.hot, case.dim * case.tables)
    grad = torch.randn((bags, case.dim) if case.hot == 1 else pooled, device=device)
    for kind in ("eval", "sgd", "adam"):
        made = module(case, "sgd" if kind == "eval" else kind, device)
        fill(made, case, device)
        made.train(kind != "eval")

        def step(made: Any = made, kind: str = kind) -> None:
            out = made(ids, ends)
            if kind != "eval":
                out.backward(grad)

        eager = eager_ms(step, device)
        beside = kind != "eval" and name != "large"  # whose dense state does not fit beside ours
        theirs = torch_ms(case, kind, ids, ends) if beside else None
        if table is None:
            print(f"{name} {kind}: {eager:.1f} ms" + (f", torch {theirs:.1f} ms" if theirs else ""))
            continue
        with torch.cuda.stream(torch.cuda.Stream()):
            graph = harness.median_ms([step], 200.0)
        floor = floor_bytes(case, distinct, kind) / table.ceilings.copy_tbps / 1e9
        row = (name, kind, len(ids), distinct, floor, graph, graph / floor, eager, theirs)
        table.row(*row, None if theirs is None else theirs / eager)
        del made
        torch.cuda.empty_cache()


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", choices=CASES, action="append")
    arguments = parser.parse_args()
    if arguments.case == ["cpu"]:
        measure("cpu", "cpu", None)
        return
    harness.need_gpu(__file__)
    columns = {"case": "<8", "step": "<6", "lookups": ">10d", "distinct": ">9d"}
    columns |= dict.fromkeys(["floor ms", "graph ms", "x floor", "eager ms", "torch ms"], ">9.3f")
    columns |= {"x faster": ">9.1f"}
    title, files = "dim 128, float32, power law 1.05", harness.files(arguments)
    table = harness.Table(harness.Ceilings.measure(), title, columns, files)
    for name in arguments.case or ("peer", "pooled", "small"):
        measure(name, "cuda", table)


if __name__ == "__main__":
    main()
