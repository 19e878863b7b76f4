"""FBGEMM's ops in plain PyTorch are what FBGEMM's kernels are, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchrec")

import dynamicemb.shard  # noqa: F401 - registers the kernels for CUDA
from dynamicemb.torchrec_compat import OPS, register_cuda_ops

BATCHES = 30
DRAW = torch.Generator()


def _ints(low: int, high: int, *size: int) -> Tensor:
    return torch.randint(low, high, size, generator=DRAW)


def _jagged(*shape: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Lengths, values, weights or None."""
    lengths = _ints(0, 5, *shape)
    n = int(lengths.sum())
    weights = torch.rand(n, generator=DRAW) if int(_ints(0, 2, 1)) else None
    return lengths, _ints(-1000, 1000, n), weights


def _permuted(*shape: int) -> tuple[Any, ...]:
    lengths, values, weights = _jagged(*shape)
    order = _ints(0, shape[0], int(_ints(1, 9, 1))).int()
    size = int(lengths[order.long()].sum()) if int(_ints(0, 2, 1)) else None
    return order, lengths, values, weights, size


def _bucketized() -> tuple[Any, ...]:
    features, batch, ranks = 3, 4, int(_ints(1, 5, 1))
    lengths, values, weights = _jagged(features * batch)
    sizes, most = None, -1
    if int(_ints(0, 2, 1)):  # a batch of its own each
        sizes, most = torch.tensor([2, 7, 3]), 7
    blocks = _ints(1, 400, features)
    position, sequence = bool(_ints(0, 2, 1)), bool(_ints(0, 2, 1))
    values = values.abs()
    return lengths, values, position, sequence, blocks, ranks, weights, sizes, most


def _pooled() -> tuple[Any, ...]:
    dims = _ints(1, 9, 4)
    order = torch.randperm(4, generator=DRAW)
    zero = torch.zeros(1, dtype=torch.int64)
    ends = torch.cat([zero, dims.cumsum(0)])
    new = torch.cat([zero, dims[order].cumsum(0)])
    return torch.rand(5, int(ends[-1]), generator=DRAW), ends, order, new, order.argsort()


def _selected() -> tuple[Any, ...]:
    rows, columns, n = [3, 5, 2], [4, 4, 4], [2, 2, 2]
    sizes = sum(r * c for r, c in zip(rows, columns, strict=True))
    indices = torch.cat([_ints(0, r, k) for r, k in zip(rows, n, strict=True)])
    return torch.rand(sizes, generator=DRAW), indices, n, rows, columns, bool(_ints(0, 2, 1))


def _expanded() -> tuple[Any, ...]:
    lengths, order = _ints(0, 5, 6), torch.randperm(6, generator=DRAW)
    ends = [torch.cat([torch.zeros(1), part.cumsum(0)]).int() for part in (lengths, lengths[order])]
    return order.int(), *ends, int(lengths.sum())


def _keyed() -> tuple[Any, ...]:
    """Four bags of three keys each."""
    lengths, values, weights = _jagged(12)
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return values, lengths, ends, _ints(0, 4, int(_ints(1, 7, 1))), 4, weights


def keyed_by_hand(
    values: Tensor, lengths: Tensor, ends: Tensor, indices: Tensor, batch: int, *more: Any
) -> list[Tensor]:
    """FBGEMM has this one for CUDA alone."""
    bags = [k + i for k in range(0, len(lengths), batch) for i in indices.tolist()]
    given = [values, *(w for w in more if w is not None)]
    chosen = [torch.cat([g[ends[b] : ends[b + 1]] for b in bags]) for g in given]
    return [chosen[0], lengths[bags], *chosen[1:]]


GIVEN: dict[str, Callable[[], tuple[Any, ...]]] = {
    "asynchronous_complete_cumsum": lambda: (_ints(0, 9, *([7] * int(_ints(1, 3, 1)))),),
    "asynchronous_inclusive_cumsum": lambda: (_ints(0, 9, 7),),
    "asynchronous_exclusive_cumsum": lambda: (_ints(0, 9, 7),),
    "invert_permute": lambda: (torch.randperm(9, generator=DRAW).int(),),
    "permute_1D_sparse_data": lambda: _permuted(6),
    "permute_2D_sparse_data": lambda: _permuted(6, 3),
    "segment_sum_csr": lambda: (2, torch.tensor([0, 1, 1, 4]), _ints(0, 99, 8)),
    "block_bucketize_sparse_features": _bucketized,
    "permute_pooled_embs": _pooled,
    "batch_index_select_dim0": _selected,
    "expand_into_jagged_permute": _expanded,
    "keyed_jagged_index_select_dim1": _keyed,
}
BY_HAND = {"keyed_jagged_index_select_dim1": keyed_by_hand}


def _parts(out: Any) -> list[Any]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _same(mine: Any, theirs: Any) -> None:
    for own, other in zip(_parts(mine), _parts(theirs), strict=True):
        if other is None:
            assert own is None
        else:
            assert own.dtype == other.dtype and torch.equal(own.cpu(), other.cpu())


def test_every_op_has_its_arguments() -> None:
    assert set(GIVEN) == set(OPS)


@pytest.mark.parametrize("name", OPS)
def test_an_op_in_pytorch_is_that_of_fbgemm(name: str) -> None:
    DRAW.manual_seed(5)
    theirs = BY_HAND.get(name, getattr(torch.ops.fbgemm, name))
    for _ in range(BATCHES):
        given = GIVEN[name]()
        _same(OPS[name](*given), theirs(*given))


def test_selected_rows_have_the_gradient_of_fbgemm() -> None:
    DRAW.manual_seed(6)
    for _ in range(BATCHES):
        given = _selected()
        grads = []
        for op in (OPS["batch_index_select_dim0"], torch.ops.fbgemm.batch_index_select_dim0):
            leaf = given[0].clone().requires_grad_()
            out = op(leaf, *given[1:])
            (out * torch.arange(out.numel())).sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)


def test_ops_are_registered_for_cuda_once_and_over_none() -> None:
    """A kernel below autograd would lose the gradient of the rows that are selected."""
    has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    assert register_cuda_ops() == []
    assert all(has(f"fbgemm::{name}", "CUDA") for name in OPS)
    for name in ("batch_index_select_dim0", "keyed_jagged_index_select_dim1"):
        assert has(f"fbgemm::{name}", "AutogradCUDA")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_an_op_on_a_gpu_is_that_of_the_cpu(gpu: Any, name: str) -> None:
    DRAW.manual_seed(7)
    op = getattr(torch.ops.fbgemm, name)
    for _ in range(BATCHES):
        given = GIVEN[name]()
        there = [one.cuda() if isinstance(one, Tensor) else one for one in given]
        _same(op(*there), BY_HAND.get(name, op)(*given))


@pytest.mark.gpu
def test_selected_rows_have_their_gradient_on_a_gpu(gpu: Any) -> None:
    DRAW.manual_seed(8)
    given = _selected()
    grads = []
    for device in ("cpu", "cuda"):
        leaf = given[0].to(device, copy=True).requires_grad_()
        op = torch.ops.fbgemm.batch_index_select_dim0
        out = op(leaf, given[1].to(device), *given[2:])
        (out * torch.arange(out.numel(), device=device)).sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.cpu())
    torch.testing.assert_close(*grads)
