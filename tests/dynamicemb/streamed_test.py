"""Distinct keys that go through a table much smaller than their number: none is lost or doubled.

DYNAMICEMB_STREAM_KEYS says how many (default 200,000); the table has a twentieth as many rows.
"""

from __future__ import annotations

import os

import torch
from dynamicemb.key_value_table import EVICTED, FIND_OR_INSERT, INSERTED, REFUSED
from torch import Tensor

from tests.dynamicemb.cases import tables

KEYS = int(os.environ.get("DYNAMICEMB_STREAM_KEYS", 200_000))
ODD = 0x9E3779B97F4A7C15 - 2**64  # key i of the stream is i * ODD: distinct, and all over


def digest(keys: Tensor) -> tuple[int, int, int]:
    """Number, sum, and sum of hashes of keys, modulo 2^64: of a set, whatever its order."""
    mixed = (keys ^ (keys >> 29)) * -4658895280553007687
    return len(keys), int(keys.sum()), int((mixed ^ (mixed >> 32)).sum())


def test_evicted_and_live_keys_are_those_inserted(device: str) -> None:
    module = tables([4], device, "NONE", max_capacity=KEYS // 20)
    first, step = module.tiers.first, min(1 << 20, KEYS // 8)
    came, went, refused = [0, 0, 0], [0, 0, 0], 0
    for begin in range(0, KEYS - step + 1, step):
        keys = torch.arange(begin, begin + step, device=device) * ODD
        ends = torch.tensor([0, step], device=device)
        written = first.write(FIND_OR_INSERT, keys, ends, report=True)
        new = (written.status == INSERTED) | (written.status == EVICTED)
        refused += int((written.status == REFUSED).sum())
        assert torch.equal(new, written.rows != 0)
        left = written.evicted_keys[: int(written.evicted_count)]
        came = [a + b for a, b in zip(came, digest(keys[new]), strict=True)]
        went = [a + b for a, b in zip(went, digest(left), strict=True)]
    live = torch.cat([keys for keys, _, _ in first.export(0, values=False)])
    there = digest(live)
    assert len(torch.unique(live)) == len(live) == int(first.sizes()[0, 0])
    assert came[0] == went[0] + there[0] and came[0] + refused == KEYS // step * step
    for all_in, out, rest in zip(came, went, there, strict=True):
        assert (all_in - out - rest) % 2**64 == 0
    assert len(live) > 0.98 * (KEYS // 20)
