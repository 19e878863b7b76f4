"""Caches to be tried, and what is right about an attention output."""

from __future__ import annotations

import torch
from mustafar import MustafarCache, ref
from torch import Tensor

TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}


def dtype_of(device: str) -> torch.dtype:
    return torch.float16 if device == "cuda" else torch.float32


def normal(*shape: int, device: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def filled(
    lengths: list[int],
    heads: int,
    head_dim: int,
    *,
    device: str,
    dtype: torch.dtype,
    **options: object,
) -> tuple[MustafarCache, Tensor, Tensor]:
    """A cache with so many random tokens in each sequence, and the dense keys and values."""
    longest = max(lengths)
    options = {"capacity": longest + 1} | options
    cache = MustafarCache(len(lengths), heads, head_dim, device=device, dtype=dtype, **options)  # type: ignore[arg-type]
    shape = (len(lengths), heads, longest, head_dim)
    k = normal(*shape, device=device, dtype=dtype, seed=1)
    v = normal(*shape, device=device, dtype=dtype, seed=2)
    cache.prefill(k, v, lengths)
    return cache, k, v


def pruned(x: Tensor, count: int, compressed: int) -> Tensor:
    """(heads, tokens, D) whose first tokens keep their ``count`` largest channels: an independent
    reading of the rule, by ranks."""
    order = x[:, :compressed].abs().double()
    ahead = order[..., None, :] > order[..., :, None]
    channel = torch.arange(x.shape[-1], device=x.device)
    first = (order[..., None, :] == order[..., :, None]) & (channel[None, :] < channel[:, None])
    stays = (ahead | first).sum(-1) < count
    return torch.cat([x[:, :compressed].where(stays, 0), x[:, compressed:]], 1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(q_heads, D) over (heads, tokens, D), in float64."""
    groups = q.shape[0] // k.shape[0]
    k, v = (x.double().repeat_interleave(groups, 0) for x in (k, v))
    scores = (k @ q.double()[..., None])[..., 0] * scale
    return (scores.softmax(-1)[:, None] @ v)[:, 0]


def assert_right(got: Tensor, exact: Tensor) -> None:
    """The largest error is small beside the output's norm over its channels."""
    assert got.shape == exact.shape
    assert torch.isfinite(got).all()
    error = (got.double() - exact).abs().max()
    norm = exact.norm(dim=-1).max()
    assert error <= TOLERANCE[got.dtype] * norm, f"error {error}, norm {norm}"


def assert_like_ref(got: Tensor, q: Tensor, cache: MustafarCache) -> None:
    scale = cache.head_dim**-0.5
    assert_right(got, ref.decode(q.double(), cache.tensors, scale))
