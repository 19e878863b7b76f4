"""The collections: TorchRec's shapes from our batches and from theirs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from dynamicemb import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
    DynamicEmbTableOptions,
    EmbeddingBagConfig,
    EmbeddingConfig,
    KeyedJaggedTensor,
)
from dynamicemb.modules import KeyedTensor
from torch import Tensor


def configs() -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig("a", 4, 1000, ["f", "g"]),
        EmbeddingBagConfig("b", 8, 1000, ["h"], pooling="MEAN"),
        EmbeddingBagConfig("c", 8, 1000, ["i"], data_type="BF16"),
    ]


def batch(device: str, names: str = "fghi", weighted: bool = False) -> KeyedJaggedTensor:
    values = {"f": [1, 2], "g": [2], "h": [5, 7, 5], "i": [9]}
    lengths = {"f": [2, 0], "g": [0, 1], "h": [1, 2], "i": [1, 0]}
    flat = [x for name in names for x in values[name]]
    return KeyedJaggedTensor(
        list(names),
        torch.tensor(flat, device=device),
        torch.tensor([x for name in names for x in lengths[name]], device=device),
        torch.full((len(flat),), 2.0, device=device) if weighted else None,
    )


def test_bags_come_by_feature(device: str) -> None:
    ebc = DynamicEmbeddingBagCollection(configs(), device=device)
    out = ebc(batch(device))
    assert isinstance(out, KeyedTensor) and list(out) == ["f", "g", "h", "i"]
    assert out.values().shape == (2, 4 + 4 + 8 + 8)
    assert [out[name].shape[1] for name in out] == [4, 4, 8, 8]
    assert not out["f"][1].any() and not out["g"][0].any() and out["h"].any()
    # Key 2 of f and of g is one row of one table.
    alone = ebc(batch(device, "gfhi"))
    assert torch.equal(alone["f"], out["f"]) and torch.equal(alone["h"], out["h"])


def test_they_train_and_evaluate(device: str) -> None:
    params = {"learning_rate": 1.0}
    ebc = DynamicEmbeddingBagCollection(configs()[:1], device=device, fused_params=params)
    out = ebc(batch(device, "fg"))
    out.values().sum().backward()
    after = ebc.eval()(batch(device, "fg"))
    moved = (out["g"] - after["g"])[1].detach().cpu()
    assert torch.allclose(moved, torch.full((4,), 2.0), atol=1e-6)
    unknown = KeyedJaggedTensor(
        ["f", "g"], torch.tensor([77], device=device), torch.tensor([1, 0], device=device)
    )
    assert not ebc(unknown).values().any()


def test_weights_weigh(device: str) -> None:
    ebc = DynamicEmbeddingBagCollection(configs(), device=device, is_weighted=True)
    plain = DynamicEmbeddingBagCollection(configs(), device=device)
    weighted = ebc(batch(device, weighted=True)).values()
    assert torch.allclose(weighted, 2 * plain(batch(device)).values(), atol=1e-2)
    with pytest.raises(ValueError, match="have no weights, and is_weighted is True"):
        ebc(batch(device))


def test_sequences_come_a_row_an_id(device: str) -> None:
    tables = [EmbeddingConfig("a", 4, 100, ["f", "g"]), EmbeddingConfig("b", 8, 100, ["h"])]
    found = DynamicEmbeddingCollection(tables, device=device)(batch(device, "fgh"))
    assert found["f"].values().shape == (2, 4) and found["h"].values().shape == (3, 8)
    assert found["h"].lengths().tolist() == [1, 2]
    assert torch.equal(found["f"].values()[1], found["g"].values()[0])
    assert torch.equal(found["h"].values()[0], found["h"].values()[2])


def test_a_batch_may_know_on_the_host_how_many_values_its_features_have(device: str) -> None:
    class Known(KeyedJaggedTensor):
        def length_per_key_or_none(self) -> list[int]:
            return [1, 2]

    tables = [EmbeddingConfig("a", 4, 100, ["f"]), EmbeddingConfig("b", 4, 100, ["g"])]
    for wide in (tables, [tables[0], EmbeddingConfig("b", 8, 100, ["g"])]):  # one group, and two
        collection = DynamicEmbeddingCollection(wide, device=device)
        keys, lengths = torch.tensor([5, 7, 9], device=device), torch.tensor([1, 2], device=device)
        plain = collection(KeyedJaggedTensor(["f", "g"], keys, lengths))
        before = torch.cuda.get_sync_debug_mode() if device == "cuda" else 0
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            found = collection(Known(["f", "g"], keys, lengths))
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode(before)
        for name in ("f", "g"):
            assert torch.equal(found[name].values(), plain[name].values())
        wrong = KeyedJaggedTensor(["f", "g"], keys, lengths.flip(0))
        wrong.length_per_key_or_none = lambda: [1, 2]  # type: ignore[attr-defined]
        assert collection(wrong)["f"].values().shape[0] == 1  # what it says is believed


@pytest.mark.parametrize("known", [False, True])
def test_where_bags_begin_is_not_asked_of_a_batch_that_would_reckon_it(
    device: str, known: bool
) -> None:
    given = batch(device, "fg")
    offsets = given.offsets()

    class Reckoning(KeyedJaggedTensor):
        def offsets(self) -> Tensor:
            raise NotImplementedError

        def offsets_or_none(self) -> Tensor | None:
            return offsets if known else None

    ebc = DynamicEmbeddingBagCollection(configs()[:1], device=device)
    asked = Reckoning(given.keys(), given.values(), given.lengths())
    assert torch.equal(ebc(asked).values(), ebc(given).values())


def test_what_the_configs_do_not_say_comes_from_options() -> None:
    given = {"a": DynamicEmbTableOptions(score_strategy="STEP", max_capacity=5)}
    ebc = DynamicEmbeddingBagCollection(configs()[:1], device="cpu", options=given)
    ebc(batch("cpu", "fg"))
    assert ebc.get_score() == {"a": 2}
    assert ebc.groups[0].stats()["tables"]["a"]["capacity"] == 5


def test_wrong_configs_and_batches_are_named() -> None:
    with pytest.raises(ValueError, match="tables must hold at least one config"):
        DynamicEmbeddingBagCollection([])
    twice = [EmbeddingBagConfig("a", 4, 10, ["f"])] * 2
    with pytest.raises(ValueError, match="tables must have distinct names"):
        DynamicEmbeddingBagCollection(twice, device="cpu")
    with pytest.raises(ValueError, match="options name no table"):
        DynamicEmbeddingBagCollection(
            configs(), device="cpu", options={"x": DynamicEmbTableOptions()}
        )
    ebc = DynamicEmbeddingBagCollection(configs()[:1], device="cpu")
    with pytest.raises(ValueError, match=r"features \['g'\] are not in the batch"):
        ebc(batch("cpu", "f"))


def test_micro_batches_add_up(device: str) -> None:
    params = {"learning_rate": 1.0, "fused": False}
    ebc = DynamicEmbeddingBagCollection(configs()[:1], device=device, fused_params=params)
    before = ebc(batch(device, "fg"))["g"].detach()
    for _ in range(2):
        ebc(batch(device, "fg")).values().sum().backward()
    assert torch.equal(ebc.eval()(batch(device, "fg"))["g"], before)
    ebc.step()
    moved = (before - ebc(batch(device, "fg"))["g"])[1].cpu()
    assert torch.allclose(moved, torch.full((4,), 4.0), atol=1e-6)


def made_by_keywords(device: str, config: Any) -> None:
    ebc = DynamicEmbeddingBagCollection(
        tables=[
            config(name="emb", embedding_dim=128, num_embeddings=1_000_000, feature_names=["id"]),
        ],
        device=torch.device(device, 0) if device == "cuda" else torch.device(device),
    )
    assert ebc.groups[0].stats()["tables"]["emb"]["capacity"] == 1_000_000


def test_a_collection_of_a_million_rows_is_made_on_a_device_by_keywords(device: str) -> None:
    made_by_keywords(device, EmbeddingBagConfig)


def test_torchrec_s_own_batches_and_configs_are_taken(device: str) -> None:
    if find_spec("torchrec") is None:
        pytest.skip("needs torchrec, which is not installed")
    from torchrec import EmbeddingBagConfig as Theirs
    from torchrec import KeyedJaggedTensor as Jagged

    theirs = Theirs(name="a", embedding_dim=4, num_embeddings=1000, feature_names=["f", "g"])
    ebc = DynamicEmbeddingBagCollection(tables=[theirs], device=torch.device(device))
    ours = DynamicEmbeddingBagCollection(configs()[:1], device=device)
    given = batch(device, "fg")
    jagged = Jagged(given.keys(), given.values(), lengths=given.lengths())
    assert torch.equal(ebc(jagged).values(), ours(given).values())
    made_by_keywords(device, Theirs)
