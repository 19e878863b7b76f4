"""Loads libhstu_attn.so and completes its torch ops in Python.

The library defines ``torch.ops.hstu_attn.{varlen_fwd, varlen_bwd, qkvpacked_fwd, qkvpacked_bwd}``
and implements them for CUDA. Here they get their CPU implementation (ref.py), fake kernels (for
torch.compile and torch.export) and autograd. Nothing is mutated by any of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hstu_attn import checks, ref

LIBRARY = Path(__file__).with_name("libhstu_attn.so")
MINIMUM_TORCH = (2, 10)


def _load() -> None:
    release = torch.__version__.split("+")[0].split(".")
    if (int(release[0]), int(release[1])) < MINIMUM_TORCH:
        raise ImportError(
            f"hstu_attn needs PyTorch >= 2.10, but this is {torch.__version__}: install a newer "
            "PyTorch"
        )
    if not LIBRARY.is_file():
        raise ImportError(
            f"hstu_attn: the op library {LIBRARY.name} is missing from {LIBRARY.parent}: install "
            "the hstu-attn wheel (a source tree alone has no library), or build it with Bazel"
        )
    try:
        torch.ops.load_library(str(LIBRARY))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(
            f"hstu_attn: the op library {LIBRARY} cannot be loaded ({error}): reinstall the "
            "hstu-attn wheel made for this platform"
        ) from error


_load()


def build_info() -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda, enabled and disabled features."""
    return cast(dict[str, Any], json.loads(torch.ops.hstu_attn.build_info()))


# --- CPU -----------------------------------------------------------------------------------------


def _varlen_fwd_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scaling_seqlen: int,
    num_contexts: Tensor | None,
    num_targets: Tensor | None,
    target_group_size: int,
    window_left: int,
    window_right: int,
    alpha: float,
    rab: Tensor | None,
    has_drab: bool,
    func: Tensor | None,
    deterministic: bool,
    kv_cache: Tensor | None = None,
    page_offsets: Tensor | None = None,
    page_ids: Tensor | None = None,
    last_page_lens: Tensor | None = None,
) -> Tensor:
    checks.check_values(
        q,
        k,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        num_contexts,
        num_targets,
        func,
        kv_cache,
        page_offsets,
        page_ids,
        last_page_lens,
    )
    return ref.varlen_fwd(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        scaling_seqlen,
        num_contexts=num_contexts,
        num_targets=num_targets,
        target_group_size=target_group_size,
        window=(window_left, window_right),
        alpha=alpha,
        rab=rab,
        func=func,
        kv_cache=kv_cache,
        page_offsets=page_offsets,
        page_ids=page_ids,
    )


def _varlen_bwd_cpu(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scaling_seqlen: int,
    num_contexts: Tensor | None,
    num_targets: Tensor | None,
    target_group_size: int,
    window_left: int,
    window_right: int,
    alpha: float,
    rab: Tensor | None,
    has_drab: bool,
    func: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, drab = ref.varlen_bwd(
        dout,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        scaling_seqlen,
        num_contexts=num_contexts,
        num_targets=num_targets,
        target_group_size=target_group_size,
        window=(window_left, window_right),
        alpha=alpha,
        rab=rab,
        func=func,
    )
    return dq, dk, dv, drab if has_drab and drab is not None else q.new_empty(0)


def _qkvpacked_fwd_cpu(qkv: Tensor, *rest: Any) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _varlen_fwd_cpu(q, k, v, *rest)


def _qkvpacked_bwd_cpu(dout: Tensor, qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    q, k, v = qkv.unbind(1)
    dq, dk, dv, drab = _varlen_bwd_cpu(dout, q, k, v, *rest)
    return torch.stack((dq, dk, dv), dim=1), drab


# --- Fake kernels: shapes, dtypes and strides ----------------------------------------------------

_BWD_RAB, _BWD_HAS_DRAB = 11, 12  # where they stand behind the tensors of a backward op


def _drab_fake(like: Tensor, rest: tuple[Any, ...]) -> Tensor:
    rab, has_drab = rest[_BWD_RAB], rest[_BWD_HAS_DRAB]
    return rab.new_empty(rab.shape) if has_drab else like.new_empty(0)


def _varlen_fwd_fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(q.shape)


def _varlen_bwd_fake(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv, _drab_fake(q, rest)


def _qkvpacked_fwd_fake(qkv: Tensor, *rest: Any) -> Tensor:
    total, _, heads, head_dim = qkv.shape
    return qkv.new_empty((total, heads, head_dim))


def _qkvpacked_bwd_fake(dout: Tensor, qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), _drab_fake(qkv, rest)


# --- Autograd ------------------------------------------------------------------------------------
#
# A forward op takes its tensors (q, k, v or qkv), then the arguments that its backward op takes too
# (`common`), then, varlen only, the paged ones.

_COMMON_ARGS = 15  # cu_seqlens_q ... deterministic
_COMMON_TENSORS = (0, 1, 5, 6, 11, 13)  # cu_seqlens_q, cu_seqlens_k, num_*, rab, func


class _Autograd:
    """The autograd of one forward op, whose first ``tensors`` inputs have gradients."""

    def __init__(self, forward_name: str, backward_name: str, tensors: int) -> None:
        self.forward_op = getattr(torch.ops.hstu_attn, forward_name)
        self.backward_op = getattr(torch.ops.hstu_attn, backward_name)
        self.tensors = tensors

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        common = list(inputs[self.tensors : self.tensors + _COMMON_ARGS])
        ctx.save_for_backward(*inputs[: self.tensors], *(common[i] for i in _COMMON_TENSORS))
        for i in _COMMON_TENSORS:
            common[i] = None
        ctx.common = common
        ctx.inputs = len(inputs)
        ctx.paged = any(x is not None for x in inputs[self.tensors + _COMMON_ARGS :])

    def backward(self, ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.paged:
            raise NotImplementedError(
                "hstu_attn: attention over paged keys and values (kv_cache) has no backward"
            )
        saved, common = ctx.saved_tensors, list(ctx.common)
        for i, tensor in zip(_COMMON_TENSORS, saved[self.tensors :], strict=True):
            common[i] = tensor
        rab_at = self.tensors + _BWD_RAB
        wants_drab = bool(common[_BWD_HAS_DRAB] and ctx.needs_input_grad[rab_at])
        common[_BWD_HAS_DRAB] = wants_drab
        *grads, drab = self.backward_op(dout, *saved[: self.tensors], *common)
        result: list[Tensor | None] = [None] * ctx.inputs
        result[: self.tensors] = grads
        if wants_drab:
            result[rab_at] = drab
        return tuple(result)

    def __call__(self, *inputs: Any) -> Tensor:
        """Calls the forward op; in eager mode by way of _Eager where there is a gradient."""
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            rab = inputs[self.tensors + _BWD_RAB]
            if any(x.requires_grad for x in inputs[: self.tensors]) or (
                rab is not None and rab.requires_grad
            ):
                return cast(Tensor, _Eager.apply(*inputs, self))  # type: ignore[no-untyped-call]
        return cast(Tensor, self.forward_op(*inputs))


class _Eager(torch.autograd.Function):
    """What register_autograd makes of setup_context and backward, for a third of the host time:
    that fills in defaults of the schema at every call, quadratic in the number of arguments."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *arguments, rules = inputs
        output = rules.forward_op(*arguments)
        rules.setup_context(ctx, tuple(arguments), output)
        ctx.rules = rules
        return cast(Tensor, output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*ctx.rules.backward(ctx, *grads), None)


varlen = _Autograd("varlen_fwd", "varlen_bwd", tensors=3)
qkvpacked = _Autograd("qkvpacked_fwd", "qkvpacked_bwd", tensors=1)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError("hstu_attn: the attention has no second derivative")


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _register() -> None:
    cpu: dict[str, Callable[..., object]] = {
        "varlen_fwd": _varlen_fwd_cpu,
        "varlen_bwd": _varlen_bwd_cpu,
        "qkvpacked_fwd": _qkvpacked_fwd_cpu,
        "qkvpacked_bwd": _qkvpacked_bwd_cpu,
    }
    fake: dict[str, Callable[..., object]] = {
        "varlen_fwd": _varlen_fwd_fake,
        "varlen_bwd": _varlen_bwd_fake,
        "qkvpacked_fwd": _qkvpacked_fwd_fake,
        "qkvpacked_bwd": _qkvpacked_bwd_fake,
    }
    for name, implementation in cpu.items():
        torch.library.impl(f"hstu_attn::{name}", "cpu", implementation)
        torch.library.register_fake(f"hstu_attn::{name}", fake[name])
    for kind, autograd in (("varlen", varlen), ("qkvpacked", qkvpacked)):
        torch.library.register_autograd(
            f"hstu_attn::{kind}_fwd", autograd.backward, setup_context=autograd.setup_context
        )
        torch.library.register_autograd(
            f"hstu_attn::{kind}_bwd", _no_second_derivative, setup_context=_save_nothing
        )


_register()
