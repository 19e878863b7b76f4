"""The ops as citizens of PyTorch: opcheck, torch.compile, torch.export, meta, CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hstu_attn import hstu_attn_qkvpacked_func, hstu_attn_varlen_func, ops
from torch import Tensor
from torch.library import opcheck

from tests.hstu_attn.cases import Case, assert_right, make_case, make_paged, run

OPS = torch.ops.hstu_attn

OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"window": (-1, 0)},
    "context_target": {"window": (-1, 0), "contexts": 3, "targets": 4, "group": 2, "max_q": 6},
    "rab": {"rab_heads": 2, "window": (3, 1)},
    "rab_one_head": {"rab_heads": 1},
    "func": {"n_func": 3},
    "grouped_heads": {"heads": 4, "heads_k": 2, "window": (-1, 0)},
}


def op_arguments(case: Case, has_drab: bool) -> tuple[Any, ...]:
    """What follows the tensors of every op."""
    return (
        case.cu_seqlens_q,
        case.cu_seqlens_k,
        case.max_seqlen_q,
        case.max_seqlen_k,
        case.n,
        case.num_contexts,
        case.num_targets,
        case.target_group_size,
        *case.window_size,
        case.alpha,
        case.rab,
        has_drab,
        case.func,
        True,  # deterministic: opcheck compares results of several runs
    )


def leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_()


@pytest.mark.parametrize("options", OPTIONS)
def test_opcheck_of_the_forward_and_backward_ops(device: str, options: str) -> None:
    case = make_case(device=device, **OPTIONS[options])
    has_drab = case.rab is not None
    if case.rab is not None:
        case = replace(case, rab=leaf(case.rab))
    arguments = op_arguments(case, has_drab)
    q, k, v = leaf(case.q), leaf(case.k), leaf(case.v)
    torch.library.opcheck(
        torch.ops.hstu_attn.varlen_fwd.default, (q, k, v, *arguments, None, None, None, None)
    )
    plain = op_arguments(
        replace(case, rab=None if case.rab is None else case.rab.detach()), has_drab
    )
    torch.library.opcheck(
        torch.ops.hstu_attn.varlen_bwd.default, (case.dout, case.q, case.k, case.v, *plain)
    )


def test_opcheck_of_the_packed_ops(device: str) -> None:
    case = make_case(device=device, window=(-1, 0), rab_heads=1)
    packed = torch.stack([case.q, case.k, case.v], dim=1)
    arguments = op_arguments(case, True)
    opcheck(OPS.qkvpacked_fwd.default, (leaf(packed), *arguments))
    torch.library.opcheck(
        torch.ops.hstu_attn.qkvpacked_bwd.default, (case.dout, packed, *arguments)
    )


def test_opcheck_of_the_paged_forward(device: str) -> None:
    paged = make_paged(device=device, page_size=16, max_k=40, max_q=5, targets=4)
    case = paged.fresh
    tables = (paged.arguments[n] for n in ("kv_cache", "page_offsets", "page_ids"))
    torch.library.opcheck(
        torch.ops.hstu_attn.varlen_fwd.default,
        (
            case.q,
            case.k,
            case.v,
            *op_arguments(case, False),
            *tables,
            paged.arguments["last_page_lens"],
        ),
    )


def test_meta_tensors_give_shapes() -> None:
    q = torch.empty(10, 4, 64, dtype=torch.bfloat16, device="meta")
    k = torch.empty(12, 2, 64, dtype=torch.bfloat16, device="meta")
    case = Case(q, k, k, *(torch.empty(3, dtype=torch.int32, device="meta"),) * 2, 8, 9)
    out = torch.ops.hstu_attn.varlen_fwd(q, k, k, *op_arguments(case, False), *(None,) * 4)
    assert out.shape == q.shape and out.dtype == q.dtype and out.device.type == "meta"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_whole_with_gradients(device: str, options: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def layer(
        q: Tensor, k: Tensor, v: Tensor, rab: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor:
        given = {**arguments, "q": q * 1.0, "k": k, "v": v, "rab": rab}
        return hstu_attn_varlen_func(**given, has_drab=rab is not None) * 2.0

    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for seed in (0, 1):  # other lengths, other numbers of rows
        case = make_case(device=device, seed=seed, slack=seed, **OPTIONS[options])
        q, k, v = leaf(case.q), leaf(case.k), leaf(case.v)
        rab = None if case.rab is None else leaf(case.rab)
        out = compiled(q, k, v, rab, case.arguments())
        (out / 2).backward(case.dout)
        got = {"out": out.detach() / 2, "dq": q.grad, "dk": k.grad, "dv": v.grad}
        if rab is not None:
            got["drab"] = rab.grad
        assert_right(got, case)


def test_new_batch_sizes_and_lengths_do_not_recompile(device: str) -> None:
    torch._dynamo.reset()
    compilations = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    def layer(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, m: int) -> Tensor:
        return hstu_attn_varlen_func(q, k, v, cu, cu, m, m, window_size=(-1, 0))

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for batch in (2, 3, 5, 8):
        case = make_case(device=device, batch=batch, max_k=9 * batch, window=(-1, 0))
        got = compiled(case.q, case.k, case.v, case.cu_seqlens_q, case.max_seqlen_q)
        assert_right({"out": got}, case)
    assert compilations == 1


def test_packed_compiles_whole(device: str) -> None:
    torch._dynamo.reset()
    case = make_case(device=device, window=(-1, 0))
    packed = leaf(torch.stack([case.q, case.k, case.v], dim=1))

    def layer(qkv: Tensor) -> Tensor:
        return hstu_attn_qkvpacked_func(
            qkv,
            case.cu_seqlens_q,
            case.cu_seqlens_k,
            case.max_seqlen_q,
            case.max_seqlen_k,
            window_size=(-1, 0),
        )

    out = torch.compile(layer, fullgraph=True, backend="aot_eager")(packed)
    out.backward(case.dout)
    assert packed.grad is not None
    dq, dk, dv = packed.grad.unbind(1)
    assert_right({"out": out.detach(), "dq": dq, "dk": dk, "dv": dv}, case)


class Attention(torch.nn.Module):
    """A module with every kind of mask argument, for export."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, cu: Tensor, targets: Tensor) -> Tensor:
        return hstu_attn_varlen_func(
            q, k, v, cu, cu, 64, 64, num_targets=targets, target_group_size=2, window_size=(-1, 0)
        )


@pytest.mark.parametrize("strict", [False, True])
def test_the_forward_exports_with_free_sizes(device: str, strict: bool) -> None:
    torch._dynamo.reset()
    total, batch = torch.export.Dim("total", min=2), torch.export.Dim("batch", min=2)

    def problem(batch: int) -> tuple[Case, tuple[Tensor, ...]]:
        case = make_case(device=device, batch=batch, targets=9, group=2, window=(-1, 0), max_k=50)
        case = replace(case, max_seqlen_q=64, max_seqlen_k=64)
        assert case.num_targets is not None
        return case, (case.q, case.k, case.v, case.cu_seqlens_q, case.num_targets)

    program = torch.export.export(
        Attention(),
        problem(3)[1],
        dynamic_shapes=({0: total}, {0: total}, {0: total}, {0: batch + 1}, {0: batch}),
        strict=strict,
    )
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.hstu_attn.varlen_fwd.default in targets
    case, inputs = problem(5)
    assert_right({"out": program.module()(*inputs)}, case)


def test_a_checked_value_is_found_in_compiled_code_on_the_cpu() -> None:
    torch._dynamo.reset()
    case = make_case(window=(-1, 0))
    compiled = torch.compile(
        lambda cu: hstu_attn_varlen_func(case.q, case.k, case.v, cu, cu, 13, 13),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(ValueError, match="cu_seqlens_q must start at 0, got 1"):
        compiled(case.cu_seqlens_q + 1)


def test_deterministic_algorithms_of_torch_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = ops.varlen

    def spy(*arguments: Any) -> Tensor:
        seen.append(arguments[17])
        return real(*arguments)

    monkeypatch.setattr(ops, "varlen", spy)
    case = make_case()
    hstu_attn_varlen_func(**case.arguments())
    hstu_attn_varlen_func(**case.arguments(), deterministic=True)
    torch.use_deterministic_algorithms(True)
    try:
        hstu_attn_varlen_func(**case.arguments())
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False, True, True]


@pytest.mark.parametrize("options", ["causal", "context_target", "rab_one_head", "func"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_forward_and_backward_replay_in_a_cuda_graph(
    gpu: str, options: str, deterministic: bool
) -> None:
    """Captured once, replayed with other values and, within the same total, other lengths."""
    case = make_case(device=gpu, batch=4, full=True, **{**OPTIONS[options], "max_k": 200})
    leaves = {"q": leaf(case.q), "k": leaf(case.k), "v": leaf(case.v)}
    if case.rab is not None:
        leaves["rab"] = leaf(case.rab)
    arguments = {**case.arguments(), **leaves}
    arguments["has_drab"] = case.rab is not None
    arguments["deterministic"] = deterministic
    dout = case.dout

    def step() -> dict[str, Tensor]:
        out = hstu_attn_varlen_func(**arguments)
        grads = torch.autograd.grad(out, list(leaves.values()), dout)
        return {"out": out.detach()} | {"d" + n: g for n, g in zip(leaves, grads, strict=True)}

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()

    with torch.no_grad():
        for x in leaves.values():
            x.copy_(torch.rand_like(x) * 2 - 1)
        if options == "causal":  # 4 x 200 rows become 100 + 200 + 0 + 200
            case.cu_seqlens_q.copy_(torch.tensor([0, 100, 300, 300, 500], dtype=torch.int32))
            case.cu_seqlens_k.copy_(case.cu_seqlens_q)
    graph.replay()
    expected = step()
    used = int(case.cu_seqlens_q[-1])
    for name, value in got.items():
        if name != "drab":
            value, expected[name] = value[:used], expected[name][:used]
        assert torch.isfinite(value).all(), name
        if deterministic or name == "out":
            assert torch.equal(value, expected[name]), name
        torch.testing.assert_close(value, expected[name], rtol=2e-2, atol=2e-2, msg=name)


def test_inductor_compiles_forward_and_backward(gpu: str) -> None:
    torch._dynamo.reset()
    case = make_case(device=gpu, max_k=100, window=(-1, 0), targets=9)
    arguments = case.arguments()

    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = {**arguments, "q": q * 1.0, "k": k, "v": v}
        return hstu_attn_varlen_func(**given) * 2.0

    q, k, v = leaf(case.q), leaf(case.k), leaf(case.v)
    out = torch.compile(layer, fullgraph=True)(q, k, v)
    (out / 2).backward(case.dout)
    got = {"out": out.detach() / 2, "dq": q.grad, "dk": k.grad, "dv": v.grad}
    assert_right(got, case)


def test_a_side_stream_is_used(gpu: str) -> None:
    case = make_case(device=gpu, max_k=300, window=(-1, 0))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        q = case.q * 1.0  # ready only after the sleep
        out = hstu_attn_varlen_func(**{**case.arguments(), "q": q})
    stream.synchronize()
    assert_right({"out": out}, case)


def test_neither_direction_waits_for_the_device(gpu: str) -> None:
    case = make_case(device=gpu, window=(-1, 0), rab_heads=1, targets=4)
    run(case)
    leaves = {n: leaf(getattr(case, n)) for n in ("q", "k", "v")}
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = hstu_attn_varlen_func(**{**case.arguments(), **leaves})
        torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_other_gpu(gpu: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    case = make_case(device="cuda:1", window=(-1, 0))
    with torch.cuda.device(0):
        got = run(case)
    assert got["out"].device == torch.device("cuda:1")
    assert_right(got, case)
