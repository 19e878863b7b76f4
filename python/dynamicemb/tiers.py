"""From options to tiers: which set of tables lies where, and how big each is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dynamicemb.dynamicemb_config import DynamicEmbTableOptions
from dynamicemb.key_value_table import (
    CUSTOMIZED,
    LFU,
    LRU,
    MOST_ROWS,
    UNBOUNDED,
    TableOptions,
    TableSet,
    Tiers,
)
from dynamicemb.optimizer import RowLayout
from dynamicemb.types import DynamicEmbScoreStrategy, Storage

_STRATEGIES = {
    DynamicEmbScoreStrategy.TIMESTAMP: LRU,
    DynamicEmbScoreStrategy.STEP: CUSTOMIZED,
    DynamicEmbScoreStrategy.CUSTOMIZED: CUSTOMIZED,
    DynamicEmbScoreStrategy.LFU: LFU,
    DynamicEmbScoreStrategy.NO_EVICTION: LRU,
}
LEAST_CACHE = 1024  # rows


def _table(o: DynamicEmbTableOptions, row_bytes: int, hbm_bytes: int) -> TableOptions:
    assert o.max_capacity is not None
    grows = o.scores is DynamicEmbScoreStrategy.NO_EVICTION
    return TableOptions(
        row_bytes,
        MOST_ROWS if grows else o.max_capacity,
        o.init_capacity or o.max_capacity,
        hbm_bytes,
        _STRATEGIES[o.scores],
        0.5 if grows else o.max_load_factor,
    )


def make_tiers(
    options: Sequence[DynamicEmbTableOptions],
    layouts: Sequence[RowLayout],
    device: torch.device,
    enforce_hbm: bool,
    capture: bool,
) -> Tiers:
    """HBM, host or both (``local_hbm_for_values`` of the rows in HBM), or a cache in front of all
    rows in host memory; behind that the external storage."""
    rows = [layout.row_bytes for layout in layouts]
    external = options[0].external_storage
    if options[0].caching or external is not None:
        rows = [max(rows)] * len(rows)  # rows of all tables move by one pitch
    if isinstance(external, type):
        external = external()
    if external is not None and not isinstance(external, Storage):
        raise ValueError(f"dynamicemb: external_storage must be a Storage, got {external!r}")

    def hbm(o: DynamicEmbTableOptions) -> int:
        return UNBOUNDED if enforce_hbm or device.type == "cpu" else o.local_hbm_for_values

    if not options[0].caching:
        tables = [_table(o, size, hbm(o)) for o, size in zip(options, rows, strict=True)]
        return Tiers(TableSet(tables, device), None, external, capture)
    cached = []
    for t, (o, size) in enumerate(zip(options, rows, strict=True)):
        assert o.max_capacity is not None
        capacity = min(o.local_hbm_for_values // size, o.max_capacity)
        if capacity < min(LEAST_CACHE, o.max_capacity):
            raise ValueError(
                f"dynamicemb: caching needs local_hbm_for_values >= {LEAST_CACHE * size} bytes for "
                f"table {t} (1,024 rows), got {o.local_hbm_for_values}"
            )
        cached.append(TableOptions(size, capacity, capacity, UNBOUNDED, _STRATEGIES[o.scores]))
    whole = [_table(o, size, 0) for o, size in zip(options, rows, strict=True)]
    return Tiers(TableSet(cached, device), TableSet(whole, device), external, capture)
