"""The plan's model of a step beside two ranks: fitted at one load, compared at others."""

from __future__ import annotations

from typing import Any

import harness
import torch
import torch.distributed as dist
from dynamicemb import ExchangeOptions
from dynamicemb.step_model import Load, StepModel
from rank_times import times
from sharded_tables import LAW, Case, batch, collection, step_of

COLUMNS = {"fitted at": "<9", "ranks": ">5d", "lookups": ">8d", "hot": ">4d"}
COLUMNS |= {"step ms": ">8.2f", "model ms": ">8.2f", "off": ">+6.1%"}


def compare(like: Case, device: torch.device, repeats: int, table: harness.Table | None) -> None:
    """Steps of one rank and of two, and what the model makes of them; of two ranks at once.

    Fitted at ``like.lookups`` in bags of ten, and on a step of one bag of each table; compared at a
    quarter of the lookups and at hotness 1. Then fitted at hotness 1, compared at a quarter.
    """
    solo = [dist.new_group([r]) for r in range(2)][dist.get_rank()]

    def took(case: Case, ranks: int) -> float:
        group: Any = dist.group.WORLD if ranks > 1 else solo
        options = ExchangeOptions(pool_at="requester")
        made = collection(case, device, ranks, process_group=group, exchange=options)
        return times(step_of(made, batch(case, device, dist.get_rank())), device, repeats)[0] / 1e3

    n = like.lookups // 10 * 10
    for hot in (10, 1):
        fit, least = like._replace(lookups=n, hot=hot), like._replace(lookups=hot, hot=hot)
        quarter, plain = fit._replace(lookups=n // 40 * 10), fit._replace(hot=1)
        order = [(least, 1), (least, 2), (fit, 1), (fit, 2), (quarter, 2)]
        order += [(plain, 2)] if hot > 1 else []
        measured = {at: took(*at) for at in order}
        if table is None:
            continue
        one, two = ((measured[least, w], measured[fit, w]) for w in (1, 2))
        fixed = min(one[0], 0.9 * one[1]), min(two[0], 0.9 * two[1])
        model = StepModel.fitted(load_of(fit), one[1], two[1], fixed)
        for (case, ranks), step in measured.items():
            reckoned = model.seconds(load_of(case), ranks)
            cells = ranks, case.lookups, case.hot, 1e3 * step, 1e3 * reckoned, reckoned / step - 1
            table.row(f"{n} x{hot}", *cells)
        print(model)


def load_of(case: Case) -> Load:
    return Load(case.tables, case.lookups, case.rows, case.dim, LAW, case.hot)
