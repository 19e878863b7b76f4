"""Dynamic tables under TorchRec's DistributedModelParallel train as one table would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dynamicemb_dist.pool import Pool

torchrec = pytest.importorskip("torchrec")

from tests.dynamicemb_dist.torchrec_cases import Model, assert_same, train  # noqa: E402

DISTS = ("continuous", "roundrobin", "hash_roundrobin")


@pytest.mark.parametrize("dist_type", DISTS)
@pytest.mark.parametrize("dedup", [False, True])
def test_sequences_train_exactly_as_one_table(pool: Pool, dist_type: str, dedup: bool) -> None:
    assert_same(pool, Model("sequence", dist_type, dedup=dedup))


@pytest.mark.parametrize("dist_type", DISTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_train_as_one_table(pool: Pool, dist_type: str, weighted: bool) -> None:
    assert_same(pool, Model("SUM", dist_type, weighted))


def test_rows_are_no_parameters(pool: Pool) -> None:
    """Of SGD: means are the same to rounding; what the state dict has are placeholders."""
    for _, _, names, *_ in pool.run(train, 2, Model("SUM", steps=1)):
        assert names == [f"sparse.embedding_bags.t{t}.weight" for t in range(3)]


def fbgemm_files(group: Any) -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in maps if "fbgemm" in line.lower()})


def test_no_fbgemm_built_for_cuda_is_loaded(pool: Pool) -> None:
    """What has trained above has FBGEMM's library, and it knows no CUDA."""
    assert pool.run(train, 2, Model(steps=1))
    for files in pool.run(fbgemm_files, 2):
        libraries = [file for file in files if ".so" in file]
        assert libraries
        for file in libraries:
            assert b"libcudart" not in Path(file).read_bytes(), file
