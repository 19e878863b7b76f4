"""What the ops compute, in plain Python and PyTorch, one key and one bag after the other.

Tests compare with it; nothing else imports it. Numbers are float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

M32, M64 = 2**32 - 1, 2**64 - 1


def segmented_unique(
    keys: list[int], offsets: list[int], frequencies: list[int] | None = None
) -> tuple[list[int], list[int], list[int], list[int]]:
    """unique, inverse, unique_offsets, counts; in the order of first occurrence."""
    unique: list[int] = []
    inverse = []
    counts: list[int] = []
    ends = [0]
    for begin, end in itertools.pairwise(offsets):
        seen: dict[int, int] = {}
        for i in range(begin, end):
            if keys[i] not in seen:
                seen[keys[i]] = len(unique)
                unique.append(keys[i])
                counts.append(0)
            inverse.append(seen[keys[i]])
            counts[inverse[-1]] += frequencies[i] if frequencies else 1
        ends.append(len(unique))
    return unique, inverse, ends, counts


def philox(seed: int, key: int, block: int) -> list[int]:
    """Philox4x32-10: four words for a counter (key, block) under a seed."""
    seed, key, block = seed & M64, key & M64, block & M64
    c = [key & M32, key >> 32, block & M32, block >> 32]
    k = [seed & M32, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & M32, (a >> 32) ^ c[3] ^ k[1], a & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def _inverse_normal(p: float) -> float:
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def initial_row(mode: str, numbers: Sequence[float], seed: int, key: int, dim: int) -> list[float]:
    """``mode`` and the four numbers of ``dynamicemb.initializer.init_words``."""
    if mode == "constant":
        return [numbers[0]] * dim
    if mode == "debug":
        return [float(key % 100000)] * dim
    row = []
    for column in range(dim):
        whole = philox(seed, key, column // 4)[column % 4] >> 8
        if mode == "uniform":
            low, high = numbers[:2]
            row.append(low + (high - low) * whole * 2**-24)
            continue
        mean, deviation, low, high = numbers
        x = low + (high - low) * (whole + 0.5) * 2**-24
        x = max(-1 + 2**-23, min(1 - 2**-23, x))
        row.append(mean + deviation * _inverse_normal((1 + x) / 2))
    return row


def lookup(
    rows: Sequence[Tensor],
    inverse: Sequence[int],
    offsets: Sequence[int],
    features: int,
    pooling: str,
    weights: Tensor | None = None,
) -> Tensor:
    """(batch, sum of dims): bags of feature f and sample b are number f * batch + b."""
    batch = (len(offsets) - 1) // features
    columns = []
    for f in range(features):
        bags = []
        for b in range(batch):
            begin, end = offsets[f * batch + b], offsets[f * batch + b + 1]
            terms = [
                rows[inverse[i]] if weights is None else rows[inverse[i]] * weights[i]
                for i in range(begin, end)
            ]
            bag = torch.stack(terms).sum(0) if terms else None
            if bag is not None and pooling == "mean":
                bag = bag / (end - begin)
            bags.append(bag)
        dim = next((len(bag) for bag in bags if bag is not None), 0)
        columns.append(
            torch.stack([torch.zeros(dim, dtype=torch.float64) if x is None else x for x in bags])
        )
    return torch.cat(columns, 1)


Step = Callable[[dict[str, Any], Tensor], None]


def optimizer_step(kind: str, row: dict[str, Any], g: Tensor, h: dict[str, float]) -> None:
    """Updates ``row`` (w, s0, s1, step; float64) by the gradient ``g``; ``h`` are the numbers.

    kind: sgd, adam, adagrad, rowwise_adagrad, ftrl. ``h["l2_decay"]`` is added to the gradient,
    ``h["decoupled"]`` taken off the weight.
    """
    w, lr, eps = row["w"], h["lr"], h["eps"]
    g = g + h.get("l2_decay", 0.0) * w
    off = lr * h.get("decoupled", 0.0) * w
    if kind == "sgd":
        row["w"] = w - lr * g
    elif kind == "adam":
        row["step"] += 1
        row["s0"] = h["beta1"] * row["s0"] + (1 - h["beta1"]) * g
        row["s1"] = h["beta2"] * row["s1"] + (1 - h["beta2"]) * g * g
        m = row["s0"] / (1 - h["beta1"] ** row["step"])
        v = row["s1"] / (1 - h["beta2"] ** row["step"])
        row["w"] = w - lr * m / (v.sqrt() + eps)
    elif kind == "adagrad":
        row["s0"] = row["s0"] + g * g
        row["w"] = w - lr * g / (row["s0"].sqrt() + eps)
    elif kind == "rowwise_adagrad":
        row["s0"] = row["s0"] + (g * g).mean()
        row["w"] = w - lr * g / (math.sqrt(row["s0"]) + eps)
    else:
        p = -h["power"]
        n = row["s1"] + g * g
        row["s0"] = row["s0"] + g - (n**p - row["s1"] ** p) / lr * w
        row["s1"] = n
        z = row["s0"]
        shrunk = -(z - z.sign() * h["l1"]) / ((h["ftrl_beta"] + n**p) / lr + 2 * h["l2"])
        row["w"] = torch.where(z.abs() <= h["l1"], torch.zeros_like(z), shrunk)
    row["w"] = row["w"] - off
    if h.get("max_norm", 0.0) > 0 and (norm := float(row["w"].norm())) > h["max_norm"]:
        row["w"] = row["w"] * (h["max_norm"] / norm)


def mix(x: int) -> int:
    """The finalizer of MurmurHash3, 64 bits."""
    x &= M64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33)) * factor & M64
    return x ^ (x >> 33)


def deal(dist: str, key: int, world: int, block: int) -> tuple[int, int]:
    """The rank that a key goes to, and its number there."""
    x = key & M64
    if dist == "continuous":
        rank = x // block if block else world
        return (rank, x % block) if rank < world else (x % world, x // world)
    return (mix(x) if dist == "hash_roundrobin" else x) % world, key


def bucketize(
    keys: list[int], offsets: list[int], dists: list[str], blocks: list[int], world: int
) -> tuple[list[int], list[int], list[int]]:
    """New lengths (world * bags), new keys, and where each occurrence went."""
    bags = len(offsets) - 1
    batch = bags // len(dists)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(world * bags)]
    for bag in range(bags):
        feature = bag // batch
        for i in range(offsets[bag], offsets[bag + 1]):
            rank, key = deal(dists[feature], keys[i], world, blocks[feature])
            parts[rank * bags + bag].append((i, key))
    flat = [entry for part in parts for entry in part]
    permute = [0] * len(keys)
    for to, (i, _) in enumerate(flat):
        permute[i] = to
    signed = [key - 2**64 if key >= 2**63 else key for _, key in flat]
    return [len(part) for part in parts], signed, permute
