"""Each op is one graph of torch.compile and of torch.export, with Triton's kernels in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generative_recommenders.common import HammerKernel
from torch import Tensor

from tests.hstu_triton.arguments_test import OPS
from tests.hstu_triton.cases import needs_triton

pytestmark = needs_triton


class Call(torch.nn.Module):
    """An op as a module of its tensors."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.function, good = OPS[op][:2]
        self.names = [name for name, value in good.items() if isinstance(value, Tensor)]
        self.tensors = tuple(good[name] for name in self.names)
        self.rest = {name: value for name, value in good.items() if name not in self.names}

    def forward(self, *tensors: Tensor) -> Any:
        given = dict(zip(self.names, tensors, strict=True))
        return self.function(**given, **self.rest, kernel=HammerKernel.TRITON)


def there(outputs: Any) -> list[Tensor]:
    return [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if t is not None]


# The rows of a part of which only offsets are given are read on the host.
READ = {"hstu_split_l2_embeddings"}


def totals(call: Call, op: str) -> None:
    if op == "split_2D_jagged":
        call.rest |= {"total_len_left": 5, "total_len_right": 7}


@pytest.mark.parametrize("op", sorted(set(OPS) - READ))
def test_an_op_is_one_graph_of_torch_compile(op: str) -> None:
    call = Call(op)
    totals(call, op)
    torch.compiler.reset()  # of one forward that all ops share only so many versions are kept
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for expected, got in zip(there(call(*call.tensors)), there(compiled(*call.tensors)),
                             strict=True):  # fmt: skip
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", sorted(set(OPS) - READ))
def test_an_op_can_be_exported(op: str) -> None:
    call = Call(op)
    totals(call, op)
    with torch.no_grad():
        program = torch.export.export(call, call.tensors)
        outputs = there(program.module()(*call.tensors))
        for expected, got in zip(there(call(*call.tensors)), outputs, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
