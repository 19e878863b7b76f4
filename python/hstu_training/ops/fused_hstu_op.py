"""One HSTU layer as one autograd function.

    n = LN(x)      [u q k v] = SiLU(n W + b)      a = attention(q, k, v)
    y = dropout(LN(a) * u)                        out = x + y Wo (+ bo)

With ``rows`` (of the last layer, where candidates alone are read) u, q, a, y and out are of those.
In units of tokens * hidden * 2 bytes it keeps x, n, h = n W (4), SiLU(h + b) (4), a and y: 12;
without n and SiLU(h + b), which the two recompute flags drop, 7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hstu_attn.ops import varlen, varlen_bwd
from torch import Tensor

from hstu_training.ops.elementwise import (
    Drop,
    bias_silu,
    bias_silu_backward,
    cast,
    layer_norm,
    layer_norm_backward,
    narrowed,
    norm_mul_dropout,
    norm_mul_dropout_backward,
)
from hstu_training.ops.rows import add_rows


class Attend(NamedTuple):
    """The arguments of ``torch.ops.hstu_attn`` that are no q, k, v or bias."""

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    divisor: int
    contexts: Tensor | None
    targets: Tensor | None
    group: int
    causal: bool
    alpha: float
    deterministic: bool

    def arguments(self, rab: Tensor | None, has_drab: bool) -> tuple[Any, ...]:
        right = 0 if self.causal else -1
        return (
            self.cu_q, self.cu_k, self.max_q, self.max_k, self.divisor, self.contexts,
            self.targets, self.group, -1, right, self.alpha, rab, has_drab, None,
            self.deterministic,
        )  # fmt: skip


class Plan(NamedTuple):
    """What one call of the layer is besides its tensors."""

    heads: int
    channels: int
    padded: int
    eps: float
    attend: Attend
    drop: Drop
    rows: Tensor | None
    columns: Tensor  # of the parameter, in the order [u q k v]
    back: Tensor  # where each column of the parameter stands in that order
    recompute_norm: bool
    recompute_silu: bool


def _heads(t: Tensor, plan: Plan) -> Tensor:
    """(rows, heads, padded) of (rows, heads * channels); a view where nothing is padded."""
    t = t.view(t.shape[0], plan.heads, plan.channels)
    return t if plan.padded == plan.channels else F.pad(t, (0, plan.padded - plan.channels))


def _flat(t: Tensor, plan: Plan) -> Tensor:
    t = t if plan.padded == plan.channels else t[..., : plan.channels]
    return t.reshape(t.shape[0], plan.heads * plan.channels)


class _Parts(NamedTuple):
    """u and q of the computed rows, k and v of all."""

    u: Tensor
    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], inner: int) -> _Parts:
        """From one packed tensor [u q k v], or from [u q] and [k v]."""
        return cls(*(part for t in tensors for part in torch.split(t, inner, 1)))


def _project(n: Tensor, weight: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
    if rows is None:
        return (n @ weight,)
    half = weight.shape[1] // 2
    return n.index_select(0, rows) @ weight[:, :half], n @ weight[:, half:]


def _silu(h: tuple[Tensor, ...], bias: Tensor | None) -> tuple[Tensor, ...]:
    """Of all columns, or of both halves."""
    return tuple(map(bias_silu, h, _halves(bias, len(h))))


def _halves(bias: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if bias is None else bias.chunk(count)


def _attention(parts: _Parts, rab: Tensor | None, has_drab: bool, plan: Plan) -> Tensor:
    q, k, v = (_heads(t, plan) for t in parts[1:])
    none = (None,) * 4  # no pages
    given = plan.attend.arguments(rab, has_drab)
    return _flat(varlen(q, k, v, *given, *none), plan)


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rab: Tensor | None,
        plan: Plan,
        *parameters: Tensor | None,
    ) -> Tensor:
        inner = plan.heads * plan.channels
        narrow = narrowed(x, inner, parameters[:4], parameters[4:])
        weight, bias, proj, proj_bias, w1, b1, w2, b2 = narrow
        norm1, norm2 = (w1, b1), (w2, b2)
        weight = weight.index_select(1, plan.columns)
        if bias is not None:
            bias = bias.index_select(0, plan.columns)
        n, mean, rstd = layer_norm(x, *norm1, plan.eps)
        h = _project(n, weight, plan.rows)
        s = _silu(h, bias)
        parts = _Parts.of(s, inner)
        has_drab = rab is not None and rab.requires_grad
        a = _attention(parts, rab, has_drab, plan)
        seed = plan.drop.seed(x.device)
        y, mean2, rstd2 = norm_mul_dropout(a, parts.u, *norm2, plan.eps, plan.drop, seed)
        residual = x if plan.rows is None else x.index_select(0, plan.rows)
        out = torch.addmm(residual, y, proj)
        if proj_bias is not None:
            out += proj_bias
        kept = (None if plan.recompute_norm else n, *h)
        ctx.save_for_backward(
            x, mean, rstd, a, mean2, rstd2, y, weight, bias, proj, *norm1, *norm2, rab, *kept,
            *(() if plan.recompute_silu else s),
        )  # fmt: skip
        ctx.plan, ctx.halves, ctx.has_drab, ctx.seed = plan, len(h), has_drab, seed
        ctx.proj_biased = proj_bias is not None
        ctx.dtype = next(p.dtype for p in parameters if p is not None)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        x, mean, rstd, a, mean2, rstd2, y, weight, bias, proj, *rest = ctx.saved_tensors
        norm1, norm2, rab, n = (rest[0], rest[1]), (rest[2], rest[3]), rest[4], rest[5]
        plan, halves = ctx.plan, ctx.halves
        h, s = tuple(rest[6 : 6 + halves]), tuple(rest[6 + halves :])
        if not s:
            s = _silu(h, bias)
        parts = _Parts.of(s, plan.heads * plan.channels)
        dout = dout.contiguous()
        dproj = y.t() @ dout
        da, du, dw2, db2 = norm_mul_dropout_backward(
            dout @ proj.t(), a, parts.u, *norm2, mean2, rstd2, plan.eps, plan.drop, ctx.seed
        )
        q, k, v = (_heads(t, plan) for t in parts[1:])
        dq, dk, dv, drab = varlen_bwd(
            _heads(da, plan), q, k, v, *plan.attend.arguments(rab, ctx.has_drab)
        )
        parts_of_h = (du, *(_flat(t, plan) for t in (dq, dk, dv)))
        shares = [parts_of_h] if halves == 1 else [parts_of_h[:2], parts_of_h[2:]]
        dh, dbs = zip(*map(bias_silu_backward, shares, h, _halves(bias, halves)), strict=True)
        if n is None:
            n = layer_norm(x, *norm1, plan.eps)[0]
        dn, dweight = _project_backward(n, weight, dh, plan.rows)
        dweight, dbias = dweight.index_select(1, plan.back), None
        if bias is not None:
            dbias = (dbs[0] if halves == 1 else torch.cat(dbs)).index_select(0, plan.back)
        dx, dw1, db1 = layer_norm_backward(dn, x, *norm1, mean, rstd, plan.eps)
        if plan.rows is None:
            dx += dout
        else:
            dx = add_rows(dx, plan.rows, dout)
        dproj_bias = dout.sum(0) if ctx.proj_biased else None
        leaves = (dw1, db1, dw2, db2)
        given = (*norm1, *norm2)
        norms = [None if w is None else g for g, w in zip(leaves, given, strict=True)]
        grads = cast((dweight, dbias, dproj, dproj_bias, *norms), ctx.dtype)
        return dx, drab if ctx.has_drab else None, None, *grads


def _project_backward(
    n: Tensor, weight: Tensor, dh: tuple[Tensor, ...], rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    if rows is None:
        return dh[0] @ weight.t(), n.t() @ dh[0]
    half = weight.shape[1] // 2
    dn = dh[1] @ weight[:, half:].t()
    dn = add_rows(dn, rows, dh[0] @ weight[:, :half].t())
    return dn, torch.cat([n.index_select(0, rows).t() @ dh[0], n.t() @ dh[1]], 1)


def fused_hstu_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    proj: Tensor,
    proj_bias: Tensor | None,
    norm1: tuple[Tensor | None, Tensor | None],
    norm2: tuple[Tensor | None, Tensor | None],
    rab: Tensor | None,
    plan: Plan,
) -> Tensor:
    """See the module.

    Args:
        x: (tokens, hidden).
        weight: (hidden, heads * 4 * channels), head by head u, v, q, k; bias its bias.
        proj: (heads * channels, hidden); proj_bias its bias.
        norm1, norm2: weight and bias of the norms, or None. These parameters are all of one dtype,
            which may be wider than that of x.
        rab: (batch, 1, length, length) or None.
        plan: the rest.

    Returns:
        (tokens, hidden), or (rows, hidden).
    """
    out: Tensor = _FusedLayer.apply(  # type: ignore[no-untyped-call]
        x, rab, plan, weight, bias, proj, proj_bias, *norm1, *norm2
    )
    return out
