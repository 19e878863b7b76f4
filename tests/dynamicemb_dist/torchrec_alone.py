"""A process trains a TorchRec model without FBGEMM, or with ``--fbgemm``: a script of tests."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from dynamicemb import torchrec_compat

if "--fbgemm" not in sys.argv:
    torchrec_compat.use_stubs()
    torchrec_compat.use_stubs()  # it may be called again

from dynamicemb import DynamicEmbTableOptions
from dynamicemb.planner import (
    DynamicEmbeddingShardingPlanner,
    DynamicEmbParameterConstraints,
)
from dynamicemb.shard import DynamicEmbeddingBagCollectionSharder
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel


def main() -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    tables = [EmbeddingBagConfig(name="t", embedding_dim=8, num_embeddings=99, feature_names=["f"])]
    model = torch.nn.Sequential(EmbeddingBagCollection(tables=tables, device=torch.device("meta")))
    sharder = DynamicEmbeddingBagCollectionSharder({"optimizer": "SGD", "learning_rate": 1.0})
    one = DynamicEmbParameterConstraints(
        use_dynamicemb=True, dynamicemb_options=DynamicEmbTableOptions()
    )
    planner = DynamicEmbeddingShardingPlanner(tables, constraints={"t": one}, debug=False)
    plan = planner.collective_plan(model, [sharder])
    plan = pickle.loads(pickle.dumps(plan))  # as rank 0's goes to the others
    made = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=plan, sharders=[sharder]
    )
    keys, lengths = torch.tensor([7, -5, 7, 2**62]), torch.tensor([2, 1, 1])
    given = KeyedJaggedTensor.from_lengths_sync(["f"], keys, lengths=lengths)
    first = made(given).values()
    first.sum().backward()
    second = made(given).values()
    # Key 7 occurs twice: each of its gradients is 1, and the rate is 1.
    torch.testing.assert_close(second, first - torch.tensor([[3.0], [2.0], [1.0]]))
    maps = Path("/proc/self/maps").read_text().splitlines()
    print("trained; fbgemm:", sorted({line for line in maps if "fbgemm" in line.lower()}))


if __name__ == "__main__":
    main()
