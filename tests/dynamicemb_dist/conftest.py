"""The pool of processes of each test file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dynamicemb_dist.pool import Pool

RANKS = 4


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    made = Pool(RANKS, ["torch", "dynamicemb"])
    yield made
    made.end()
