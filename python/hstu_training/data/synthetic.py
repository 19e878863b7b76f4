"""Made-up data of the published sets' shapes, whose labels can be learned.

Items belong to groups. A user goes from each group to the next one, most of the time, so the next
item can be foretold from the last ones; the bits of an action depend on how the user's taste suits
the item's group. Lengths, popularity and cardinalities follow the published set's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hstu_training.data.columns import Array, Events, fail
from hstu_training.data.kuairand import CONTEXTS


@dataclass(frozen=True)
class Shape:
    users: int
    items: int
    mean_length: int
    max_length: int
    contexts: dict[str, int]
    action_size: int = 256
    bits: bool = True


def _contexts(degrees: int, fans: int) -> dict[str, int]:
    return dict(zip(CONTEXTS, (degrees, 9, fans, 8, 8), strict=True))


SHAPES = {
    "ml-100k": Shape(943, 1682, 106, 737, {}, 5, False),
    "ml-1m": Shape(6040, 3706, 165, 2314,
                   {"sex": 3, "age_group": 8, "occupation": 22, "zip_code": 3440}, 5, False),
    "ml-20m": Shape(138_493, 26_744, 144, 9254, {}, 10, False),
    "kuairand-pure": Shape(27_285, 7_551, 50, 910, _contexts(10, 10)),
    "kuairand-1k": Shape(1_000, 4_369_953, 5_038, 49_332, _contexts(8, 9)),
    "kuairand-27k": Shape(27_285, 32_038_725, 11_796, 228_000, _contexts(10, 10)),
    "benchmark": Shape(3_200, 1_000_000, 2_048, 2_048, {"ctx_0": 1000, "ctx_1": 100, "ctx_2": 10}),
}  # fmt: skip
_GROUPS = 12
_BASE_RATES = (0.45, 0.05, 0.01, 0.02, 0.02, 0.01, 0.3, 0.03)


def _lengths(draw: np.random.Generator, shape: Shape, users: int, over: int) -> Array:
    if shape.mean_length == shape.max_length:
        return np.full(users, max(8, shape.max_length // over))
    mean, most = max(8, shape.mean_length // over), max(16, shape.max_length // over)
    lengths = draw.lognormal(np.log(mean) - 0.5, 1.0, users)
    return np.asarray(np.clip(lengths.round().astype(np.int64), 8, most))


def make(name: str, seed: int, users: int | None = None, over: int = 1) -> Events:
    """Events of the shape of a published data set.

    Args:
        name: of ``SHAPES``.
        seed: of all draws.
        users: how many; None: as many as published over ``over``.
        over: lengths and the number of items are divided by it.
    """
    if name not in SHAPES:
        fail(f"synthetic-{name}", f"there is none; there are {', '.join(SHAPES)}")
    shape, draw = SHAPES[name], np.random.default_rng(seed)
    count = max(8, shape.users // over) if users is None else users
    items = max(_GROUPS * 4, shape.items // over)
    lengths = _lengths(draw, shape, count, over)
    total = int(lengths.sum())
    owner = np.repeat(np.arange(count), lengths)
    start = draw.integers(0, _GROUPS, count)
    place = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    group = start[owner] + place + (draw.random(total) < 0.1) * draw.integers(0, _GROUPS, total)
    group %= _GROUPS
    rank = (float(items // _GROUPS) ** draw.random(total)).astype(np.int64) - 1  # P ~ 1 / rank
    item_index = rank * _GROUPS + group
    taste = draw.normal(size=(count, 4))
    of_group = draw.normal(size=(_GROUPS, 4))
    suits = (taste[owner] * of_group[group]).sum(1)
    # Raw ids are neither small nor contiguous where the published ones are not.
    ids = item_index + 1 if items < 100_000 else (item_index * 7919 + 13) % (1 << 40)
    return Events(
        owner * 3 + 1, ids, 1_600_000_000 + owner + place * 61, _actions(draw, shape, suits),
        {f: draw.integers(1, size, count) for f, size in shape.contexts.items()},
        np.arange(count) * 3 + 1 if shape.contexts else None, shape.action_size, shape.bits,
    )  # fmt: skip


def _actions(draw: np.random.Generator, shape: Shape, suits: Array) -> Array:
    noise = draw.normal(size=(len(_BASE_RATES), len(suits)))
    if shape.bits:
        bits = np.zeros(len(suits), np.int64)
        for bit, rate in enumerate(_BASE_RATES):
            score = suits * (1.0 - 0.08 * bit) + noise[bit]
            bits |= (score > np.quantile(score, 1 - rate)).astype(np.int64) << bit
        return bits
    score = suits + 0.7 * noise[0]
    classes: Array = (score.argsort().argsort() * shape.action_size) // len(score)
    return classes
