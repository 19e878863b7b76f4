"""Tables over the ranks of a node. TorchRec makes groups of the nodes once for all processes, which
therefore serve nothing else."""

from __future__ import annotations

import pytest

from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import Model, assert_same  # noqa: E402


@pytest.mark.parametrize(
    "model",
    [
        Model("SUM", "continuous"),
        Model("SUM", "hash_roundrobin", weighted=True),
        Model("MEAN", optimizer="SGD"),
    ],
)
def test_tables_over_the_ranks_of_a_node_train_as_one_table(pool: Pool, model: Model) -> None:
    """Two nodes of two ranks."""
    got = assert_same(pool, model._replace(sharding="table_row_wise", node=2), 4)
    owned = [frozenset(name for name, (keys, _) in rank[1].items() if keys) for rank in got]
    assert owned[0] == owned[1] and owned[2] == owned[3] and not owned[0] & owned[2]
