"""How fast attention over a pruned KV cache is, beside dense attention on the same GPU.

    python benchmarks/mustafar_attention.py [--case SUBSTRING] [--markdown F]

One decode step, fp16, head dim 128, the newest 32 tokens dense and all others compressed
(``block=1``). Medians of CUDA-graph replays over several input sets in turn, so many that nothing
stays in the L2 cache. Beside it, in the same run: the best backend of
``torch.nn.functional.scaled_dot_product_attention`` on the dense cache, and our own kernel without
sparsity. The floor is what the bytes of the cache take at 4.2 TB/s. The last rows are compression:
the dense bytes that it reads a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import harness
import torch
from harness import median_ms
from mustafar import MustafarCache, decode_attention
from mustafar.compression import compress_rows
from mustafar.prune import kept
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEAD_DIM, WINDOW, FLOOR_TBPS = 128, 32, 4.2
IN_TURN = 256 << 20  # bytes of all input sets
COLUMNS = {"case": "<34", "s": ">4.2f", "us": ">8.1f", "floor us": ">8.1f", "floor/us": ">8.2f"}
COLUMNS |= {"SDPA us": ">8.1f", "of SDPA": ">8.2f", "of s=0": ">7.2f", "MiB": ">8.1f"}
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


@dataclass(frozen=True)
class Case:
    batch: int
    q_heads: int
    kv_heads: int
    tokens: int

    @property
    def name(self) -> str:
        return f"B{self.batch} H{self.q_heads}/{self.kv_heads} T{self.tokens}"

    def tensor(self, heads: int, tokens: int) -> torch.Tensor:
        shape = (self.batch, heads, tokens, HEAD_DIM)
        return torch.randn(shape, device="cuda", dtype=torch.float16)

    def cache(self, sparsity: float) -> MustafarCache:
        made = MustafarCache(
            self.batch,
            self.kv_heads,
            HEAD_DIM,
            self.tokens,
            k_sparsity=sparsity,
            v_sparsity=sparsity,
            residual_length=WINDOW,
            block=1,
        )
        made.prefill(*(self.tensor(self.kv_heads, self.tokens) for _ in range(2)))
        return made


CASES = (
    Case(1, 32, 32, 2048),
    Case(8, 32, 32, 2048),
    Case(8, 32, 8, 8192),
    Case(1, 32, 8, 32768),
    Case(32, 32, 8, 2048),
)


def sets_of(bytes_of_one: int) -> int:
    return max(2, min(16, -(-IN_TURN // bytes_of_one)))


def dense_us(case: Case) -> float:
    """The fastest backend of PyTorch's own attention."""
    dense = 4 * case.batch * case.kv_heads * case.tokens * HEAD_DIM
    q = case.tensor(case.q_heads, 1)
    grouped = case.q_heads != case.kv_heads

    def calls() -> Iterator[Callable[[], object]]:
        for _ in range(sets_of(dense)):
            k, v = (case.tensor(case.kv_heads, case.tokens) for _ in range(2))
            yield partial(scaled_dot_product_attention, q, k, v, enable_gqa=grouped)

    all_calls = list(calls())
    times = []
    for backend in BACKENDS:
        with sdpa_kernel(backend):
            try:
                times.append(1e3 * median_ms(all_calls))
            except RuntimeError as refused:
                print(f"{case.name}: {backend.name} is not served: {str(refused)[:60]}")
    return min(times)


def ours_us(case: Case, sparsity: float) -> tuple[float, int]:
    """Microseconds of a step, and bytes of the cache that it reads."""
    count = kept(HEAD_DIM, sparsity)
    row = 2 * count + (HEAD_DIM // 8 if count < HEAD_DIM else 0)
    rows = case.batch * case.kv_heads * (case.tokens - WINDOW)
    bytes_read = 2 * (rows * row + case.batch * case.kv_heads * WINDOW * 2 * HEAD_DIM)
    caches = [case.cache(sparsity) for _ in range(sets_of(bytes_read))]
    q = case.tensor(case.q_heads, 1)
    return 1e3 * median_ms([partial(decode_attention, q, cache) for cache in caches]), bytes_read


def compression_tbps(sparsity: float) -> float:
    x = [torch.randn(8 * 8 * 8192, HEAD_DIM, device="cuda", dtype=torch.float16) for _ in range(2)]
    calls = [partial(compress_rows, t, kept(HEAD_DIM, sparsity)) for t in x]
    return x[0].nbytes / median_ms(calls) / 1e9


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", default="", help="only the cases whose name has this in it")
    arguments = parser.parse_args()
    harness.need_gpu(__file__)
    title = f"fp16, D={HEAD_DIM}, window {WINDOW}; floor at {FLOOR_TBPS} TB/s"
    ceilings = harness.Ceilings.measure()
    table = harness.Table(ceilings, title, COLUMNS, harness.files(arguments))
    with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
        for case in (c for c in CASES if arguments.case in c.name):
            dense = dense_us(case)
            plain, _ = ours_us(case, 0.0)
            for sparsity in (0.0, 0.5, 0.7):
                us, size = ours_us(case, sparsity)
                floor = size / FLOOR_TBPS / 1e6
                shares = (floor / us, dense, us / dense, us / plain)
                table.row(case.name, sparsity, us, floor, *shares, size / 2**20)
        for sparsity in (0.5, 0.7):
            tbps = compression_tbps(sparsity)
            table.row(f"compression, {tbps:.2f} TB/s read", sparsity, *[None] * 7)


if __name__ == "__main__":
    main()
