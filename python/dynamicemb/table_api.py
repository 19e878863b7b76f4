"""What a module of tables offers besides its lookups: scores, sizes, keys, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamicemb import dump_beside, dump_load, dump_ranks
from dynamicemb.arguments import checks
from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.key_value_table import Tiers
from dynamicemb.optimizer import RowLayout, RowOptimizer
from dynamicemb.scores import Scores
from dynamicemb.types import Counter


class TableApi(nn.Module):
    """The part of ``BatchedDynamicEmbeddingTablesV2`` that trains nothing."""

    options: list[DynamicEmbTableOptions]
    layouts: list[RowLayout]
    tiers: Tiers
    device: torch.device
    feature_table_map: list[int]
    prefetch_pipeline: bool
    _names: list[str]
    _optimizer: RowOptimizer
    _scores: Scores
    _counter: Counter | None
    part: dump_ranks.Part | None = None  # of tables that are dealt out to ranks

    def _prepare(
        self,
        indices: Tensor,
        offsets: Tensor,
        frequencies: Tensor | None,
        pin: bool = False,
        sorts: bool = False,
    ) -> Any:
        raise NotImplementedError

    def _unpin(self, lookup: Any) -> None:
        self.tiers.first.unlock(lookup.keys, lookup.row_offsets)

    @property
    def table_names(self) -> list[str]:
        return list(self._names)

    @property
    def optimizer(self) -> RowOptimizer:
        return self._optimizer

    @property
    def tables(self) -> Tiers:
        return self.tiers

    @property
    def cache(self) -> Any:
        """The set in front of the host's, or None."""
        return self.tiers.first if self.tiers.host is not None else None

    @property
    def enable_prefetch(self) -> bool:
        return self.prefetch_pipeline

    def set_learning_rate(self, lr: float) -> None:
        self._optimizer.set_learning_rate(lr)

    def set_score(self, scores: Mapping[str, int]) -> None:
        """The score of the keys of the next forwards, for tables with CUSTOMIZED scores."""
        self._scores.set(scores)

    def get_score(self) -> dict[str, int]:
        """What separates what was written so far from what will be: a threshold of
        ``incremental_dump``."""
        return {name: self._scores.current(t, self.tiers) for t, name in enumerate(self._names)}

    def flush(self) -> None:
        self.tiers.flush()

    def set_record_cache_metrics(self, record: bool) -> None:
        """Accepted; ``stats()`` always counts."""

    def split_embedding_weights(self) -> list[Tensor]:
        """A (1, 1) tensor a table: rows are not parameters."""
        return [torch.zeros(1, 1, device=self.device) for _ in self.options]

    def stats(self) -> dict[str, Any]:
        """How often keys were inserted, evicted, refused since the module was made; rows and
        capacity of each table. Waits for the device."""
        counts = self.tiers.first.state.tolist()
        sizes = self.tiers.first.sizes().tolist()
        return {
            "updates": counts[0], "inserted": counts[3], "evicted": counts[4],
            "refused": counts[5],
            "tables": {
                name: {"rows": size, "capacity": capacity, "held": held}
                for name, (size, capacity, _, held) in zip(self._names, sizes, strict=True)
            },
        }  # fmt: skip

    def table_index(self, name: str) -> int:
        if name not in self._names:
            raise ValueError(
                f"dynamicemb: there is no table {name!r}; there are {', '.join(self._names)}"
            )
        return self._names.index(name)

    def erase(self, table_name: str, keys: Tensor) -> Tensor:
        """(n) bool: which of the keys were there; they are no more."""
        table = self.table_index(table_name)
        offsets = torch.zeros(len(self._names) + 1, dtype=torch.int64)
        offsets[table + 1 :] = keys.numel()
        return self.tiers.erase(keys.to(self.device).view(torch.int64), offsets.to(self.device))

    def pop_evicted_keys(self) -> dict[str, Tensor]:
        """The keys that left the last tier since the last call, on the CPU; needs
        ``capture_evicted``. A key may have come back since."""
        if not self.tiers.capture:
            raise RuntimeError("dynamicemb: pop_evicted_keys needs capture_evicted=True")
        gone, self.tiers.gone = self.tiers.gone, []
        parts: dict[str, list[Tensor]] = {name: [] for name in self._names}
        for keys, offsets in gone:
            ends = offsets.tolist()
            for name, a, b in zip(self._names, ends, ends[1:], strict=False):
                parts[name].append(keys[a:b].cpu())
        none = torch.empty(0, dtype=torch.int64)
        return {name: torch.cat([none, *some]) for name, some in parts.items()}

    def fill_tables(self, load_factor: float = 0.95, tolerance: float = 1e-5) -> None:
        """Inserts made-up keys until each table has that share of its capacity, for benchmarks."""
        if not 0 < load_factor <= 1:
            raise ValueError(f"dynamicemb: load_factor must be in (0, 1], got {load_factor!r}")
        sizes = self.tiers.first.sizes()[:, 2].tolist()
        bags = len(self.feature_table_map)
        for table, capacity in enumerate(sizes):
            feature = self.feature_table_map.index(table)
            target, key = int(capacity * load_factor), 1 << 40
            while (size := self.tiers.first.sizes()[table, 0].item()) < target * (1 - tolerance):
                n = int(min(target - size, 1 << 20))
                ids = torch.arange(key, key + n, device=self.device)
                offsets = torch.zeros(bags + 1, dtype=torch.int64)
                offsets[feature + 1 :] = n
                self._prepare(ids, offsets.to(self.device), None)
                key += n

    def export_keys_values(
        self, table_name: str, device: torch.device | str = "cpu", batch_size: int = 65536
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and weights (n, dim) float32 of a table, in no order."""
        table = self.table_index(table_name)
        for keys, rows, _ in self.tiers.export(table, batch=batch_size):
            yield keys.to(device), dump_load.weights_of(self, table, rows).to(device)

    def dump(
        self,
        save_dir: str,
        optim: bool = False,
        counter: bool = False,
        table_names: Sequence[str] | None = None,
        pg: object = None,
        *,
        blocking: bool = True,
        kept_bytes: int = 1 << 30,
    ) -> dump_beside.Dump | None:
        """Writes the tables' files into a folder (``dynamicemb.dump_load`` says which).

        Args:
            save_dir: the folder; one that is there is replaced when the new one is whole.
            optim: the optimizer's state, too.
            counter: what the admission counted, too.
            table_names: some tables; default all.
            pg: not looked at.
            blocking: False: returns at once; the files hold the tables as they are now, while
                training goes on. ``load``, ``flush`` and a further dump wait for its end.
            kept_bytes: with ``blocking=False`` the most memory for rows that were read, or kept
                aside as they were, and are not written yet; at that bound training waits, with a
                warning.

        Returns:
            With ``blocking=False`` a ``Dump``: ``done()``, and ``wait()``, which raises what went
            wrong.

        Raises:
            ValueError: an unknown table, a bad ``kept_bytes``.
            RuntimeError: the last dump is not at its end.
            OSError: it cannot be written; the dump that was there is whole.
        """
        checks.boolean(blocking, "blocking")
        dump_load.check_none_runs(self)
        if blocking:
            dump_load.dump(self, save_dir, optim, counter, table_names)
            return None
        return dump_beside.start(self, save_dir, optim, counter, table_names, kept_bytes)

    def load(
        self,
        save_dir: str,
        optim: bool = False,
        counter: bool = False,
        table_names: Sequence[str] | None = None,
        pg: object = None,
    ) -> None:
        """Reads what ``dump`` wrote, after checking all of it; rows are added to what is there."""
        dump_load.load(self, save_dir, optim, counter, table_names)

    def incremental_dump(
        self, named_thresholds: Mapping[str, int] | int, pg: object = None
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, int]]:
        """Keys and weights with a score of at least the threshold, on the CPU, and the next
        thresholds, table by table."""
        return dump_load.increment(self, named_thresholds)
