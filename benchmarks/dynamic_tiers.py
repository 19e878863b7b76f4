"""How fast dynamic embeddings train where GPU memory holds a part of the rows.

    python benchmarks/dynamic_tiers.py [--case NAME] [--markdown FILE] [--json FILE]

`cached`: a cache before a table of ten times as many rows in pinned host memory, batches by a power
law over all of them, prefetched one step ahead on a stream of its own; `fits`: batches over the
rows that the cache holds; `trained`: as `cached`, with bf16 matrix products of 8192 between forward
and backward, as long as 1.5 times the link takes. Beside each the same steps with every row in GPU
memory, and the bytes of rows that the cache missed, read and written back, over the host link's
rate in the same run. `beside`: the share of the time of the prefetch's kernels in which one of the
step's ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import harness
import torch
from dynamic_embeddings import Case, fill, power_law
from dynamicemb import BatchedDynamicEmbeddingTablesV2 as Module
from dynamicemb import DynamicEmbPoolingMode, DynamicEmbTableOptions

CACHED = Case(4, 104_857, 1_000_000)
SHARE = 10  # rows of the table for each row of the cache
STEPS, WARM = 24, 6
CASES = ("cached", "fits", "trained")
Batch = tuple[torch.Tensor, torch.Tensor]


def module(cache: int | None) -> Module:
    """cache: rows of it a table; None: every row in GPU memory."""
    hbm = 0 if cache is None else cache * (3 * 512 + 16)
    capacity = int(CACHED.rows * 1.02) + 128
    options = DynamicEmbTableOptions(
        torch.float32, 128, capacity, caching=cache is not None, local_hbm_for_values=hbm
    )
    return Module(
        [options] * CACHED.tables, device="cuda", optimizer="ADAM", enforce_hbm=cache is None,
        pooling_mode=DynamicEmbPoolingMode.NONE, prefetch_pipeline=cache is not None,
    )  # fmt: skip


def batches(rows: int) -> list[Batch]:
    """Batches by the law over ``rows`` rows a table, each with another draw."""
    ends = torch.arange(0, CACHED.tables * CACHED.lookups + 1, device="cuda")
    law = Case(CACHED.tables, CACHED.lookups, rows)
    return [(power_law(law, "cuda", seed), ends) for seed in range(WARM + STEPS + 1)]


def nothing() -> None:
    pass


def products(ms: float, tflops: float) -> Callable[[], None]:
    """Matrix products that take so long, as the dense part of a model does."""
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(x)

    def run() -> None:
        for _ in range(round(ms * tflops * 1e9 / (2 * 8192**3))):
            torch.mm(x, x, out=out)

    return run


def ms_of(
    made: Module, given: Sequence[Batch], ahead: Any, dense: Callable[[], None] = nothing
) -> float:
    """Milliseconds of a step; ``ahead``: the stream of prefetches, or None."""
    n = int(given[0][1][-1])
    grad = torch.ones(n, 128, device="cuda")
    main = torch.cuda.current_stream()

    def prefetch(batch: Batch) -> None:
        with torch.cuda.stream(ahead):
            made.prefetch(*batch, main)

    begin = 0.0
    if ahead is not None:
        prefetch(given[0])
    for step in range(WARM + STEPS):
        if step == WARM:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        if ahead is not None:
            prefetch(given[step + 1])
        out = made(*given[step])
        dense()
        out.backward(grad)
    torch.cuda.synchronize()
    ms = 1e3 * (time.perf_counter() - begin) / STEPS
    made.reset_cache_states()  # the last batch was prefetched for nobody
    return ms


def missed_rows(made: Module, given: Sequence[Batch]) -> float:
    """Rows of a batch that the cache has not got, on average, without prefetching."""
    missed = []
    for ids, ends in given[:WARM]:
        segments = made._segments(ids, ends)
        parts = [torch.unique(p) for p in ids.split(int(segments[1]))]
        offsets = torch.tensor([0, *[len(p) for p in parts]], device="cuda").cumsum(0)
        rows, _ = made.tiers.first.find(torch.cat(parts), offsets)
        missed.append(int((rows == 0).sum()))
        made(ids, ends).backward(torch.ones(len(ids), 128, device="cuda"))
    return sum(missed) / len(missed)


def cached(name: str, table: harness.Table) -> None:
    cache = CACHED.rows // SHARE
    given = batches(cache // 2 if name == "fits" else CACHED.rows)
    made = module(cache)
    fill(made, CACHED, "cuda")
    ms_of(made, given, None)
    missed = missed_rows(made, given)
    row_bytes = made.tiers.first.row_bytes
    link = 2 * missed * row_bytes / (table.ceilings.to_device_gbps * 1e6)
    dense = nothing if name != "trained" else products(1.5 * link, table.ceilings.matmul_tflops)
    ahead = torch.cuda.Stream()
    with_prefetch = ms_of(made, given, ahead, dense)
    share = harness.beside(partial(ms_of, made, given, ahead, dense), "ReduceKernel")
    del made
    torch.cuda.empty_cache()
    whole = module(None)
    fill(whole, CACHED, "cuda")
    alone = ms_of(whole, given, None, dense)
    table.row(name, alone, missed, link, with_prefetch, with_prefetch / max(alone, link), share)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", choices=CASES, action="append")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    columns = {"case": "<8", "in HBM ms": ">9.3f", "rows": ">11.0f", "link ms": ">8.3f"}
    columns |= {"step ms": ">8.3f", "x goal": ">7.2f", "beside": ">7.0%"}
    title = "rows in host memory; `rows`: missed by a batch"
    table = harness.Table(harness.Ceilings.measure(), title, columns, harness.files(arguments))
    for name in arguments.case or CASES:
        cached(name, table)


if __name__ == "__main__":
    main()
