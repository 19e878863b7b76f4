"""``dynamicemb_extensions``: each name does what its callers rely on."""

from __future__ import annotations

from typing import Any

import dynamicemb_extensions as ext
import pytest
import torch
from torch import Tensor


def table(device: str, **changes: Any) -> ext.DynamicEmbTable:
    where = {"device_id": 0, "max_hbm_for_vectors": 1 << 40} if device == "cuda" else {}
    return ext.DynamicEmbTable(
        **{"dim": 3, "init_capacity": 64, "max_capacity": 64} | where | changes
    )


def keys(device: str, *some: int) -> Tensor:
    return torch.tensor(some, dtype=torch.int64, device=device)


def rows(device: str, *firsts: float, width: int = 3) -> Tensor:
    return torch.tensor(firsts, device=device)[:, None].repeat(1, width)


def read(t: ext.DynamicEmbTable, k: Tensor, width: int = 3) -> tuple[list[float], list[bool]]:
    values = torch.full((len(k), width), -9.0, device=k.device)
    founds = torch.zeros(len(k), dtype=torch.bool, device=k.device)
    ext.find(t, len(k), k, values, founds)
    return values[:, 0].tolist(), founds.tolist()


def test_every_name_is_there() -> None:
    assert all(getattr(ext, name) is not None for name in ext.__all__) and len(ext.__all__) == 76


@pytest.mark.parametrize("value_type", ["Float32", "BFloat16", "Float16"])
def test_rows_come_back_in_every_type(device: str, value_type: str) -> None:
    t = table(device, value_type=ext.DynamicEmbDataType[value_type])
    assert t.value_type().name == value_type
    k = keys(device, 5, -1, 2**63 - 1)
    ext.insert_or_assign(t, 2, k, rows(device, 1.0, 2.0, 3.0))
    assert read(t, k) == ([1.0, 2.0, -9.0], [True, True, False])
    assert (ext.dyn_emb_rows(t), ext.dyn_emb_cols(t), ext.dyn_emb_capacity(t)) == (2, 3, 64)
    ext.assign(t, 3, k, rows(device, 7.0, 8.0, 9.0))
    assert read(t, k) == ([7.0, 8.0, -9.0], [True, True, False])
    ext.erase(t, 1, k)
    assert read(t, k)[1] == [False, True, False]
    ext.clear(t)
    assert ext.dyn_emb_rows(t) == 0


def test_new_rows_get_what_is_given_and_old_ones_are_read(device: str) -> None:
    t, k = table(device), keys(device, 1, 2)
    ext.insert_or_assign(t, 1, k, rows(device, 4.0))
    given = rows(device, 5.0, 6.0)
    ext.find_or_insert(t, 2, k, given)
    assert given[:, 0].tolist() == [4.0, 6.0] and read(t, k)[0] == [4.0, 6.0]
    addresses, founds = keys(device, 0, 0, 0), torch.zeros(3, dtype=torch.bool, device=device)
    ext.find_pointers(t, 3, keys(device, 1, 2, 3), addresses, founds)
    assert founds.tolist() == [True, True, False] and addresses[2] == 0 and addresses[0] != 0
    ext.find_or_insert_pointers(t, 1, keys(device, 3), addresses, founds)
    assert addresses[0] != 0 and not founds[0] and ext.dyn_emb_rows(t) == 3


def test_missing_rows_read_as_first_ones_and_stay_out(device: str) -> None:
    t, k = table(device, initializer_args=ext.InitializerArgs("debug")), keys(device, 7, 100_008)
    ext.insert_or_assign(t, 1, k, rows(device, 4.0))
    values = torch.empty(2, 3, device=device)
    ext.find_and_initialize(t, 2, k, values)
    assert values.tolist() == [[4.0] * 3, [8.0] * 3] and ext.dyn_emb_rows(t) == 1
    ext.find_and_initialize(t, 2, k, values, ext.InitializerArgs("constant", value=0.5))
    assert values[1].tolist() == [0.5] * 3


def test_flags_say_what_is_added_and_what_is_inserted(device: str) -> None:
    t, k = table(device), keys(device, 1, 2, 3, 4)
    ext.insert_or_assign(t, 2, k, rows(device, 10.0, 20.0))
    flags = torch.tensor([True, False, True, False], device=device)
    ext.accum_or_assign(t, 4, k, rows(device, 1.0, 2.0, 3.0, 4.0), flags)
    assert read(t, k) == ([11.0, 20.0, -9.0, 4.0], [True, True, False, True])


def test_what_leaves_is_listed(device: str) -> None:
    t = table(device, evict_type=ext.EvictStrategy.KCustomized, init_capacity=4, max_capacity=4)
    score = keys(device, 1, 2, 3, 4)
    ext.insert_or_assign(t, 4, keys(device, 1, 2, 3, 4), rows(device, 1, 2, 3, 4), score)
    gone, scores, count = keys(device, 0, 0), keys(device, 0, 0), keys(device, 0)
    values = torch.zeros(2, 3, device=device)
    new = keys(device, 8, 9)
    ext.insert_and_evict(t, 2, new, rows(device, 8, 9), score[2:], gone, values, scores, count)
    assert count.item() == 2 and set(gone.tolist()) == {1, 2} == set(scores.tolist())
    assert set(values[:, 0].tolist()) == {1.0, 2.0}
    ext.insert_and_evict_with_scores(
        t, 1, keys(device, 9), rows(device, 9), gone, values, scores, count, scores=score[3:]
    )
    assert count.item() == 0  # it is there
    matched = keys(device, 0)
    ext.count_matched(t, 4, matched)
    assert matched.item() == 2
    found, everything = (
        torch.empty(4, dtype=torch.int64, device=device),
        torch.empty(4, 3, device=device),
    )
    ext.export_batch_matched(t, 4, 4, 0, matched, found, everything)
    assert set(found[:2].tolist()) == {4, 9}
    ext.export_batch(t, 4, 0, matched, found, everything, score)
    assert set(found.tolist()) == {3, 4, 8, 9} and sorted(score.tolist()) == [3, 3, 4, 4]
    assert torch.equal(everything[:, 0].long(), found)
    ext.find_pointers_with_scores(
        t, 1, keys(device, 9), gone, torch.zeros(1, device=device), scores
    )
    assert scores[0] == 4


def test_a_table_grows_when_it_is_asked_to(device: str) -> None:
    t = table(device, max_capacity=1024)
    ext.reserve(t, 512)
    assert t.capacity() == 512


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdaGrad", "RowWiseAdaGrad"])
def test_rows_in_tables_and_in_tensors_are_updated_alike(device: str, kind: str) -> None:
    t = table(device, optimizer_type=ext.OptimizerType[kind])
    t.set_initial_optstate(0.25)
    assert t.get_initial_optstate() == 0.25
    k = keys(device, 1, 2, 77)
    ext.insert_or_assign(t, 2, k, rows(device, 1.0, 2.0))
    values = torch.full((2, t.width), 0.25, device=device)
    values[:, :3] = rows(device, 1.0, 2.0)
    name = kind.lower().replace("rowwise", "rowwise_")
    numbers: tuple[float, ...] = (0.1,)
    if kind == "Adam":
        numbers = (0.1, 0.8, 0.9, 1e-6, 0.01, 1)
    elif kind != "SGD":
        numbers = (0.1, 1e-6)
    grads = torch.arange(9.0, device=device).view(3, 3) - 4
    getattr(ext, f"dynamic_emb_{name}_with_table")(t, 3, k, grads, *numbers, None)
    before = values.clone()
    getattr(ext, f"dynamic_emb_{name}_fused")(grads[:2], values, *numbers)
    stored = torch.zeros(2, t.width, device=device)
    ext.find(t, 2, k, stored, torch.zeros(2, dtype=torch.bool, device=device))
    assert torch.equal(stored, values) and not torch.equal(values, before)
    expected = before[:, :3].double() - 0.1 * grads[:2].double()
    if kind == "SGD":
        assert torch.allclose(values[:, :3].double(), expected)
    if kind == "AdaGrad":
        g = grads[:2].double()
        expected = before[:, :3].double() - 0.1 * g / ((0.25 + g * g).sqrt() + 1e-6)
        assert torch.allclose(values[:, :3].double(), expected, atol=1e-6)


def test_indices_are_reckoned_as_asked(device: str) -> None:
    flags = torch.tensor([True, False, True], device=device)
    out, count = keys(device, 0, 0, 0), keys(device, 0)
    ext.select(flags, keys(device, 5, 6, 7), out, count)
    assert out[:2].tolist() == [5, 7] and count.item() == 2
    ext.select_index(flags, out, count)
    assert out[:2].tolist() == [0, 2] and ext.flagged_compact(flags)[1].item() == 2
    starts = ext.get_table_range(keys(device, 0, 1, 3, 3, 6), keys(device, 0, 1, 2))
    assert starts.tolist() == [0, 3, 6]
    assert ext.expand_table_ids_cuda(starts).tolist() == [0, 0, 0, 1, 1, 1]
    unique, inverse, offsets, counts = ext.segmented_unique_cuda(
        keys(device, 9, 9, 4, 9, 4, 4), starts, 2
    )
    assert offsets.tolist() == [0, 2, 4] and unique[:4].tolist() == [9, 4, 9, 4]
    assert inverse.tolist() == [0, 0, 1, 2, 3, 3] and counts[:4].tolist() == [2, 1, 1, 2]
    gathered = torch.empty(2, 3, device=device)
    ext.gather_embedding(rows(device, 1.0, 2.0), gathered, keys(device, 1, 0))
    assert gathered[:, 0].tolist() == [2.0, 1.0]


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="evict_type must be one of KLru"):
        table("cpu", evict_type=77)
    with pytest.raises(ValueError, match="evict_type must be one of KLru, KLfu, KCustomized, got"):
        table("cpu", evict_type=ext.EvictStrategy.KEpochLru)
    with pytest.raises(ValueError, match="value_type must be one of Float32, BFloat16, Float16"):
        table("cpu", value_type=ext.DynamicEmbDataType.Int64)
    with pytest.raises(
        ValueError, match=r"values must have shape \(n, 3\) or \(n, 3\), got \(1, 2\)"
    ):
        ext.insert_or_assign(table("cpu"), 1, keys("cpu", 1), torch.ones(1, 2))
