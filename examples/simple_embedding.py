"""Learns whether a user likes an item, from raw 64-bit ids: python examples/simple_embedding.py

Ids need no vocabulary: a table of 2,000 rows serves a stream of ids, new ones get a row, and the
ones that were not seen for the longest leave. Runs on a GPU if there is one, else on the CPU.
"""

from __future__ import annotations

import torch
from dynamicemb import DynamicEmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

BATCH, STEPS, USERS, ITEMS, DIM = 512, 120, 1500, 800, 16


def batch(step: int, device: torch.device) -> tuple[KeyedJaggedTensor, torch.Tensor]:
    """Users and items of a hidden two-class model, as ids that fill 64 bits."""
    generator = torch.Generator().manual_seed(step)
    users = torch.randint(0, USERS, (BATCH,), generator=generator)
    items = torch.randint(0, ITEMS, (BATCH,), generator=generator)
    likes = (users % 2 == items % 2).float()
    ids = torch.cat([users, items + 10**6]) * 7919 * 10**9  # not contiguous
    ones = torch.ones(2 * BATCH, dtype=torch.int64)
    return KeyedJaggedTensor(["user", "item"], ids.to(device), ones.to(device)), likes.to(device)


def main() -> None:
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig("users", DIM, 2000, ["user"]),
        EmbeddingBagConfig("items", DIM, 2000, ["item"]),
    ]
    ebc = DynamicEmbeddingBagCollection(
        tables, fused_params={"optimizer": "ADAM", "learning_rate": 0.05}
    )
    print(f"device: {ebc.device.type}")
    losses = []
    for step in range(STEPS):
        ids, likes = batch(step, ebc.device)
        out = ebc(ids)
        score = (out["user"] * out["item"]).sum(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, likes)
        loss.backward()  # the tables are updated in here
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step:3d}  loss {losses[-1]:.4f}")
    rows = {name: t["rows"] for name, t in ebc.groups[0].stats()["tables"].items()}
    print(f"last loss {losses[-1]:.4f}; rows {rows}")
    assert losses[-1] < losses[0] / 2, "the loss must fall"


if __name__ == "__main__":
    main()
