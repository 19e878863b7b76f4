"""Cases of the convolution: inputs by seed, the right results in float64, and how near is right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from causal_conv1d import causal_conv1d_fn, layout, ref
from torch import Tensor

# rtol, atol of values of x's dtype; sums over the batch are nearer.
TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (3e-4, 1e-3),
    torch.float16: (3e-3, 5e-3),
    torch.bfloat16: (1e-2, 5e-2),
}
SUM_TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (1e-3, 1e-3),
    torch.float16: (3e-3, 5e-3),
    torch.bfloat16: (1e-2, 5e-2),
}


@dataclass(frozen=True)
class Case:
    """One call; ``spare`` channels and tokens around x make it a slice of a larger buffer."""

    batch: int = 2
    dim: int = 24
    tokens: int = 67
    width: int = 4
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    last: bool = False
    bias: bool = True
    silu: bool = True
    seq_idx: bool = False
    padding: bool = False
    initial: bool = False
    final: bool = False
    lengths: tuple[int, ...] | None = None  # of packed sequences, batch 1
    spare: int = 0
    device: str = "cpu"
    seed: int = 0

    @property
    def sequences(self) -> int:
        return self.batch if self.lengths is None else len(self.lengths)


@dataclass
class Inputs:
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    seq_idx: Tensor | None
    initial: Tensor | None
    cu_seqlens: Tensor | None
    dout: Tensor
    dfinal: Tensor | None


def laid_out(generator: torch.Generator, shape: tuple[int, int, int], case: Case) -> Tensor:
    """Random values; with ``case.spare`` a slice that begins that far inside a larger tensor."""
    a, b, c = shape
    s = case.spare
    if case.last:
        whole = torch.randn(a, c + s, b + s, generator=generator).transpose(1, 2)
    else:
        whole = torch.randn(a, b + s, c + s, generator=generator)
    return whole.to(case.device, case.dtype)[:, s:, s:]


def fragments(generator: torch.Generator, case: Case) -> Tensor:
    """int32 (batch, tokens): a few cuts, ids that come back, perhaps padding at both ends."""
    cuts = torch.rand(case.batch, case.tokens, generator=generator) < 0.15
    ids = cuts.cumsum(1) % 3
    if case.padding:
        ids[:, : case.tokens // 5] = -1
        ids[:, case.tokens - case.tokens // 6 :] = -1
    return ids.to(case.device, torch.int32)


def make(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.batch, case.dim, case.tokens)

    def random(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*size, generator=generator).to(case.device, dtype)

    x, dout = (laid_out(generator, shape, case) for _ in range(2))
    weight = random(case.dim, case.width, dtype=case.weight_dtype)
    bias = random(case.dim, dtype=case.weight_dtype) if case.bias else None
    states = (case.sequences, case.width - 1, case.dim)
    initial, dfinal = (random(*states, dtype=case.dtype).transpose(1, 2) for _ in range(2))
    starts = None
    if case.lengths is not None:
        starts = torch.tensor([0, *case.lengths]).cumsum(0).to(case.device, torch.int32)
    return Inputs(
        x,
        weight,
        bias,
        fragments(generator, case) if case.seq_idx else None,
        initial if case.initial else None,
        starts,
        dout,
        dfinal if case.final else None,
    )


def double(t: Tensor | None) -> Tensor | None:
    return t if t is None or not t.is_floating_point() else t.double()


def near(name: str, got: Tensor, right: Tensor, tolerance: dict[torch.dtype, Any]) -> None:
    rtol, atol = tolerance[got.dtype]
    torch.testing.assert_close(
        got.double(), right, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
    )


def check(case: Case) -> None:
    """Forward and backward of a case are right, laid out as promised, and the states exact."""
    i = make(case)
    leaves = [t for t in (i.x, i.weight, i.bias, i.initial) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    done = causal_conv1d_fn(
        i.x,
        i.weight,
        i.bias,
        i.seq_idx,
        i.initial,
        case.final,
        activation="silu" if case.silu else None,
        cu_seqlens=i.cu_seqlens,
    )
    out, final = done if case.final else (done, None)
    inputs = [double(t) for t in (i.x, i.weight, i.bias, i.seq_idx, i.initial, i.cu_seqlens)]
    inputs = [None if t is None else t.detach() for t in inputs]
    right, states = ref.forward(*inputs, case.silu)
    near("out", out.detach(), right, TOLERANCE)
    assert out.dtype == case.dtype
    if case.dim > 1 and case.tokens > 1:
        assert layout.channel_last(out) == (case.last or case.lengths is not None)
    if final is not None:
        assert torch.equal(final.detach().double(), states), "the final states are copies"
    results, grads = [out], [i.dout]
    if final is not None:
        results, grads = [out, final], [i.dout, i.dfinal]
    got = torch.autograd.grad(results, leaves, grads)
    dx, dweight, dbias, dinitial = ref.backward(
        i.dout.double(), double(i.dfinal), *inputs, case.silu
    )
    rest = iter(got)
    near("dx", next(rest), dx, TOLERANCE)
    # Long sums in float32: their rounding grows with the number of terms.
    near("dweight", next(rest), dweight, SUM_TOLERANCE)
    if i.bias is not None:
        near("dbias", next(rest), dbias, SUM_TOLERANCE)
    if i.initial is not None:
        near("dinitial_states", next(rest), dinitial, TOLERANCE)


def also(case: Case, **changes: Any) -> Case:
    return replace(case, **changes)
