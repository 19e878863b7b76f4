"""The sharding options of a model in which tables may be dynamic, and what they take."""

from __future__ import annotations

from typing import Any

from dynamicemb import torchrec_compat
from dynamicemb.plan import table_bytes

torchrec_compat.require()

from torchrec.distributed.planner.enumerators import EmbeddingEnumerator  # noqa: E402
from torchrec.distributed.planner.types import Storage  # noqa: E402

from dynamicemb.shard.conversion import CUSTOMIZED  # noqa: E402

DYNAMIC_SHARDINGS = ("row_wise", "table_wise", "table_row_wise")


class DynamicEmbeddingEnumerator(EmbeddingEnumerator):  # type: ignore[misc]
    """TorchRec's, which offers dynamic tables their kernel and reckons their bytes.

    The bytes of a dynamic table's shard: of its capacity, keys and scores included, as far as
    ``local_hbm_for_values`` says in HBM, the rest in host memory.
    """

    _constraints: Any

    def _dynamic(self, name: str) -> Any:
        one = (self._constraints or {}).get(name)
        return one if getattr(one, "use_dynamicemb", False) else None

    def _filter_sharding_types(self, name: str, allowed_sharding_types: Any, *more: Any) -> Any:
        one = self._dynamic(name)
        if one is None:
            return super()._filter_sharding_types(name, allowed_sharding_types, *more)
        wanted = one.sharding_types or ["row_wise"]
        both = [s for s in wanted if s in allowed_sharding_types and s in DYNAMIC_SHARDINGS]
        if not both:
            offered = [s for s in DYNAMIC_SHARDINGS if s in allowed_sharding_types]
            raise ValueError(
                f"dynamicemb: sharding_types of table {name!r} must be of {', '.join(offered)}, "
                f"got {wanted}"
            )
        return both

    def _filter_compute_kernels(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._dynamic(name) is not None:
            return [CUSTOMIZED]
        found = super()._filter_compute_kernels(name, *args, **kwargs)
        return [kernel for kernel in found if kernel != CUSTOMIZED]

    def populate_estimates(self, sharding_options: list[Any]) -> None:
        """Dynamic tables are estimated as fused ones of few rows, then their bytes are added."""
        dynamic = [o for o in sharding_options if self._dynamic(o.name) is not None]
        sizes = [[list(shard.size) for shard in o.shards] for o in dynamic]
        for option in dynamic:
            option.compute_kernel = "fused"
            for shard in option.shards:
                shard.size = [1, shard.size[1]]
        super().populate_estimates(sharding_options)
        for option, of_shards in zip(dynamic, sizes, strict=True):
            option.compute_kernel = CUSTOMIZED
            for shard, size in zip(option.shards, of_shards, strict=True):
                shard.size = size
                hbm, ddr = self._bytes(option.name)
                on_gpu = self._compute_device == "cuda"
                shard.storage = Storage(
                    hbm=shard.storage.hbm + (hbm if on_gpu else 0),
                    ddr=shard.storage.ddr + (ddr if on_gpu else hbm + ddr),
                )

    def _bytes(self, name: str) -> tuple[int, int]:
        """(in HBM, in host memory) of a rank's part."""
        constraint = self._dynamic(name)
        options, row = constraint.dynamicemb_options, constraint.row_bytes
        rows = options.max_capacity
        slots = table_bytes(rows, 0)
        values = rows * row
        hbm = min(values, options.local_hbm_for_values)
        host = values if options.caching else values - hbm
        return hbm + slots, host


__all__ = ["DynamicEmbeddingEnumerator"]
