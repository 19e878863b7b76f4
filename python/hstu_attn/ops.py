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
# A forward op takes `tensors` (q, k, v or qkv), then the same arguments as its backward op, then
# (varlen only) the paged ones.

_COMMON_ARGS = 15  # cu_seqlens_q ... deterministic


class _Autograd:
    """The autograd of one forward op; its first ``tensors`` inputs have gradients."""

    def __init__(self, tensors: int, backward_name: str) -> None:
        self.tensors = tensors
        self.backward_name = backward_name

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        saved = inputs[: self.tensors + _COMMON_ARGS]
        ctx.is_tensor = [isinstance(x, Tensor) for x in saved]
        ctx.save_for_backward(*(x for x in saved if isinstance(x, Tensor)))
        ctx.others = [None if isinstance(x, Tensor) else x for x in saved]
        ctx.inputs = len(inputs)
        ctx.paged = any(x is not None for x in inputs[self.tensors + _COMMON_ARGS :])

    def backward(self, ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.paged:
            raise NotImplementedError(
                "hstu_attn: attention over paged keys and values (kv_cache) has no backward"
            )
        tensors = iter(ctx.saved_tensors)
        args = [
            next(tensors) if is_tensor else other
            for is_tensor, other in zip(ctx.is_tensor, ctx.others, strict=True)
        ]
        rab_at, has_drab_at = self.tensors + _BWD_RAB, self.tensors + _BWD_HAS_DRAB
        wants_drab = bool(args[has_drab_at] and ctx.needs_input_grad[rab_at])
        args[has_drab_at] = wants_drab
        *grads, drab = getattr(torch.ops.hstu_attn, self.backward_name)(dout, *args)
        result: list[Tensor | None] = [None] * ctx.inputs
        result[: self.tensors] = grads
        if wants_drab:
            result[rab_at] = drab
        return tuple(result)


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
    for kind, tensors in (("varlen", 3), ("qkvpacked", 1)):
        autograd = _Autograd(tensors, f"{kind}_bwd")
        torch.library.register_autograd(
            f"hstu_attn::{kind}_fwd", autograd.backward, setup_context=autograd.setup_context
        )
        torch.library.register_autograd(
            f"hstu_attn::{kind}_bwd", _no_second_derivative, setup_context=_save_nothing
        )


_register()
