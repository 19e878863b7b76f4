"""What a rank does for others (dynamicemb.owner): slots that hold no key."""

from __future__ import annotations

import pytest
import torch
from dynamicemb import DynamicEmbeddingCollection, EmbeddingConfig
from dynamicemb.owner import Owner


@pytest.mark.parametrize("slots", [96, 128])
@pytest.mark.parametrize("free", [0, 50, 96])
def test_slots_without_a_key_change_no_row(device: str, slots: int, free: int) -> None:
    n = slots - free
    tables = [EmbeddingConfig("t", 6, 4096, ["f"])]
    made = DynamicEmbeddingCollection(
        tables, device, fused_params={"optimizer": "SGD", "learning_rate": 0.5}
    )
    owner = Owner(made.groups[0], 2, None)
    draw = torch.Generator().manual_seed(slots + n)
    order = torch.randperm(slots, generator=draw)
    keys = torch.arange(100, 100 + slots)  # those behind the first n are none
    grads = torch.randn(slots, owner.width, generator=draw)
    given = [x.to(device) for x in (keys, torch.tensor([0, n]), order)]

    served = owner.rows(*given, None, True)
    before = served.out.cpu()
    real = order < n
    assert before[real, :6].any(1).all()
    owner.update(served, grads.to(device))

    made.eval()
    after = owner.rows(*given, None, True).out.cpu()
    wanted = (before - 0.5 * grads)[real, :6]
    torch.testing.assert_close(after[real, :6], wanted, rtol=0, atol=1e-6)
