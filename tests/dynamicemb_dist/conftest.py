"""The pool of processes of each test file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dynamicemb_dist.pool import Pool

RANKS = 4


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    # Those that need TorchRec are not loaded where it is not.
    made = Pool(RANKS, ["torch", "dynamicemb", "dynamicemb.planner", "dynamicemb.shard"])
    yield made
    made.end()
