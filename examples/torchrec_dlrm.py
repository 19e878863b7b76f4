"""A small DLRM whose tables are dynamic and sharded by TorchRec.

    torchrun --nproc-per-node 2 examples/torchrec_dlrm.py

Without a GPU over gloo. `python -m dynamicemb torchrec` says what to install.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from dynamicemb import DynamicEmbTableOptions
from dynamicemb.get_planner import get_planner
from dynamicemb.shard import DynamicEmbeddingBagCollectionSharder
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel

FEATURES = ["user", "item"]
DIM, DENSE = 16, 4


class Dlrm(nn.Module):
    """Dense features through a layer, dot products with the pooled rows, a layer on top."""

    def __init__(self, tables: list[EmbeddingBagConfig], device: torch.device) -> None:
        super().__init__()
        self.sparse = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.bottom = nn.Sequential(nn.Linear(DENSE, DIM, device=device), nn.ReLU())
        self.top = nn.Linear(DIM + 3, 1, device=device)

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        below = self.bottom(dense)
        rows = self.sparse(sparse)
        parts = torch.stack([below, *(rows[name] for name in FEATURES)], 1)
        pairs = (parts @ parts.transpose(1, 2))[:, [0, 0, 1], [1, 2, 2]]
        logits: Tensor = self.top(torch.cat([below, pairs], 1))
        return logits.squeeze(1)


def batch(samples: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys anywhere in 63 bits; a sample is liked if the hidden tastes of its keys agree."""
    few = torch.randint(0, 40, (2, samples), generator=draw)
    likes = (few[0] % 2 == few[1] % 2).float()
    dense = torch.rand(samples, DENSE, generator=draw)
    return dense, few.reshape(-1) * (2**57 - 1), torch.ones(2 * samples, dtype=torch.long), likes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples", type=int, default=256, help="of a rank")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if on_gpu else "cpu"
    device = torch.device(device)
    if on_gpu:
        torch.cuda.set_device(device)
    torch.manual_seed(0)

    tables = [
        EmbeddingBagConfig(name=f, embedding_dim=DIM, num_embeddings=10_000, feature_names=[f])
        for f in FEATURES
    ]
    model = Dlrm(tables, device)
    sharder = DynamicEmbeddingBagCollectionSharder({"optimizer": "ADAM", "learning_rate": 0.02})
    options = {name: DynamicEmbTableOptions(dist_type="hash_roundrobin") for name in FEATURES}
    plan = get_planner(tables, [], options, device).collective_plan(model, [sharder])
    sharded = DistributedModelParallel(model, device=device, plan=plan, sharders=[sharder])
    dense = [p for name, p in sharded.named_parameters() if "sparse" not in name]
    optimizer = torch.optim.Adam(dense, lr=0.01)  # the rows' runs in the backward

    draw = torch.Generator().manual_seed(rank)
    for step in range(args.steps):
        numbers, keys, lengths, likes = batch(args.samples, draw)
        sparse = KeyedJaggedTensor.from_lengths_sync(FEATURES, keys, lengths=lengths).to(device)
        optimizer.zero_grad()
        logits = sharded(numbers.to(device), sparse)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, likes.to(device))
        loss.backward()
        optimizer.step()
        if rank == 0 and (step % 20 == 0 or step == args.steps - 1):
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
