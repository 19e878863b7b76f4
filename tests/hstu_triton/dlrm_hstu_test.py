"""The ranking model: what it is made of, that it trains, and with which collections."""

from __future__ import annotations

import random
from collections import Counter
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
import torch
from generative_recommenders.common import HammerKernel
from generative_recommenders.modules.dlrm_hstu import DlrmHSTU, DlrmHSTUConfig, SequenceEmbedding
from generative_recommenders.modules.multitask_module import MultitaskTaskType, TaskConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DIM, IDS = 16, 40
TABLES = {"item": ["uih_item", "item"], "user": ["user"], "tag": ["uih_tag", "tag"]}


class Jagged:
    """The least that the model asks of a KeyedJaggedTensor."""

    def __init__(self, keys: list[str], values: Tensor, lengths: Tensor) -> None:
        self._keys, self._values, self._lengths = keys, values, lengths

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def lengths(self) -> Tensor:
        return self._lengths


class Rows(NamedTuple):
    rows: Tensor
    of: Tensor

    def values(self) -> Tensor:
        return self.rows

    def lengths(self) -> Tensor:
        return self.of


class Collection(nn.Module):
    """Plain tables, looked up without a read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(IDS, DIM) for name in TABLES})

    def forward(self, features: Any) -> dict[str, Rows]:
        lengths = features.lengths().view(len(features.keys()), -1)
        values = features.values().split(lengths.sum(1).tolist())
        found = dict(zip(features.keys(), zip(values, lengths, strict=True), strict=True))
        return {
            f: Rows(self.tables[name](found[f][0]), found[f][1])
            for name, features in TABLES.items()
            for f in features
        }


def config(**changes: Any) -> DlrmHSTUConfig:
    binary, regression = MultitaskTaskType.BINARY_CLASSIFICATION, MultitaskTaskType.REGRESSION
    return DlrmHSTUConfig(**{
        "max_seq_len": 64,
        "hstu_num_heads": 2,
        "hstu_attn_linear_dim": 8,
        "hstu_attn_qk_dim": 8,
        "hstu_attn_num_layers": 2,
        "hstu_embedding_table_dim": DIM,
        "hstu_preprocessor_hidden_dim": 16,
        "hstu_transducer_embedding_dim": 16,
        "hstu_input_dropout_ratio": 0.0,
        "hstu_linear_dropout_rate": 0.0,
        "contextual_feature_to_max_length": {"user": 1},
        "candidates_weight_feature_name": "weight",
        "candidates_watchtime_feature_name": "watch",
        "candidates_querytime_feature_name": "query_time",
        "causal_multitask_weights": 1.0,
        "multitask_configs": [
            TaskConfig("like", 1, binary), TaskConfig("share", 2, binary),
            TaskConfig("watched", 0, regression),
        ],
        "user_embedding_feature_names": ["uih_item", "uih_tag", "user"],
        "item_embedding_feature_names": ["item", "tag"],
        "uih_post_id_feature_name": "uih_item",
        "uih_action_time_feature_name": "action_time",
        "uih_weight_feature_name": "uih_weight",
        "merge_uih_candidate_feature_mapping": [
            ("uih_item", "item"), ("uih_tag", "tag"), ("action_time", "query_time"),
            ("uih_weight", "weight"), ("uih_watch", "watch"),
        ],
        "action_weights": [1, 2, 4],
    } | changes)  # fmt: skip


HISTORIES, CANDIDATES = [7, 0, 12, 3], [3, 2, 1, 4]


def batch(kind: Any = Jagged, seed: int = 0) -> tuple[Any, Any]:
    """Users of whom each has one item that they like; watch times are the item's number."""
    rng = random.Random(seed)

    def side(counts: list[int], names: dict[str, Any], singles: dict[str, int]) -> Any:
        values, lengths = [], []
        for name, make in names.items():
            n = [1] * len(counts) if name in singles else counts
            values += [make(i) for i in range(sum(n))]
            lengths += n
        return kind(keys=list(names), values=torch.tensor(values), lengths=torch.tensor(lengths))

    items = [rng.randrange(IDS) for _ in range(sum(HISTORIES))]
    offered = [rng.randrange(IDS) for _ in range(sum(CANDIDATES))]
    history = {
        "uih_item": items.__getitem__,
        "uih_tag": lambda i: items[i] % 5,
        "user": lambda i: i,
        "action_time": lambda i: 1_700_000_000 + 3600 * i,
        "uih_weight": lambda i: 1 + items[i] % 2,
        "uih_watch": lambda i: items[i] % 3,
    }
    candidates = {
        "item": offered.__getitem__,
        "tag": lambda i: offered[i] % 5,
        "query_time": lambda i: 1_700_900_000 + 60 * i,
        "weight": lambda i: 1 + offered[i] % 2,
        "watch": lambda i: offered[i] % 3,
    }
    return side(HISTORIES, history, {"user": 1}), side(CANDIDATES, candidates, {})


def model(collection: nn.Module | None = None, **options: Any) -> DlrmHSTU:
    torch.manual_seed(0)
    defaults = {"is_inference": False, "bf16_training": False}
    made = DlrmHSTU(
        config(**options.pop("changes", {})), {}, **(defaults | options),
        embedding_collection=collection or Collection(),
    )  # fmt: skip
    made.set_hammer_kernel(HammerKernel.PYTORCH)
    return made


def losses_of_training(made: DlrmHSTU, kind: Any = Jagged, steps: int = 20) -> list[float]:
    parameters = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = sum(made(*batch(kind))[2].values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    dense = [p for name, p in made.named_parameters() if "_embedding_collection" not in name]
    assert all(p.grad is not None and p.grad.any() for p in dense)
    return losses


def assert_falls(losses: list[float]) -> None:
    assert all(a == a for a in losses) and losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize("bf16", [False, True])
def test_twenty_steps_of_training_halve_the_loss(bf16: bool) -> None:
    assert_falls(losses_of_training(model(bf16_training=bf16)))


@pytest.mark.parametrize(
    "changes",
    [
        {"contextual_feature_to_max_length": {}, "action_weights": None},
        {"hstu_group_norm": True, "use_layer_norm_postprocessor": True},
        {"enable_postprocessor": False, "hstu_linear_dropout_rate": 0.2},
    ],
    ids=["no contexts, no actions", "group norm, layer norm", "no postprocessor, dropout"],
)
def test_every_part_that_can_be_left_out_or_exchanged_trains(changes: dict[str, Any]) -> None:
    losses = losses_of_training(model(changes=changes), steps=10)
    assert losses[-1] < losses[0]


def test_dynamic_tables_train_with_it() -> None:
    dynamicemb = pytest.importorskip("dynamicemb.modules", reason="dynamicemb is not installed")
    tables = [
        dynamicemb.EmbeddingConfig(name, DIM, 1024, features) for name, features in TABLES.items()
    ]
    made = dynamicemb.DynamicEmbeddingCollection(tables, device="cpu")
    assert_falls(losses_of_training(model(made), dynamicemb.KeyedJaggedTensor))


@pytest.mark.skipif(find_spec("torchrec") is not None, reason="torchrec is installed")
def test_tables_without_torchrec_are_refused_by_its_name() -> None:
    with pytest.raises(ImportError, match="pip install torchrec, or give embedding_collection"):
        DlrmHSTU(config(), {"item": object()}, is_inference=False)


def test_results_have_the_shapes_labels_and_weights_of_the_batch() -> None:
    made = model()
    user, item, aux, predictions, labels, weights = made(*batch())
    targets = sum(CANDIDATES)
    assert user.shape == item.shape == (targets, 16)
    assert predictions.shape == (3, targets) and set(aux) == {"like", "share", "watched"}
    bits = batch()[1].values()[3 * targets : 4 * targets]
    watched = batch()[1].values()[4 * targets :]
    assert labels is not None and weights is not None
    assert torch.equal(labels, torch.stack([bits & 1, (bits & 2) // 2, watched]).float())
    assert (weights == 1).all()
    losses = made._multitask_module(user, item, dict(zip(aux, labels, strict=True)), {})[3]
    torch.testing.assert_close(torch.stack(list(aux.values())), losses)
    assert made.eval()(*batch())[2] == {}


def test_the_side_of_items_is_an_mlp_of_their_embeddings() -> None:
    from tests.hstu_triton import plain

    made = model().double()
    made.set_training_dtype(torch.float64)
    embeddings, *rest = made.preprocess(*batch())
    assert isinstance(embeddings["item"], SequenceEmbedding)
    rows = torch.cat([embeddings[name].embedding for name in ("item", "tag")], 1)
    item = made.main_forward(embeddings, *rest)[1]
    torch.testing.assert_close(item, plain.mlp(made._item_mlp, rows))


def test_in_inference_what_happened_is_not_looked_at() -> None:
    made = model(is_inference=True)
    made.set_hammer_kernel(HammerKernel.PYTORCH)
    with torch.no_grad():
        user, _, aux, predictions, labels, weights = made(*batch())
        history, candidates = batch()
        without = candidates.keys()[:3]  # no weights, no watch times
        n = 3 * sum(CANDIDATES)
        cut = Jagged(without, candidates.values()[:n], candidates.lengths()[: 3 * 4])
        again = made(history, cut)
    assert (aux, labels, weights) == ({}, None, None)
    assert torch.equal(again[3], predictions) and torch.equal(again[0], user)


def test_a_dense_model_has_no_collection_and_the_same_result() -> None:
    whole = model()
    dense = model(is_dense=True)
    assert not hasattr(dense, "_embedding_collection")
    dense.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if "_embedding_collection" not in k}
    )
    with torch.no_grad():
        expected = whole.eval()(*batch())[3]
        got = dense.eval().main_forward(*whole.preprocess(*batch()))[3]
    assert torch.equal(got, expected)


def test_candidates_do_not_see_one_another() -> None:
    made = model().eval()
    history, candidates = batch()
    other = candidates.values().clone()
    other[0] = (other[0] + 1) % IDS  # another item in the first place
    with torch.no_grad():
        first = made(history, candidates)[3]
        second = made(history, Jagged(candidates.keys(), other, candidates.lengths()))[3]
    assert not torch.allclose(first[:, 0], second[:, 0])
    torch.testing.assert_close(first[:, 1:], second[:, 1:])


class Reads(TorchDispatchMode):
    """Counts what waits for the values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive"):
            self.counts[name] += 1
        if name == "repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_forward_behind_the_lookup_reads_nothing_on_the_host() -> None:
    made = model()
    inputs = made.preprocess(*batch())
    with Reads() as reads:
        made.main_forward(*inputs)
    assert reads.counts == {}
    with Reads() as reads:
        torch.ones(1).item()
    assert reads.counts == {"_local_scalar_dense": 1}


def test_a_missing_width_is_named() -> None:
    with pytest.raises(ValueError, match="hstu_transducer_embedding_dim must be >= 1, got 0"):
        model(changes={"hstu_transducer_embedding_dim": 0})
    with pytest.raises(ValueError, match="embedding_tables must hold a table"):
        DlrmHSTU(config(), {}, is_inference=False)


@pytest.mark.gpu
def test_on_a_gpu_the_forward_behind_the_lookup_waits_for_nothing() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    made = model().to("cuda")
    made.set_hammer_kernel(HammerKernel.TRITON)
    history, candidates = batch()
    inputs = made.preprocess(
        *(Jagged(b.keys(), b.values().cuda(), b.lengths().cuda()) for b in (history, candidates))
    )
    made.main_forward(*inputs)  # kernels compile
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.main_forward(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
