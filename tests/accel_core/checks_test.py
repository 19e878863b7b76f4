"""Each check refuses by name, with the value and what is allowed, and lets good values pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from python.accel_core import checks
from python.accel_core.tensor_checks import TensorChecks

CHECKS = TensorChecks("my_ops")
LIKE = torch.zeros(2, 3)
INDEX = torch.zeros(4, dtype=torch.int32)


def test_the_plain_checks_need_no_torch() -> None:
    program = f"import runpy, sys; runpy.run_path({checks.__file__!r}); "
    program += "print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: CHECKS.integer(-1, "n", 0), "n must be >= 0, got -1"),
        (lambda: CHECKS.integer("3", "n", 0), "n must be an int, got str: '3'"),
        (lambda: CHECKS.integer(LIKE, "n", 0), "n must be an int, got Tensor; call .item() on it"),
        (lambda: CHECKS.integer(True, "n", 0), "n must be an int, got bool: True"),
        (lambda: CHECKS.integer(2**31, "n", 0), "n must be <= 2147483647, got 2147483648"),
        (lambda: CHECKS.boolean(1, "x"), "x must be True or False, got 1"),
        (lambda: CHECKS.number(None, "x"), "x must be a number, got NoneType: None"),
        (lambda: CHECKS.number(float("nan"), "x"), "x must be a finite number, got nan"),
        (
            lambda: CHECKS.tensor(LIKE.to_sparse(), "x"),
            "x must be a dense tensor, got one of layout torch.sparse_coo",
        ),
        (lambda: CHECKS.tensor([1], "x"), "x must be a tensor, got list: [1]"),
        (
            lambda: CHECKS.like(LIKE.half(), "x", LIKE, "y"),
            "x is torch.float16, but y is torch.float32: they must agree",
        ),
        (
            lambda: CHECKS.like(LIKE.to("meta"), "x", LIKE, "y"),
            "x is on meta, but y is on cpu: they must be on one device",
        ),
        (
            lambda: CHECKS.last_stride(LIKE.t(), "x", "; copy it"),
            "x must have last stride 1, got strides (1, 3); copy it",
        ),
        (lambda: CHECKS.int32(LIKE, "x", LIKE, "y"), "x must be int32, got torch.float32"),
        (
            lambda: CHECKS.index(INDEX, "x", 5, "(batch + 1,)", LIKE, "y"),
            "x must have shape (batch + 1,) = (5,), got (4,)",
        ),
        (
            lambda: CHECKS.index(INDEX[::2], "x", 2, "(batch,)", LIKE, "y"),
            "x must be contiguous, got strides (2,)",
        ),
        (lambda: CHECKS.prefix_sums([1, 2], "x", 9, "rows"), "x must start at 0, got 1"),
        (
            lambda: CHECKS.prefix_sums([0, 2, 1], "x", 9, "rows"),
            "x must not decrease, got x[1] = 2 > x[2] = 1",
        ),
        (
            lambda: CHECKS.prefix_sums([0, 2, 10], "x", 9, "rows"),
            "x must end within the 9 rows, got x[-1] = 10",
        ),
    ],
)
def test_what_is_refused(check: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check()
    assert str(caught.value) == f"my_ops: {message}"


def test_what_passes() -> None:
    CHECKS.integer(0, "n", 0)
    CHECKS.like(LIKE.t(), "x", LIKE, "y")
    CHECKS.last_stride(LIKE, "x")
    CHECKS.index(INDEX, "x", 4, "(batch,)", LIKE, "y")
    assert CHECKS.prefix_sums([0, 2, 2, 9], "x", 9, "rows") == [2, 0, 7]


def test_tensor_checks_do_not_break_a_compiled_graph() -> None:
    torch._dynamo.reset()

    def checked(x: Tensor, index: Tensor) -> Tensor:
        CHECKS.like(x, "x", x, "x")
        CHECKS.index(index, "index", None, "(n,)", x, "x")
        return x + index.shape[0]

    compiled = torch.compile(checked, fullgraph=True, dynamic=True, backend="eager")
    assert compiled(LIKE, INDEX).sum() == 24
