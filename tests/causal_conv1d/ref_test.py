"""The reference itself: against torch's convolution, its gradients against autograd."""

from __future__ import annotations

import itertools

import torch
from causal_conv1d import ref

from tests.causal_conv1d.cases import Case, make


def test_it_is_torch_s_convolution() -> None:
    for width in range(2, 9):
        i = make(Case(width=width, dtype=torch.float64, weight_dtype=torch.float64))
        conv = torch.nn.functional.conv1d(
            i.x, i.weight[:, None], i.bias, padding=width - 1, groups=i.x.shape[1]
        )
        torch.testing.assert_close(ref.causal_conv1d_ref(i.x, i.weight, i.bias), conv[:, :, :67])


def test_its_gradients_are_those_of_its_outputs() -> None:
    for silu, fragments, packed in itertools.product([False, True], repeat=3):
        if fragments and packed:
            continue
        case = Case(
            batch=1 if packed else 2,
            dim=2,
            tokens=9,
            width=3,
            dtype=torch.float64,
            weight_dtype=torch.float64,
            silu=silu,
            seq_idx=fragments,
            padding=fragments,
            initial=True,
            final=not fragments,
            lengths=(4, 0, 1, 3) if packed else None,
        )
        i = make(case)
        leaves = [t.requires_grad_() for t in (i.x, i.weight, i.bias, i.initial)]
        out, states = ref.forward(*leaves[:3], i.seq_idx, leaves[3], i.cu_seqlens, silu)
        results, grads = [out], [i.dout]
        if i.dfinal is not None:
            results, grads = [out, states], [i.dout, i.dfinal]
        right = torch.autograd.grad(results, leaves, grads)
        got = ref.backward(
            i.dout,
            i.dfinal,
            *[t.detach() for t in leaves[:3]],
            i.seq_idx,
            leaves[3].detach(),
            i.cu_seqlens,
            silu,
        )
        for a, b in zip(got, right, strict=True):
            torch.testing.assert_close(a, b)


def test_states_are_the_last_columns_also_of_short_inputs() -> None:
    before = torch.arange(3.0)[None, None]
    for tokens in range(6):
        x = torch.arange(3.0, 3 + tokens)[None, None]
        assert ref.states_behind(x, before, 3).flatten().tolist() == [
            float(tokens + k) for k in range(3)
        ]
