"""What a first call waits for: its own kernels, all of them at once, and nothing of PyTorch's."""

from __future__ import annotations

import functools

from tests.common.processes import python
from tests.hstu_triton.cases import needs_triton

pytestmark = needs_triton

# A driver of no GPU, and compilers that wait for one another.
PROGRAM = """
import sys, threading, torch, triton
from generative_recommenders.ops.problem import Problem
from generative_recommenders.ops.triton import _launch, triton_hstu_attention as attention
from triton.backends.compiler import GPUTarget

q, k, v, dout, dq, dk, dv = (torch.zeros(64, 2, 32, dtype=torch.bfloat16) for _ in range(7))
problem = Problem(64, 1.0, q, k, v, torch.tensor([0, 64]))
try:
    attention.triton_hstu_attention_fwd(*problem.forward_schema())
except ValueError as error:
    assert "k is on cpu: TRITON needs a GPU" in str(error), error
    print("torch._dynamo" in sys.modules)

class Driver:
    get_current_device = get_current_stream = lambda *_: 0
    get_current_target = lambda _: GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
triton.runtime.cache.triton_key = lambda: ""
compiled, all_three = [], threading.Barrier(3)

def compile(source, **_):
    all_three.wait(60)
    compiled.append(source)
    return object()

triton.compiler.compile = compile
for _ in range(2):
    _launch.compile_at_once("attention", lambda: attention.calls_of(problem, True))
backward = attention._backward_calls(problem, dout, dq, dk, dv)
for call in [*backward, attention._forward_call(problem, dout, 0)]:
    found = call.kernel.warmup(*call.arguments, grid=call.grid, **call.constants)
    assert type(found) is object, found
print(len(compiled))
"""


@functools.cache
def said() -> list[str]:
    done = python("-c", PROGRAM, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_first_call_does_not_import_the_compiler_of_pytorch() -> None:
    assert said()[0] == "False"


def test_the_kernels_of_a_first_forward_and_backward_are_compiled_at_once_and_found() -> None:
    assert said()[1] == "3"
