"""Loads libhstu_attn.so and completes its torch ops in Python.

The library defines ``torch.ops.hstu_attn.{varlen_fwd, varlen_bwd, qkvpacked_fwd, qkvpacked_bwd}``
and implements them for CUDA. Here they get their CPU implementation (ref.py), fake kernels (for
torch.compile and torch.export) and autograd. Nothing is mutated by any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstu_attn import checks, ref
from hstu_attn._core import library
from hstu_attn._core.ops import no_gradient, op
from hstu_attn.problem import Problem

PACKAGE = "hstu_attn"
LIBRARY = Path(__file__).with_name("libhstu_attn.so")
MINIMUM_TORCH = (2, 10)

library.load(PACKAGE, LIBRARY, MINIMUM_TORCH)


def build_info() -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda, enabled and disabled features."""
    return library.build_info(PACKAGE)


def _problem(a: Any) -> Problem:
    """The call behind the arguments of any of the four ops."""
    tensors = a.qkv.unbind(1) if hasattr(a, "qkv") else (a.q, a.k, a.v)
    return Problem.of_schema(*tensors, *a[a._fields.index("cu_seqlens_q") :])


def _forward(a: Any) -> Tensor:
    p = _problem(a)
    checks.check_values(p)
    return ref.forward(p)


def _backward(a: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p = _problem(a)
    dq, dk, dv, drab = ref.backward(p, a.dout)
    return dq, dk, dv, drab if p.has_drab and drab is not None else dq.new_empty(0)


def _backward_packed(a: Any) -> tuple[Tensor, Tensor]:
    *grads, drab = _backward(a)
    return torch.stack(grads, dim=1), drab


def _fake_drab(a: Any, like: Tensor) -> Any:
    return a.rab.new_empty(a.rab.shape) if a.has_drab else like.new_empty(0)


def _fake(a: Any) -> Any:
    return a.q.new_empty(a.q.shape)


def _fake_backward(a: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (a.q, a.k, a.v))
    return dq, dk, dv, _fake_drab(a, a.q)


def _fake_packed(a: Any) -> Any:
    total, _, heads, head_dim = a.qkv.shape
    return a.qkv.new_empty((total, heads, head_dim))


def _fake_backward_packed(a: Any) -> tuple[Tensor, Tensor]:
    return a.qkv.new_empty(a.qkv.shape), _fake_drab(a, a.qkv)


def _gradients(a: Any, needed: tuple[bool, ...], dout: Tensor) -> tuple[Tensor | None, ...]:
    """By the backward op, which takes what the forward took, but for the pages."""
    packed = a._fields[0] == "qkv"
    if not packed and a.kv_cache is not None:
        raise NotImplementedError(
            "hstu_attn: attention over paged keys and values (kv_cache) has no backward"
        )
    if a.has_drab and not needed[(_PACKED if packed else _TENSORS).index("rab")]:
        a = a._replace(has_drab=False)
    *grads, drab = (qkvpacked_bwd if packed else varlen_bwd)(
        dout, *a[: a._fields.index("deterministic") + 1]
    )
    return (*grads, drab if a.has_drab else None)


_twice = no_gradient("hstu_attn: the attention has no second derivative")
_TENSORS = ("q", "k", "v", "rab")
_PACKED = ("qkv", "rab")

varlen = op(
    PACKAGE, "varlen_fwd", cpu=_forward, fake=_fake, backward=_gradients, gradients=_TENSORS
)
qkvpacked = op(
    PACKAGE,
    "qkvpacked_fwd",
    cpu=_forward,
    fake=_fake_packed,
    backward=_gradients,
    gradients=_PACKED,
)
varlen_bwd = op(
    PACKAGE,
    "varlen_bwd",
    cpu=_backward,
    fake=_fake_backward,
    backward=_twice,
    gradients=("dout", *_TENSORS),
)
qkvpacked_bwd = op(
    PACKAGE,
    "qkvpacked_bwd",
    cpu=_backward_packed,
    fake=_fake_backward_packed,
    backward=_twice,
    gradients=("dout", *_PACKED),
)
