"""``dynamicemb_extensions`` on rows in tensors and at addresses, beside plain Python."""

from __future__ import annotations

import random
from typing import Any

import dynamicemb_extensions as ext
import pytest
import torch
from dynamicemb import ref
from torch import Tensor

DIM = 3


def ints(device: str, *some: int) -> Tensor:
    return torch.tensor(some, dtype=torch.int64, device=device)


def drawn(device: str, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def bags(seed: int, features: int, batch: int, rows: int) -> tuple[list[int], list[int]]:
    """Row numbers, all of them used, and where the bags begin."""
    draw = random.Random(seed)
    offsets = [0]
    for _ in range(features * batch):
        offsets.append(offsets[-1] + draw.randrange(4))
    some = list(range(rows)) + [draw.randrange(rows) for _ in range(offsets[-1])]
    return some[: offsets[-1]], offsets


@pytest.mark.parametrize(("combiner", "pooling"), [(0, "sum"), (1, "mean")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooled_rows_and_their_gradients(
    device: str, combiner: int, pooling: str, dtype: torch.dtype
) -> None:
    features, batch, unique = 2, 5, 4
    inverse, offsets = bags(1, features, batch, unique)
    src, total = drawn(device, unique, DIM).to(dtype), 2 + features * DIM
    out = torch.full((batch, total), 7.0, device=device)
    inv, off = ints(device, *inverse), ints(device, *offsets)
    ext.lookup_forward(src, out, off, inv, combiner, total, 2, DIM, features * batch, batch, 0)
    rows = src.double().cpu().requires_grad_()
    wanted = ref.lookup(list(rows), inverse, offsets, features, pooling)
    assert (out[:, :2] == 7).all()
    torch.testing.assert_close(out[:, 2:].cpu().double(), wanted.detach(), rtol=1e-2, atol=1e-5)
    grad = drawn(device, batch, features * DIM, seed=2)
    wanted.backward(grad.cpu().double())
    got = torch.empty(unique, DIM, device=device)
    ext.lookup_backward(
        grad, got, ints(device, 0, 1, 2, 3), inv, off, DIM, 1, batch, features, len(inverse),
        combiner,
    )  # fmt: skip
    torch.testing.assert_close(got.cpu().double(), rows.grad, rtol=1e-5, atol=1e-5)


def test_rows_of_occurrences_and_sums_of_their_gradients(device: str) -> None:
    src, inverse = drawn(device, 3, DIM), ints(device, 2, 0, 2, 1)
    out = torch.empty(4, DIM, device=device)
    ext.lookup_forward(src, out, inverse, inverse, -1, DIM, 0, DIM, 4, 4, 0)
    assert torch.equal(out, src[inverse])
    indices, ends = ints(device, 9, 5, 9, 9, 5), ints(device, 0, 3, 5)
    grads = drawn(device, 5, DIM)
    unique, sums = ext.reduce_grads(indices, grads, ends, ends.cpu())
    assert unique.tolist() == [9, 5, 9, 5]
    wanted = torch.stack([grads[0] + grads[2], grads[1], grads[3], grads[4]])
    torch.testing.assert_close(sums, wanted)
    with pytest.raises(ValueError, match=r"combiner must be 0 \(sum\), 1 \(mean\) or -1"):
        ext.lookup_forward(src, out, inverse, inverse, 2, DIM, 0, DIM, 4, 4, 0)


@pytest.mark.parametrize("listed", [False, True])
def test_distinct_keys_of_each_table_are_counted_and_spread_over_its_bags(
    device: str, listed: bool
) -> None:
    offsets, batch = [0, 2, 3, 4, 6, 6, 9], 2  # three features, the first two of one table
    keys = [5, 6, 5, 5, 7, 5, 6, 6, 8]
    begins = ints("cpu", 0, 2, 3)
    inverse, counters = ints(device, *range(9)), ints(device, *range(9))
    nums, unique_ends = ints("cpu", 0, 0), ints("cpu", 0, 0, 0)
    unique: Any = ints(device, *[0] * 9)
    if listed:
        unique = [ints(device, *[0] * 3), ints(device, *[0] * 3)]
    lengths, ends = ints(device, *[0] * 6), ints(device, *[0] * 7)
    ext.dedup_input_indices(
        ints(device, *keys), ints(device, *offsets), begins, begins.to(device), 2, batch, inverse,
        nums, nums.clone(), unique_ends, unique_ends.clone(), unique, ends, lengths, 0,
        ext.UniqueOp(), counters, None,
    )  # fmt: skip
    table_ends = [offsets[int(f) * batch] for f in begins]
    distinct, places, wanted_ends, counts = ref.segmented_unique(keys, table_ends)
    assert inverse.tolist() == places and unique_ends.tolist() == wanted_ends == [0, 3, 5]
    assert nums.tolist() == [3, 2] and counters[:5].tolist() == counts
    found = [k for one in unique for k in one.tolist()] if listed else unique.tolist()
    assert [k for k in found if k] == distinct
    assert lengths.tolist() == [1, 1, 1, 0, 1, 1] and ends.tolist() == [0, 1, 2, 3, 3, 4, 5]


def test_unique_keys_by_object_and_by_segment(device: str) -> None:
    op, keys = ext.UniqueOp(), ints(device, 4, 4, -1)
    op.reset_capacity(10)
    assert [part.tolist() for part in op.unique(keys)] == [[4, -1], [0, 0, 1]]
    _, inverse, ends, counts = ext.segmented_unique(
        keys, ints(device, 0, 2, 3), op, ext.EvictStrategy.KLfu, ints(device, 5, 6, 7)
    )
    assert inverse.tolist() == [0, 0, 1] and ends.tolist() == [0, 1, 2]
    assert counts[:2].tolist() == [11, 7]


OPTIMIZERS = {
    "sgd": (0, (0.1,)),
    "adam": (2 * DIM, (0.1, 0.8, 0.9, 1e-6, 0.01, 2)),
    "adagrad": (DIM, (0.1, 1e-6)),
    "rowwise_adagrad": (4, (0.1, 1e-6)),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_by_address_and_in_two_tensors_are_the_reference_s(
    device: str, kind: str
) -> None:
    state, numbers = OPTIMIZERS[kind]
    table = ext.DynamicEmbTable(
        dim=DIM, init_capacity=64, max_capacity=64,
        optimizer_type=ext.OptimizerType(list(OPTIMIZERS).index(kind) + 1),
        **({"device_id": 0, "max_hbm_for_vectors": 1 << 40} if device == "cuda" else {}),
    )  # fmt: skip
    keys, first = ints(device, 7, 8, 9), drawn(device, 3, DIM + state).abs()
    ext.insert_or_assign(table, 3, keys, first)
    at, founds = ints(device, 0, 0, 0, 0), torch.zeros(4, dtype=torch.bool, device=device)
    ext.find_pointers(table, 4, ints(device, 7, 8, 9, 10), at, founds)
    grads, loaded = drawn(device, 4, DIM, seed=3), torch.ones(4, DIM + state, device=device)
    more = () if kind == "sgd" else (state,)
    by_address = getattr(ext, f"dynamic_emb_{kind}_with_pointer")
    by_address(grads, at, ext.DynamicEmbDataType.Float32, *more, *numbers)
    ext.load_from_pointers(at, loaded)
    assert (loaded[3] == 0).all()
    near, far = first[:1].clone(), torch.cat([first[1:], first[:1]]).cpu()
    name = f"{kind}_update_for_combined_table"
    if kind == "rowwise_adagrad":
        name = "rowwise_adagrad_for_combined_table"
    getattr(ext, name)(grads, ints(device, 0, 1, 2, -1), near, far, *more, *numbers)
    assert torch.equal(torch.cat([near.cpu(), far[:2]]), loaded[:3].cpu())
    assert torch.equal(far[2], first[0].cpu())
    lr, *rest = numbers
    h: dict[str, Any] = {"lr": lr, "eps": rest[-1] if rest else 0.0}
    if kind == "adam":
        h = dict(zip(("lr", "beta1", "beta2", "eps", "decoupled"), numbers, strict=False))
    for i in range(3):
        w, s = first[i, :DIM].double().cpu(), first[i, DIM:].double().cpu()
        row: dict[str, Any] = {"w": w, "s0": s[:DIM], "s1": s[DIM:], "step": 1}
        if kind == "rowwise_adagrad":
            row["s0"] = s[0]
        ref.optimizer_step(kind, row, grads[i].double().cpu(), h)
        torch.testing.assert_close(loaded[i, :DIM].cpu().double(), row["w"], rtol=1e-5, atol=1e-6)


def test_rows_pass_between_a_tensor_and_a_table_in_two(device: str) -> None:
    near, far = torch.zeros(2, 4, device=device), torch.zeros(3, 4)
    given, some = drawn(device, 3, 4), ints(device, 1, 4, 2)
    ext.store_to_combined_table(near, far, some, given)
    assert torch.equal(torch.cat([near.cpu(), far])[some.cpu()], given.cpu())
    out = torch.full((4, 4), 5.0, device=device)
    ext.load_from_combined_table(near, far, ints(device, 4, 1, 2, -1), out)
    assert torch.equal(out[:3], given[[1, 0, 2]]) and (out[3] == 5).all()
    ext.load_from_combined_table(None, far, ints(device, 2), out)
    assert torch.equal(out[0], given[1])


def test_first_values_have_their_distribution_and_fill_the_chosen_rows_alone(device: str) -> None:
    rows, which = 4000, torch.arange(0, 4000, 2, device=device)
    cases: list[tuple[Any, tuple[float, ...], float, float]] = [
        (ext.normal_init, (1.0, 2.0), 1.0, 2.0),
        (ext.uniform_init, (-1.0, 3.0), 1.0, 4 / 12**0.5),
        (ext.truncated_normal_init, (1.0, 2.0, -1.0, 3.0), 1.0, 2 * 0.53963),
    ]
    for function, numbers, mean, deviation in cases:
        buffer = torch.full((rows, 8), 99.0, device=device)
        function(buffer, which, ext.CurandStateContext(3), *numbers)
        again = torch.full_like(buffer, 99.0)
        function(again, which, ext.CurandStateContext(3), *numbers)
        assert torch.equal(buffer, again) and (buffer[1::2] == 99).all()
        filled = buffer[::2].double()
        assert abs(filled.mean() - mean) < 5 * deviation / 16000**0.5
        assert abs(filled.std() - deviation) < 0.05 * deviation
        if function is not ext.normal_init:
            assert filled.min() >= -1 and filled.max() <= 3
    buffer = torch.zeros(3, 2, device=device)
    ext.const_init(buffer, ints(device, 1), 2.5)
    ext.debug_init(buffer, ints(device, 2), ints(device, 1, 2, 100_007))
    assert buffer[:, 0].tolist() == [0.0, 2.5, 7.0]
    with pytest.raises(ValueError, match="std_dev must be > 0 and lower < upper"):
        ext.truncated_normal_init(buffer, which, ext.CurandStateContext(), 0.0, 1.0, 2.0, 1.0)


def test_indices_are_dealt_out_to_ranks(device: str) -> None:
    lengths, indices = ints(device, 2, 1, 3, 0), ints(device, 0, 5, 3, 8, 9, 7)
    weights, kinds = drawn(device, 6), ints(device, 0, 1)
    got = ext.block_bucketize_sparse_features(
        lengths, indices, True, True, False, kinds, ints(device, 4, 0), 2, weights
    )
    # The first feature in blocks of four, numbered within them; the second by remainder.
    assert got[0].tolist() == [1, 1, 1, 0, 1, 0, 2, 0]
    assert got[1].tolist() == [0, 3, 8, 1, 9, 7]
    assert got[4] is not None and got[4].tolist() == [0, 3, 1, 2, 4, 5]
    assert got[2] is not None and torch.equal(got[2][got[4]], weights)
    assert got[3] is not None and got[3].tolist() == [0, 0, 0, 1, 1, 2]
    one = ext.block_bucketize_sparse_features(lengths, indices, False, False, True, None, None, 2)
    assert one[0].tolist() == [1, 0, 1, 0, 1, 1, 2, 0] and one[2] is one[3] is one[4] is None
    varied = ext.block_bucketize_sparse_features(
        lengths, indices, False, False, False, kinds, ints(device, 4, 0), 2,
        batch_size_per_feature=ints(device, 1, 3),
    )  # fmt: skip
    assert varied[0].tolist() == [1, 0, 1, 0, 1, 1, 2, 0]
    with pytest.raises(ValueError, match="block_bucketize_pos must be None"):
        ext.block_bucketize_sparse_features(
            lengths, indices, False, False, True, None, None, 2, block_bucketize_pos=[]
        )
