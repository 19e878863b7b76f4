"""Which keys and values stay: a pruner's mask is True where an element survives.

``K`` and ``V`` say what is pruned, ``t`` that the channels of one token compete, ``c`` that the
tokens of one channel do; ``Mag`` goes by magnitude, ``Opa`` by magnitude times what the queries
make of it (output-aware). Keys are those after the rotary embedding. Shapes are (..., tokens, D).

Of equal scores the lowest index stays, so that a mask has exactly as many survivors as it should;
``ties="keep"`` of the magnitude pruners keeps all of them. NaN counts as larger than infinity.
``Kt_Mag`` and ``Vt_Mag`` have compressed layouts (``MustafarCache``); the others are dense masks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mustafar import ref
from mustafar._core.tensor_checks import shape_text
from mustafar.checks import checks, floating, sparsity

Ties = Literal["lowest", "keep"]


def kept(size: int, s: float) -> int:
    """How many of ``size`` elements a magnitude pruner keeps: size - max(1, int(s * size)) + 1.

    >>> kept(128, 0.5), kept(128, 0.7), kept(128, 0.0)
    (65, 40, 128)
    """
    checks.integer(size, "size", 1)
    sparsity(s, "s")
    return size - max(1, int(s * size)) + 1


def _share(size: int, s: float) -> int:
    """int(size * (1 - s)), without what floating point may take off."""
    return int(size * (1 - s) + 1e-9)


def _by_magnitude(x: Tensor, count: int, ties: Ties) -> Tensor:
    if ties not in ("lowest", "keep"):
        checks.fail(f'ties must be "lowest" or "keep", got {ties!r}')
    score = ref.order(x.contiguous())
    if ties == "lowest":
        return ref.largest(score, count)
    return score >= score.sort(-1, descending=True).values[..., count - 1 : count]


def _groups(x: Tensor, group_size: int, name: str) -> Tensor:
    """(..., tokens, D) to (..., groups, D, group_size)."""
    checks.integer(group_size, "group_size", 1)
    if x.shape[-2] % group_size != 0:
        checks.fail(
            f"{name} must have a multiple of group_size = {group_size} tokens, got {shape_text(x)}"
        )
    groups = x.reshape(*x.shape[:-2], -1, group_size, x.shape[-1])
    return groups.transpose(-1, -2)


def _per_channel(mask: Tensor) -> Tensor:
    """The inverse of ``_groups``."""
    return mask.transpose(-1, -2).flatten(-3, -2)


def Kt_Mag(k: Tensor, s: float, ties: Ties = "lowest") -> Tensor:
    """The ``kept(D, s)`` largest channels of each token of k (..., tokens, D)."""
    floating(k, "k")
    return _by_magnitude(k, kept(k.shape[-1], s), ties)


def Vt_Mag(v: Tensor, s: float, ties: Ties = "lowest") -> Tensor:
    """The ``kept(D, s)`` largest channels of each token of v (..., tokens, D)."""
    floating(v, "v")
    return _by_magnitude(v, kept(v.shape[-1], s), ties)


def Vc_Mag(v: Tensor, s: float, group_size: int = 32, ties: Ties = "lowest") -> Tensor:
    """The ``kept(group_size, s)`` largest of each channel's ``group_size`` consecutive tokens."""
    floating(v, "v")
    groups = _groups(v, group_size, "v")
    return _per_channel(_by_magnitude(groups, kept(group_size, s), ties))


def query_importance(q: Tensor, heads: int, group_size: int = 32) -> Tensor:
    """What ``Kt_Opa`` weighs channels by: (batch, heads, D).

    The sum over the query heads of a kv head of the mean over the last ``group_size`` queries of
    abs(q). At decode, the sum over the steps of a token's stay in the window takes its place.

    Args:
        q: (batch, q_heads, queries, D), q_heads a multiple of ``heads``.
        heads: kv heads.
        group_size: how many of the last queries count.
    """
    floating(q, "q", 4)
    return _by_head(q, heads)[..., -group_size:, :].abs().mean(-2).sum(2)


def _by_head(q: Tensor, heads: int) -> Tensor:
    """(batch, q_heads, ...) to (batch, heads, groups, ...)."""
    checks.integer(heads, "heads", 1)
    if q.shape[1] % heads != 0:
        checks.fail(f"q must have a multiple of heads = {heads} query heads, got {shape_text(q)}")
    return q.reshape(q.shape[0], heads, -1, *q.shape[2:]).float()


def Kt_Opa(k: Tensor, importance: Tensor, s: float) -> Tensor:
    """The int(D (1 - s)) channels of each token with the largest importance * abs(k).

    Args:
        k: (batch, heads, tokens, D).
        importance: (batch, heads, D) as ``query_importance`` gives it, or one for each token.
        s: sparsity.
    """
    floating(k, "k", 4)
    sparsity(s, "s")
    weights = importance.float()
    if weights.dim() == 3:
        weights = weights[:, :, None]
    if weights.shape != (*k.shape[:2], weights.shape[2], k.shape[3]) or weights.shape[2] not in (
        1,
        k.shape[2],
    ):
        checks.fail(
            f"importance must be (batch, heads, D) or have the shape of k {shape_text(k)}, got "
            f"{shape_text(importance)}"
        )
    return ref.largest(weights * k.float().abs(), _share(k.shape[-1], s))


def attention_weights(probabilities: Tensor, heads: int, group_size: int = 32) -> Tensor:
    """What the output-aware pruners of V weigh tokens by: (batch, heads, tokens).

    The sum over the query heads of a kv head, and over the last ``group_size`` queries, of the
    attention's probabilities (batch, q_heads, queries, tokens).
    """
    floating(probabilities, "probabilities", 4)
    return _by_head(probabilities, heads)[..., -group_size:, :].sum((2, 3))


def Vt_Opa(v: Tensor, s: float) -> Tensor:
    """The int(D (1 - s)) largest channels of each token of v (..., tokens, D).

    Within a token the attention's weight is one factor of all channels: it does not change their
    order, and is not asked for.
    """
    floating(v, "v")
    sparsity(s, "s")
    return ref.largest(ref.order(v.contiguous()), _share(v.shape[-1], s))


def Vc_Opa(v: Tensor, weights: Tensor, s: float, group_size: int | None = None) -> Tensor:
    """Of each channel the tokens with the largest weights * abs(v), int(count (1 - s)) of them.

    Args:
        v: (..., tokens, D).
        weights: (..., tokens), as ``attention_weights`` gives them.
        s: sparsity.
        group_size: the count of consecutive tokens that compete; None: all of them (a prefill).
    """
    floating(v, "v")
    sparsity(s, "s")
    if weights.shape != v.shape[:-1]:
        checks.fail(
            f"weights must have the shape of v without D, {tuple(v.shape[:-1])}, got "
            f"{shape_text(weights)}"
        )
    count = v.shape[-2] if group_size is None else group_size
    groups = _groups(weights[..., None].float() * v.float().abs(), count, "v")
    return _per_channel(ref.largest(groups, _share(count, s)))


def _without_lowest(score: Tensor, count: int) -> Tensor:
    """True for all but the ``count`` lowest of the last dimension; of equal ones the first go."""
    lowest = torch.sort(score, dim=-1, stable=True).indices[..., :count]
    return torch.ones_like(score, dtype=torch.bool).scatter_(-1, lowest, False)


def ThinK(k: Tensor, q: Tensor, s: float) -> Tensor:
    """All tokens lose the int(D s) channels with the least energy: (batch, heads, 1, D).

    The energy is the mean over the query heads of the mean over the last 32 queries of q^2, times
    the mean over all tokens of k^2.

    Args:
        k: (batch, heads, tokens, D).
        q: (batch, q_heads, queries, D).
        s: sparsity.
    """
    floating(k, "k", 4)
    floating(q, "q", 4)
    sparsity(s, "s")
    queries = _by_head(q, k.shape[1])[..., -32:, :].square().mean((2, 3))
    energy = queries * k.float().square().mean(2)
    return _without_lowest(energy, int(k.shape[-1] * s))[:, :, None]


def ThinV(v: Tensor, s: float) -> Tensor:
    """All tokens lose the int(D s) channels with the least mean of v^2: (batch, heads, 1, D)."""
    floating(v, "v", 4)
    sparsity(s, "s")
    return _without_lowest(v.float().square().mean(2), int(v.shape[-1] * s))[:, :, None]
