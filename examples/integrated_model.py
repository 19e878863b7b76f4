"""HSTU attention over dynamic embeddings: python examples/integrated_model.py

Sequences of raw 64-bit item ids, of different lengths; the model learns the group of the item that
follows. The rows of the items come from a dynamic table, the sequences are mixed by HSTU attention.
Runs on a GPU if there is one, else on the CPU.
"""

from __future__ import annotations

import torch
from dynamicemb import DynamicEmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from hstu_attn import hstu_attn_varlen_func
from torch import nn

HEADS, DIM, GROUPS, BATCH, LONGEST, STEPS = 2, 32, 4, 32, 16, 60
ITEMS = 300


class Model(nn.Module):
    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        table = EmbeddingConfig("items", HEADS * DIM, 5000, ["item"])
        params = {"optimizer": "ADAM", "learning_rate": 0.01}
        self.items = DynamicEmbeddingCollection([table], device, fused_params=params)
        self.qkv = nn.Linear(HEADS * DIM, 3 * HEADS * DIM, device=device)
        self.head = nn.Linear(HEADS * DIM, GROUPS, device=device)
        self.dtype = dtype

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(total, GROUPS): what follows each position."""
        rows = self.items(KeyedJaggedTensor(["item"], ids, lengths))["item"].values()
        q, k, v = self.qkv(rows).to(self.dtype).view(-1, 3, HEADS, DIM).unbind(1)
        cu = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        mixed = hstu_attn_varlen_func(q, k, v, cu, cu, LONGEST, LONGEST, causal=True)
        return self.head(rows + mixed.flatten(1).to(rows.dtype))


def batch(step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, lengths, and the group of the item that follows each: one more than its own."""
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(3, LONGEST, (BATCH,), generator=generator)
    items = torch.randint(0, ITEMS, (int(lengths.sum()),), generator=generator)
    following = (items % GROUPS + 1) % GROUPS
    return ((items + 1) * 10**15).to(device), lengths.to(device), following.to(device)


def main() -> None:
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model = Model(device, torch.bfloat16 if cuda else torch.float32)
    dense = torch.optim.Adam([*model.qkv.parameters(), *model.head.parameters()], lr=0.01)
    print(f"device: {device.type}")
    losses = []
    for step in range(STEPS):
        ids, lengths, target = batch(step, device)
        loss = nn.functional.cross_entropy(model(ids, lengths), target)
        dense.zero_grad()
        loss.backward()  # the items' rows are updated in here
        dense.step()
        losses.append(loss.item())
        if step % 10 == 0:
            print(f"step {step:3d}  loss {losses[-1]:.4f}")
    print(f"last loss {losses[-1]:.4f}")
    assert losses[-1] < losses[0] / 2, "the loss must fall"


if __name__ == "__main__":
    main()
