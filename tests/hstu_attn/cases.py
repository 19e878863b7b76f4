"""Random problems, and how a result is compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from hstu_attn import hstu_attn_varlen_func, ref
from hypothesis import strategies as st
from torch import Tensor

from tests.common.accuracy import assert_accurate
from tests.common.jagged import draw_lengths, prefix_sums

Options = dict[str, Any]


def masks(
    left: int, right: int, contexts: int, targets: int, group: int, funcs: tuple[int, ...]
) -> dict[str, Options]:
    """Every kind of mask in one size, as options of make_case."""
    causal: Options = {"window": (-1, 0)}
    return {
        "none": {},
        "causal": causal,
        "local": {"window": (left, right)},
        "local_left": {"window": (left, -1)},
        "local_right": {"window": (-1, right)},
        "local_zero": {"window": (0, 0)},
        "context": {**causal, "contexts": contexts},
        "target": {**causal, "targets": targets},
        "target_groups": {**causal, "targets": targets, "group": group},
        "context_target": {**causal, "contexts": contexts, "targets": targets, "group": 3},
        **{f"func{n}": {"n_func": n} for n in funcs},
    }


MASKS = masks(left=20, right=9, contexts=9, targets=33, group=5, funcs=(1, 5))
SMALL_MASKS = masks(left=2, right=1, contexts=3, targets=4, group=2, funcs=(3,))


@dataclass(frozen=True)
class Case:
    """The arguments of hstu_attn_varlen_func, apart from the paged ones."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    num_contexts: Tensor | None = None
    num_targets: Tensor | None = None
    target_group_size: int = 1
    window_size: tuple[int, int] = (-1, -1)
    alpha: float = 1.0
    rab: Tensor | None = None
    func: Tensor | None = None
    scaling_seqlen: int = -1

    @property
    def n(self) -> int:
        return self.max_seqlen_q if self.scaling_seqlen == -1 else self.scaling_seqlen

    @property
    def dout(self) -> Tensor:
        """A fixed random gradient of the output."""
        generator = torch.Generator(self.q.device).manual_seed(99)
        noise = torch.rand(self.q.shape, generator=generator, device=self.q.device) * 2 - 1
        return noise.to(self.q.dtype)

    def cast(self, dtype: torch.dtype) -> Case:
        rab = None if self.rab is None else self.rab.to(dtype)
        return replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype), rab=rab)

    def mask(self) -> dict[str, Any]:
        """What ``hstu_attn.ref`` takes for the mask."""
        names = ("num_contexts", "num_targets", "target_group_size", "func")
        return {name: getattr(self, name) for name in names} | {"window": self.window_size}

    def arguments(self) -> dict[str, Any]:
        return dict(self.__dict__)


def make_case(
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    batch: int = 3,
    heads: int = 2,
    heads_k: int | None = None,
    dim: int = 32,
    max_q: int | None = None,
    max_k: int = 13,
    contexts: int = 0,
    targets: int = 0,
    group: int = 1,
    window: tuple[int, int] = (-1, -1),
    rab_heads: int = 0,
    n_func: int = 0,
    alpha: float = 1.0,
    scaling_seqlen: int = -1,
    full: bool = False,
    empties: bool = False,
    slack: int = 0,
    scale: float = 1.0,
    seed: int = 0,
) -> Case:
    """A random problem: sequences of [contexts | history | targets], inputs uniform in +-scale.

    ``max_k`` bounds the history, ``max_q`` the part of it that has rows in q (None: all of it);
    ``contexts`` and ``targets`` bound those counts. ``full`` takes every bound instead of a random
    number below it; ``empties`` makes every third sequence empty; ``slack`` is added to the
    maximum lengths that are announced. The dtype defaults to float32 on the CPU, else bfloat16.
    """
    if dtype is None:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
    g = torch.Generator().manual_seed(seed)  # lengths are the same on every device
    values = torch.Generator(device).manual_seed(seed)

    bounds = [(0, contexts), (0, targets), (1, max_k)] + ([] if max_q is None else [(1, max_q)])
    lengths = draw_lengths(g, batch, bounds, full=full, empties=empties)
    context_lens, target_lens = ([row[i] for row in lengths] for i in (0, 1))
    k_lens = [sum(row[:3]) for row in lengths]
    q_lens = k_lens
    if max_q is not None:
        q_lens = [min(k, t + q) for k, (_, t, _, q) in zip(k_lens, lengths, strict=True)]

    def uniform(*shape: int) -> Tensor:
        noise = torch.rand(*shape, generator=values, device=device) * 2 - 1
        return (noise * scale).to(dtype)

    def index(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=device)

    total_q, total_k = sum(q_lens), sum(k_lens)
    max_seqlen_q, max_seqlen_k = max(q_lens) + slack, max(k_lens) + slack
    func = None
    if n_func:
        ends = torch.randint(0, max_seqlen_k + 3, (1, n_func, total_q), generator=g)
        func = ends.sort(dim=1).values.to(device=device, dtype=torch.int32)
    return Case(
        q=uniform(total_q, heads, dim),
        k=uniform(total_k, heads_k or heads, dim),
        v=uniform(total_k, heads_k or heads, dim),
        cu_seqlens_q=prefix_sums(q_lens, device),
        cu_seqlens_k=prefix_sums(k_lens, device),
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        num_contexts=index(context_lens) if contexts else None,
        num_targets=index(target_lens) if targets else None,
        target_group_size=group,
        window_size=window,
        alpha=alpha,
        rab=uniform(batch, rab_heads, max_seqlen_k, max_seqlen_k) if rab_heads else None,
        func=func,
        scaling_seqlen=scaling_seqlen,
    )


def reference(case: Case, *, upcast: bool = True) -> dict[str, Tensor]:
    """Output and gradients by autograd of the reference."""
    leaves = {name: getattr(case, name) for name in ("q", "k", "v", "rab")}
    leaves = {name: x.detach().requires_grad_() for name, x in leaves.items() if x is not None}
    out = ref.varlen_fwd(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        case.cu_seqlens_q,
        case.cu_seqlens_k,
        case.n,
        **case.mask(),
        alpha=case.alpha,
        rab=leaves.get("rab"),
        upcast=upcast,
    )
    return _with_gradients(out, leaves, case.dout)


def run(case: Case, *, has_drab: bool | None = None, **extra: Any) -> dict[str, Tensor]:
    """Output and gradients of the public function; has_drab: whenever there is a rab."""
    leaves = {name: getattr(case, name) for name in ("q", "k", "v", "rab")}
    leaves = {name: x.detach().requires_grad_() for name, x in leaves.items() if x is not None}
    if has_drab is None:
        has_drab = "rab" in leaves
    out = hstu_attn_varlen_func(**{**case.arguments(), **leaves}, has_drab=has_drab, **extra)
    if not has_drab:
        leaves.pop("rab", None)
    return _with_gradients(out, leaves, case.dout)


def _with_gradients(out: Tensor, leaves: dict[str, Tensor], dout: Tensor) -> dict[str, Tensor]:
    if not out.requires_grad:  # no rows or columns at all
        return {"out": out.detach()} | {"d" + n: torch.zeros_like(x) for n, x in leaves.items()}
    grads = torch.autograd.grad(out, list(leaves.values()), dout, allow_unused=True)
    result = {"out": out.detach()}
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        result["d" + name] = torch.zeros_like(leaf) if grad is None else grad
    return result


def assert_right(got: dict[str, Tensor], case: Case) -> None:
    """To 1e-4 in float32. In half precisions by the published criterion: against the float32
    reference, the output errs at most twice as much as the same reference computed in the input's
    dtype, gradients at most five times as much.
    """
    if case.q.dtype in (torch.bfloat16, torch.float16):
        exact, plain = reference(case.cast(torch.float32)), reference(case, upcast=False)
        for name, value in got.items():
            factor = 2 if name == "out" else 5
            assert_accurate(name, value, exact[name], plain[name], factor=factor)
        return
    expected = reference(case)
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@dataclass(frozen=True)
class Paged:
    """The paged arguments of a problem, and the same problem without pages."""

    dense: Case
    fresh: Case  # k and v hold the new positions alone
    arguments: dict[str, Any]


def make_paged(*, page_size: int, seed: int = 0, **options: Any) -> Paged:
    """A causal problem whose history lies in shuffled pages."""
    dense = make_case(window=(-1, 0), seed=seed, **options)
    g = torch.Generator().manual_seed(seed + 1)
    device, dtype = dense.q.device, dense.q.dtype
    starts_q, starts_k = dense.cu_seqlens_q.tolist(), dense.cu_seqlens_k.tolist()
    batch = len(starts_q) - 1
    targets = dense.num_targets.tolist() if dense.num_targets is not None else [0] * batch
    histories = [starts_k[b + 1] - starts_k[b] - targets[b] for b in range(batch)]
    counts = [-(-history // page_size) for history in histories]
    pages = sum(counts) + 2  # two that nobody may read
    order = torch.randperm(pages, generator=g)[: sum(counts)]
    heads_k, dim = dense.k.shape[1:]
    cache = torch.full((pages, 2, page_size, heads_k, dim), 7.0, dtype=dtype, device=device)
    fresh_k = torch.full_like(dense.q[:, :heads_k], -7.0).contiguous()
    fresh_v = fresh_k.clone()
    first_page = 0
    for b in range(batch):
        history = slice(starts_k[b], starts_k[b] + histories[b])
        for position, row in enumerate(range(history.start, history.stop)):
            page = int(order[first_page + position // page_size])
            cache[page, 0, position % page_size] = dense.k[row]
            cache[page, 1, position % page_size] = dense.v[row]
        first_page += counts[b]
        fresh_rows = slice(starts_q[b + 1] - targets[b], starts_q[b + 1])
        fresh_k[fresh_rows] = dense.k[history.stop : starts_k[b + 1]]
        fresh_v[fresh_rows] = dense.v[history.stop : starts_k[b + 1]]
    last = [
        history - (count - 1) * page_size if count else 0
        for history, count in zip(histories, counts, strict=True)
    ]
    return Paged(
        dense=dense,
        fresh=replace(dense, k=fresh_k, v=fresh_v),
        arguments={
            "kv_cache": cache,
            "page_offsets": prefix_sums(counts, str(device)),
            "page_ids": order.to(device=device, dtype=torch.int32),
            "last_page_lens": torch.tensor(last, dtype=torch.int32, device=device),
        },
    )


def draw_case(device: str, data: st.DataObject) -> Case:
    """A problem drawn by hypothesis: small in float32 on the CPU, larger in half on a GPU."""
    # The criterion compares largest errors: in half precisions that takes more than a few values.
    low, top = (1, 20) if device == "cpu" else (24, 300)
    heads_k = data.draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "batch": data.draw(st.integers(2, 6)),
        "heads_k": heads_k,
        "heads": 2 * heads_k * data.draw(st.integers(1, 2)),
        "dim": data.draw(st.sampled_from([32, 64] if device == "cpu" else [32, 64, 128, 256])),
        "max_k": data.draw(st.integers(low, top)),
        "max_q": data.draw(st.none() | st.integers(1, top)),
        "alpha": data.draw(st.sampled_from([1.0, 0.1, 0.125])),
        "slack": data.draw(st.integers(0, 9)),
        "empties": data.draw(st.booleans()),
        "seed": data.draw(st.integers(0, 1000)),
    }
    kind = data.draw(st.sampled_from(["none", "window", "causal", "func"]))
    if kind == "window":
        options["window"] = (data.draw(st.integers(-1, top)), data.draw(st.integers(-1, top)))
    elif kind == "causal":
        options["window"] = (-1, 0)
        options["contexts"] = data.draw(st.integers(0, top // 2))
        options["targets"] = data.draw(st.integers(0, top // 2))
        if options["targets"]:
            options["group"] = data.draw(st.integers(1, top // 2))
    elif kind == "func":
        options["n_func"] = data.draw(st.sampled_from([1, 3, 7]))
    if data.draw(st.booleans()):
        options["rab_heads"] = data.draw(st.sampled_from([1, options["heads"]]))
    if device != "cpu":
        options["dtype"] = data.draw(st.sampled_from([torch.bfloat16, torch.float16]))
    return make_case(device=device, **options)
