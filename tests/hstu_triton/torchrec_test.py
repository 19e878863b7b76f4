"""The ranking model on TorchRec's own batches, configs and collection."""

from __future__ import annotations

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.modules.dlrm_hstu import DlrmHSTU

from tests.hstu_triton import dlrm_hstu_test as dlrm

pytest.importorskip("torchrec", reason="torchrec is not installed")


def test_the_collection_is_made_from_the_tables_and_trains() -> None:
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

    tables = {
        name: EmbeddingConfig(
            name=name, embedding_dim=dlrm.DIM, num_embeddings=dlrm.IDS, feature_names=features
        )
        for name, features in dlrm.TABLES.items()
    }
    torch.manual_seed(0)
    made = DlrmHSTU(dlrm.config(), tables, is_inference=False, bf16_training=False)
    assert {p.device.type for p in made._embedding_collection.parameters()} == {"meta"}
    made.set_hammer_kernel(HammerKernel.PYTORCH)
    collection = EmbeddingCollection(tables=list(tables.values()), device=torch.device("cpu"))
    made._embedding_collection = collection
    dlrm.assert_falls(dlrm.losses_of_training(made, KeyedJaggedTensor))
