"""A module against dictionaries, in any order of calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicemb import Storage
from dynamicemb.types import FindResult
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from tests.dynamicemb.cases import first_row, on, tables

KEYS = st.sampled_from([0, 1, 2, 3, 5, -1, 2**63 - 1, -(2**63), 77, 78, 79, 80])
BATCHES = st.lists(st.lists(KEYS, max_size=4), min_size=2, max_size=2)
DIMS = (3, 8)


class DiskStorage(Storage):
    """Rows in files, one a key: what leaves the tables goes there and comes back."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())

    def path(self, key: int, table: int) -> Path:
        return self.folder / f"{table}_{key}"

    def find(
        self, unique_keys: Tensor, table_ids: Tensor, copy_mode: object = None,
        lfu_accumulated_frequency: Tensor | None = None,
    ) -> FindResult:  # fmt: skip
        rows: list[Tensor | None] = []
        for key, table in zip(unique_keys.tolist(), table_ids.tolist(), strict=True):
            path = self.path(key, table)
            rows.append(torch.load(path) if path.exists() else None)
        width = max((len(row) for row in rows if row is not None), default=1)
        values = torch.zeros(len(rows), width)
        founds = torch.tensor([row is not None for row in rows], dtype=torch.bool)
        for i, row in enumerate(rows):
            if row is not None:
                values[i] = row
        missing = torch.nonzero(~founds)[:, 0]
        absent = (unique_keys[missing], missing, table_ids[missing])
        return FindResult(len(missing), *absent, None, founds, None, values)

    def insert(
        self, keys: Tensor, table_ids: Tensor, values: Tensor, scores: Tensor | None = None,
        preserve_existing: bool = False,
    ) -> None:  # fmt: skip
        for key, table, row in zip(keys.tolist(), table_ids.tolist(), values, strict=True):
            if not (preserve_existing and self.path(key, table).exists()):
                torch.save(row.clone(), self.path(key, table))

    def export_keys_values(
        self, table_id: int, device: torch.device, batch_size: int = 65536
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for path in self.folder.glob(f"{table_id}_*"):
            yield torch.tensor([int(path.name.partition("_")[2])]), torch.load(path)[None]

    def erase(self, keys: Tensor, table_ids: Tensor) -> None:
        for key, table in zip(keys.tolist(), table_ids.tolist(), strict=True):
            self.path(key, table).unlink(missing_ok=True)


class Machine(RuleBasedStateMachine):
    """SGD with rate 1 and whole gradients: every row is exact in float32 up to rounding."""

    device = "cpu"
    changes: dict[str, Any] = {}  # noqa: RUF012 - subclasses give their own
    keeps_all = True

    @initialize()
    def start(self) -> None:
        changes = {k: v() if k == "external_storage" else v for k, v in self.changes.items()}
        self.make = lambda: tables(DIMS, self.device, "SUM", learning_rate=1.0, **changes)
        self.module = self.make()
        self.rows: list[dict[int, Tensor]] = [{}, {}]
        self.since: list[set[int]] = [set(), set()]
        self.score = 0
        self.set_score()
        self.scores = self.module.get_score()
        self.folder = Path(tempfile.mkdtemp())
        self.saved: list[dict[int, Tensor]] | None = None

    def batch(self, keys: list[list[int]]) -> tuple[Tensor, Tensor]:
        flat = [key for some in keys for key in some]
        ids, offsets = on(self.device, flat, [0, len(keys[0]), len(flat)])
        return ids, offsets

    def sums(self, keys: list[list[int]], train: bool) -> Tensor:
        out = torch.zeros(1, sum(DIMS), dtype=torch.float64)
        for t, (some, at) in enumerate(zip(keys, (0, DIMS[0]), strict=True)):
            for key in some:
                new = first_row(DIMS[t], t, key) if train else torch.zeros(DIMS[t]).double()
                out[0, at : at + DIMS[t]] += self.rows[t].get(key, new)
        return out

    def close(self, got: Tensor, wanted: Tensor) -> None:
        assert torch.allclose(got.detach().cpu().double(), wanted, atol=1e-4), (got, wanted)

    @rule()
    def set_score(self) -> None:
        if self.changes.get("score_strategy") == "CUSTOMIZED":
            self.score += 1
            self.module.set_score({"table0": self.score, "table1": self.score})

    def present(self, table: int) -> set[int]:
        pieces = self.module.export_keys_values(f"table{table}")
        return {key for keys, _ in pieces for key in keys.tolist()}

    def forget_evicted(self) -> None:
        """What left, by what the module says, is not in the dictionaries either."""
        if self.module.tiers.capture:
            for t, keys in enumerate(self.module.pop_evicted_keys().values()):
                for key in keys.tolist():
                    assert self.rows[t].pop(key, None) is not None
                    self.since[t].discard(key)

    @rule(keys=BATCHES)
    def train(self, keys: list[list[int]]) -> None:
        out = self.module.train()(*self.batch(keys))
        self.forget_evicted()
        self.close(out, self.sums(keys, True))
        out.backward(torch.ones_like(out))
        full = self.module.tiers.capture  # a key may have found no room
        for t, some in enumerate(keys):
            there = self.present(t) if full else set(some)
            for key in [key for key in some if key in there]:
                row = self.rows[t].setdefault(key, first_row(DIMS[t], t, key))
                self.rows[t][key] = row - 1
                self.since[t].add(key)

    @rule(keys=BATCHES)
    def evaluate(self, keys: list[list[int]]) -> None:
        self.close(self.module.eval()(*self.batch(keys)), self.sums(keys, False))

    @rule(keys=st.lists(KEYS, max_size=3, unique=True), table=st.integers(0, 1))
    def erase(self, keys: list[int], table: int) -> None:
        gone = self.module.erase(f"table{table}", torch.tensor(keys, dtype=torch.int64))
        if self.module.tiers.external is None:
            assert gone.tolist() == [key in self.rows[table] for key in keys]
        for key in keys:
            self.rows[table].pop(key, None)
            self.since[table].discard(key)

    @rule()
    def dump(self) -> None:
        if self.module.tiers.external is None:
            self.module.dump(str(self.folder / "dump"), optim=True)
            self.saved = [dict(rows) for rows in self.rows]

    @rule(keys=BATCHES)
    def dump_beside_a_step(self, keys: list[list[int]]) -> None:
        if self.module.tiers.external is None:
            before = [dict(rows) for rows in self.rows]
            dump = self.module.dump(str(self.folder / "dump"), optim=True, blocking=False)
            assert dump is not None
            self.train(keys)
            dump.wait()
            self.saved = before

    @rule()
    def restart(self) -> None:
        if self.saved is not None:
            self.module = self.make()
            self.module.load(str(self.folder / "dump"), optim=True)
            self.rows = [dict(rows) for rows in self.saved]
            self.set_score()
            self.scores, self.since = self.module.get_score(), [set(), set()]

    @rule()
    def increment(self) -> None:
        if self.module.tiers.external is not None:
            return
        found, self.scores = self.module.incremental_dump(self.scores)
        for t, since in enumerate(self.since):
            keys, values = found[f"table{t}"]
            assert set(keys.tolist()) == since
            for key, value in zip(keys.tolist(), values, strict=True):
                self.close(value, self.rows[t][key])
        self.since = [set(), set()]
        if self.score:  # what is written from now on is greater than what was written before
            self.set_score()
            self.scores = self.module.get_score()

    @rule()
    def flush(self) -> None:
        self.module.flush()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "module") and self.module.tiers.external is None:
            for t, rows in enumerate(self.rows):
                found: dict[int, Tensor] = {}
                for keys, values in self.module.export_keys_values(f"table{t}"):
                    found.update(zip(keys.tolist(), values, strict=True))
                assert set(found) == set(rows)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam_rows": {"optimizer": "SGD", "init_capacity": 8},
    "growing": {"init_capacity": 2, "max_load_factor": 0.9},
    "no_eviction": {"max_capacity": 4, "score_strategy": "NO_EVICTION"},
    "step": {"score_strategy": "STEP"},
    "customized": {"score_strategy": "CUSTOMIZED"},
    "evicting": {"max_capacity": 5, "capture_evicted": True},
    "lru_lfu": {"score_strategy": ("TIMESTAMP", "LFU")},
    # A cache of four rows before a table that holds all: rows move all the time.
    "caching": {"caching": True, "max_capacity": 12, "local_hbm_for_values": 1 << 14},
    "external": {"external_storage": DiskStorage, "max_capacity": 5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_order_of_calls_tells_it_from_dictionaries(device: str, kind: str) -> None:
    changes = KINDS[kind]
    machine = type("M", (Machine,), {"device": device, "changes": changes})
    case = machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=20)
    case().runTest()
