"""The torch ops as PyTorch sees them: schemas, fake kernels, meta tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamicemb.batched_dynamicemb_function import Lookup
from dynamicemb.key_value_table import FIND_OR_INSERT, INSERTED
from dynamicemb.ops import ops

from tests.dynamicemb.cases import on, tables


def made(device: str) -> tuple[Any, Lookup, torch.Tensor]:
    module = tables([4, 8], device, "SUM", optimizer="ADAM")
    ids, offsets = on(device, [1, 2, 1, 3, 3], [0, 2, 3, 5, 5])
    prepared = module._prepare(ids, offsets, None)
    return module, prepared.lookup, torch.ones(2, 12, device=device)


def calls(device: str) -> dict[str, tuple[Any, ...]]:
    module, lookup, grads = made(device)
    f, first = module._features, module.tiers.first
    assert lookup.inverse is not None and lookup.offsets is not None
    source, bags = lookup.source(f), lookup.bags(f, None)
    bag_of = ops.expand_bags(lookup.offsets, 5)
    ids, order = ops.sort_rows(lookup.inverse)
    backward = (grads, *source, *bags, bag_of, ids, order, *module.optimizer.schema(), f.max_dim)
    flags = torch.tensor([True, False, True], device=device)
    dist = torch.zeros(1, dtype=torch.int32, device=device)
    behind = tables([4, 8], device, "SUM", optimizer="ADAM").tiers.first
    seek = lookup.keys, lookup.row_offsets, first.handle, first.state, None, False
    rows, status, *sought = ops.cache_seek(*seek)
    move = lookup.keys, lookup.row_offsets, behind.handle, behind.state, None, *sought
    every = {
        "segmented_unique": (lookup.keys, lookup.row_offsets, None, True),
        "lookup_forward": (*source, *bags, f.width, f.out_dtype, True),
        "weight_grads": (grads, *source, *bags, bag_of, True),
        "expand_bags": (lookup.offsets, 5),
        "expand_ids": (lookup.row_offsets, 5),
        "sort_rows": (lookup.inverse,),
        "reduce_grads": backward,
        "reduce_update": backward,
        "update_rows": (ops.reduce_grads(*backward), *source, *module.optimizer.schema()),
        "init_rows": (*source, None, 0),
        "load_rows": (lookup.state, lookup.rows, 16),
        "store_rows": (torch.ones(5, 4, device=device), lookup.state, lookup.rows, None),
        "flagged_compact": (flags, None),
        "tighten_lists": (
            lookup.keys, torch.ones(5, 4, device=device), lookup.keys, lookup.row_offsets,
            lookup.row_offsets,
        ),
        "refused_keys": (lookup.keys, lookup.row_offsets, lookup.rows, lookup.keys),
        "take_rows": (
            lookup.state, lookup.rows, lookup.rows.clone(),
            torch.full((5,), INSERTED, dtype=torch.uint8, device=device) * (lookup.rows != 0), 16,
        ),
        "place_rows": (
            torch.zeros_like(lookup.rows), torch.zeros(5, dtype=torch.uint8, device=device),
            torch.arange(5, device=device), torch.tensor([3], device=device), lookup.rows,
            torch.ones(5, dtype=torch.uint8, device=device),
        ),
        "block_bucketize": (lookup.keys, lookup.offsets, dist, None, None, 2),
        "deal_keys": (lookup.keys, lookup.row_offsets, dist.expand(2).contiguous(), None, 2),
        "move_rows": (grads, torch.tensor([1, 0], device=device), False, 0.5),
        "ends_of": (lookup.keys,),
        "permute_rows": (torch.tensor([1, 0, 1], dtype=torch.int32, device=device),
                         torch.tensor([[1, 2], [0, 2]], device=device), lookup.keys, None, 7),
        "table_set_find": (lookup.keys, lookup.row_offsets, first.handle, first.state, True),
        "table_set_write": (
            lookup.keys, lookup.row_offsets, first.handle, first.state, None, None,
            FIND_OR_INSERT, False, False, True,
        ),
        "table_set_unlock": (lookup.keys, lookup.row_offsets, first.handle, first.state),
        "cache_seek": seek,
        "cache_move": (rows, status, *move),
        "table_set_clear": (first.state, first.handle, 0),
        "table_set_reserve": (first.state, first.handle, 0, 10),
    }  # fmt: skip
    kept = module, behind
    return {name: (kept, *arguments) for name, arguments in every.items()}


NAMES = sorted(calls("cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_passes(device: str, name: str) -> None:
    kept, *arguments = calls(device)[name]
    op = getattr(ops, name).default
    tests = ["test_schema", "test_faketensor"]
    unwritten = ("init_rows", "reduce", "segmented_unique", "table_set", "update", "flagged",
                 "tighten", "refused", "cache")  # fmt: skip
    if name.startswith(unwritten):  # entries behind the counted ones hold anything
        tests = ["test_faketensor"]
    torch.library.opcheck(op, tuple(arguments), test_utils=tuple(tests))
    del kept


def test_the_backward_finds_the_bags_that_it_is_not_given(device: str) -> None:
    kept, *arguments = calls(device)["reduce_grads"]
    distinct, bag_of = 3, 14
    assert arguments[bag_of].tolist() == [0, 0, 1, 2, 2]
    wanted = ops.reduce_grads(*arguments)
    arguments[bag_of] = None
    assert torch.equal(ops.reduce_grads(*arguments)[:distinct], wanted[:distinct])
    del kept


def test_a_set_that_is_gone_is_named() -> None:
    module, lookup, _ = made("cpu")
    with pytest.raises(RuntimeError, match="dynamicemb: set 123456 is not there"):
        ops.table_set_find(lookup.keys, lookup.row_offsets, 123456, lookup.state, False)
    del module


def test_wrong_tensors_are_named() -> None:
    module, lookup, _ = made("cpu")
    f = module._features
    source, bags = list(lookup.source(f)), lookup.bags(f, None)
    for at, name in enumerate(["state", "rows", "keys", "inverse", "row_offsets", "infos"]):
        wrong = list(source)
        wrong[at] = torch.ones(3, 3)
        with pytest.raises(RuntimeError, match=f"dynamicemb: {name} must be"):
            ops.lookup_forward(*wrong, *bags, f.width, f.out_dtype, True)
    with pytest.raises(RuntimeError, match="weight_dtype must be 0"):
        ops.lookup_forward(*source[:-1], 9, *bags, f.width, f.out_dtype, True)
