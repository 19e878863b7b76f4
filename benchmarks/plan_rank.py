"""One rank at the plan's load beside what the plan says of it.

    python benchmarks/plan_rank.py [--rows N] [--markdown FILE] [--json FILE]

A table of --rows rows of dim 64, bfloat16, row-wise Adagrad: a tenth cached in GPU memory, all in
the host's. Steps of 2^20 new keys fill it a tenth past its capacity (`new keys`: rows leave the
cache, and others the table); then steps of 26 x 65,536 lookups by a power law over its keys
(`lookups`), `rows` of which the cache has not got. The model has the plan's own rates.
"""

from __future__ import annotations

import argparse
import statistics
import time

import harness
import torch
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbPoolingMode, DynamicEmbTableOptions, plan
from dynamicemb.step_model import Load, StepModel, distinct
from torch import Tensor

STEP, DIM, LOOKUPS, LAW, CACHED = 1 << 20, 64, 26 * 65536, 1.05, 0.1
COLUMNS = {"step of": "<18", "rows": ">9.0f", "ms": ">8.2f", "model ms": ">8.2f", "off": ">+6.1%"}


def seconds(made: Module, keys: Tensor) -> float:
    """Of one step of keys, a gradient of ones for each."""
    ends = torch.arange(len(keys) + 1, device="cuda")
    grad = torch.ones(len(keys), DIM, device="cuda")
    torch.cuda.synchronize()
    begin = time.perf_counter()
    made(keys, ends).backward(grad)
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def filled(made: Module, rows: int) -> tuple[float, float]:
    """Seconds of a step while the cache evicts, and past the table's capacity. The least frequent
    keys come first."""
    full = -(-rows // STEP)
    steps = full + max(3, full // 10)
    taken = [
        seconds(made, torch.arange(n * STEP - STEP, n * STEP, device="cuda"))
        for n in range(steps, 0, -1)
    ]
    return statistics.median(taken[full // 2 : full - 1]), statistics.median(taken[full + 1 :])


def lookups(made: Module, rows: int) -> tuple[float, int]:
    """Seconds of a step by the power law, and rows that the cache has not got."""
    ends = (torch.arange(1, rows + 1, dtype=torch.float64, device="cuda") ** -LAW).cumsum(0)
    torch.manual_seed(1)

    def drawn() -> Tensor:
        draw = torch.rand(LOOKUPS, dtype=torch.float64, device="cuda")
        return torch.searchsorted(ends, draw * ends[-1])

    taken = [seconds(made, drawn()) for _ in range(15)][6:]
    keys = torch.unique(drawn())
    found, _ = made.tiers.first.find(keys, torch.tensor([0, len(keys)], device="cuda"))
    return statistics.median(taken), int((found == 0).sum())


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    rows, rates = arguments.rows, argparse.ArgumentParser()
    plan.add_arguments(rates)
    r = rates.parse_args(["--keys", str(rows), "--dim", str(DIM)])
    table = harness.Table(
        harness.Ceilings.measure(), f"{rows:,} rows", COLUMNS, harness.files(arguments)
    )
    row_bytes = plan.row_layout(DIM, torch.bfloat16, plan.OPTIMIZERS["rowwise_adagrad"]).row_bytes
    options = DynamicEmbTableOptions(
        torch.bfloat16, DIM, rows, caching=True, init_capacity=rows,
        local_hbm_for_values=int(rows * CACHED) * row_bytes,
    )  # fmt: skip
    made = Module(
        [options], device="cuda", optimizer="EXACT_ROWWISE_ADAGRAD",
        pooling_mode=DynamicEmbPoolingMode.NONE,
    )  # fmt: skip
    model = StepModel(r.memory_rate, r.link_rate, (r.fixed, r.fixed))
    new = plan.new_keys_seconds(STEP, row_bytes, model, r.host_rate, r.host_rows)
    for name, took in zip(("new keys", "new keys, full"), filled(made, rows), strict=True):
        table.row(name, STEP, 1e3 * took, 1e3 * new, new / took - 1)
    took, missed = lookups(made, rows)
    reckoned = distinct(LOOKUPS, rows, LAW, beyond=rows * CACHED)
    waits = plan.host_seconds(2 * reckoned, row_bytes, r.host_rate, r.host_rows)
    known = model.seconds(Load(1, LOOKUPS, rows, DIM, LAW), 1) + waits
    table.row("lookups", missed, 1e3 * took, 1e3 * known, known / took - 1)
    held = made.tiers.host.sizes()[0, 0] if made.tiers.host is not None else 0
    if int(held) < 0.9 * rows:
        raise SystemExit(f"the table in host memory has {int(held)} rows of {rows}")


if __name__ == "__main__":
    main()
