"""A model with dynamic tables beside its twin with TorchRec's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from dynamicemb.construct_twin_module import ConstructTwinModule  # noqa: E402
from torchrec import KeyedJaggedTensor  # noqa: E402

TABLES, ROWS, SAMPLES = 2, 100, 6


def _twin(group: Any, **more: Any) -> ConstructTwinModule:
    return ConstructTwinModule(
        **{
            "table_num": TABLES,
            "dims": 8,
            "num_embeddings": ROWS,
            "rank": dist.get_rank(group),
            "world_size": dist.get_world_size(group),
            "device": torch.device("cpu"),
            "process_group": group,
            **more,
        }
    )


def both(group: Any, pooled: bool, optimizer: str, dedup: bool, mode: str) -> list[Any]:
    """Outputs of both models, step by step."""
    params = {"optimizer": optimizer, "learning_rate": 0.1, "eps": 1e-3}
    twin = _twin(
        group,
        is_pooled=pooled,
        pooling_mode=mode,
        optimizer_kwargs=params,
        use_index_dedup=dedup,
        multi_hot_sizes=[2, 3],
        batch_size=SAMPLES,
        init_fn=lambda weights: weights.normal_(0, 0.5),
        dist_type="hash_roundrobin",
    )
    found = []
    for step in range(4):
        draw = torch.Generator().manual_seed(10 * step + dist.get_rank(group))
        lengths = torch.randint(0, 4, (TABLES * SAMPLES,), generator=draw)
        keys = torch.randint(0, ROWS, (int(lengths.sum()),), generator=draw)
        given = KeyedJaggedTensor.from_lengths_sync(["f_0", "f_1"], keys, lengths=lengths)
        outs = []
        for model in (twin.dynamicemb_model, twin.torchrec_model):
            out = model(given).to_dict() if pooled else model(given)
            parts = [out["f_0"], out["f_1"]]
            rows = torch.cat([p if pooled else p.values() for p in parts])
            (rows**2).sum().backward()
            outs.append(rows.detach())
        found.append(outs)
    return found


@pytest.mark.parametrize(
    ("pooled", "optimizer", "dedup", "mode"),
    [
        (True, "SGD", False, "SUM"),
        (True, "EXACT_ADAGRAD", False, "MEAN"),
        (False, "SGD", True, "SUM"),
        (False, "EXACT_ROWWISE_ADAGRAD", False, "SUM"),
    ],
)
def test_dynamic_tables_train_as_static_ones_of_torchrec(
    pool: Pool, pooled: bool, optimizer: str, dedup: bool, mode: str
) -> None:
    for steps in pool.run(both, 2, pooled, optimizer, dedup, mode):
        assert steps[0][0].numel() and steps[0][0].std() > 0.3
        for ours, theirs in steps:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def rewound(group: Any) -> tuple[Tensor, Tensor, Tensor]:
    twin = _twin(group)
    every = KeyedJaggedTensor.from_lengths_sync(
        ["f_0", "f_1"], torch.arange(ROWS).repeat(2), lengths=torch.ones(2 * ROWS, dtype=torch.long)
    )
    ours, theirs = twin.dynamicemb_model, twin.torchrec_model
    first = ours(every).values()
    first.sum().backward()
    trained = ours(every).values().detach()
    twin.init_twin_embedding_model()
    again = ours(every).values().detach()
    assert torch.equal(theirs(every).values(), again)
    return first.detach(), trained, again


def test_the_twin_has_every_row_and_can_be_rewound(pool: Pool) -> None:
    for first, trained, again in pool.run(rewound, 2):
        assert torch.equal(first, again) and not torch.equal(first, trained)


def test_the_ranks_of_another_group_are_named(pool: Pool) -> None:
    said = pool.errors(_wrong, 2)
    assert all("rank and world_size must be those of the process group" in one for one in said)


def _wrong(group: Any) -> None:
    _twin(group, world_size=3)
