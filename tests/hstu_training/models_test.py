"""Losses, negatives and the two models, by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hstu_training.configs.task_config import RankingConfig, RetrievalConfig
from hstu_training.data.batches import Batch
from hstu_training.model.ranking_gr import RankingGR
from hstu_training.model.retrieval_gr import RetrievalGR
from hstu_training.modules.embeddings import (
    Embeddings,
    TableConfig,
    TableOptimizer,
    collection_of,
)
from hstu_training.modules.hstu_processor import joined
from hstu_training.modules.jagged import take
from hstu_training.modules.mlp import MLP
from hstu_training.modules.multi_task_loss import labels_of, multi_task_losses
from hstu_training.modules.negatives_sampler import NegativesSampler
from hstu_training.modules.sampled_softmax_loss import l2_normalised, sampled_softmax_losses
from hstu_training.ops.counter import Randomness, mix, mixed, token_keys

from tests.common.jagged import prefix_sums
from tests.hstu_training.cases import config

BIG = 2**53 + 1  # not a float64, let alone a float32


def random(count: int, seed: int = 5) -> Randomness:
    return Randomness(seed, 0, token_keys(torch.zeros(count), torch.arange(count)))


def test_draws_are_a_function_of_their_numbers() -> None:
    x = torch.tensor([0, 1, 2**40, -5])
    assert mixed(x).tolist() == [mix(n) for n in x.tolist()]
    whole = random(1000).keep(3, 0.3, 50)
    assert torch.equal(whole[200:300], random(1000).keep(3, 0.3, 50, torch.arange(200, 300)))
    assert abs(whole.double().mean() - 0.7) < 0.01
    assert not torch.equal(whole, random(1000).keep(4, 0.3, 50))
    assert not torch.equal(whole, random(1000, 6).keep(3, 0.3, 50))
    drawn = random(1000).integers(3, random(1000).rows, 7, 10)
    assert drawn.min() == 0 and drawn.max() == 9
    assert torch.bincount(drawn.flatten()).min() > 600


@pytest.mark.parametrize("sampling", ["uniform", "in_batch", "full"])
@pytest.mark.parametrize("count", [-1, 4])
def test_the_loss_is_a_softmax_with_the_positive_masked_among_negatives(
    sampling: str, count: int
) -> None:
    torch.manual_seed(0)
    if sampling == "uniform" and count == -1:
        return
    catalogue = torch.arange(BIG, BIG + 40, 2)
    positives = catalogue[torch.tensor([0, 3, 3, 7, 19])]
    batch_items = catalogue[torch.tensor([1, 2, 3, 4, 3])]
    sampler = NegativesSampler(sampling, count, catalogue)
    drawn = sampler(positives, random(5), batch_items)
    assert drawn.ids.dtype == torch.int64 and torch.equal(drawn.ids[drawn.positive], positives)
    assert torch.equal(drawn.ids, torch.unique(drawn.ids))
    if sampling == "in_batch":
        allowed = torch.unique(torch.cat([batch_items, positives]))
        assert torch.equal(drawn.ids, allowed)
    if sampling == "full":
        assert torch.equal(drawn.ids, catalogue)
    queries = l2_normalised(torch.randn(5, 6, dtype=torch.float64), 1e-6)
    items = l2_normalised(torch.randn(len(drawn.ids), 6, dtype=torch.float64), 1e-6)
    losses = sampled_softmax_losses(queries, items, drawn, 0.05)
    for p in range(5):
        scores = (items @ queries[p] / 0.05).tolist()
        own = int(drawn.positive[p])
        if drawn.drawn is None:
            others = [s for i, s in enumerate(scores) if i != own]
        else:
            others = [scores[i] if i != own else -5e4 for i in drawn.drawn[p].tolist()]
        most = max([scores[own], *others])
        total = sum(math.exp(s - most) for s in [scores[own], *others])
        assert losses[p].item() == pytest.approx(most + math.log(total) - scores[own], abs=1e-9)


def test_distinct_rows_have_the_gradients_of_any_selection() -> None:
    x = torch.randn(6, 3, dtype=torch.float64).requires_grad_()
    for rows in (torch.tensor([4, 0, 5]), torch.randperm(6), torch.tensor([], dtype=torch.int64)):
        grad = torch.randn(len(rows), 3, dtype=torch.float64)
        (found,) = torch.autograd.grad(take(x, rows), x, grad)
        (wanted,) = torch.autograd.grad(x[rows], x, grad)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16])
def test_parts_are_joined_in_another_dtype_as_cast_and_then_joined(wide: torch.dtype) -> None:
    parts = [torch.randn(n, 3).to(wide).requires_grad_() for n in (4, 0, 2)]
    grad = torch.randn(6, 3, dtype=torch.bfloat16)
    wanted = torch.cat([part.bfloat16() for part in parts])
    found = joined(parts, torch.bfloat16)
    assert found.dtype is torch.bfloat16 and torch.equal(found, wanted)
    for a, b in zip(*(torch.autograd.grad(x, parts, grad) for x in (found, wanted)), strict=True):
        assert a.dtype is b.dtype and torch.equal(a, b)


def test_scores_that_are_gathered_are_those_of_the_whole_product() -> None:
    torch.manual_seed(0)
    sampler = NegativesSampler("uniform", 2, torch.arange(1000))
    drawn = sampler(torch.arange(9), random(9), torch.arange(9))
    queries, items = torch.randn(9, 6).double(), torch.randn(len(drawn.ids), 6).double()
    few = sampled_softmax_losses(queries, items, drawn, 0.1)
    more = torch.cat([items, torch.zeros(1000, 6).double()])  # now they are gathered
    torch.testing.assert_close(sampled_softmax_losses(queries, more, drawn, 0.1), few)


def test_each_bit_of_an_action_is_a_task() -> None:
    eight = RankingConfig((4, 8), num_tasks=8)
    labels = labels_of(torch.tensor([0b10000101, 0]), eight, None)
    assert labels.tolist() == [[1, 0, 1, 0, 0, 0, 0, 1], [0] * 8]
    logits = torch.zeros(2, 8)
    assert multi_task_losses(logits, labels, eight).tolist() == pytest.approx([8 * math.log(2)] * 2)
    one = RankingConfig((1,), num_tasks=1)
    assert labels_of(torch.tensor([2, 3, 4]), one, 3).tolist() == [[0], [1], [1]]
    classes = RankingConfig((4, 5), num_tasks=1)
    actions = torch.tensor([4, 0])
    assert labels_of(actions, classes, None) is actions
    assert multi_task_losses(torch.zeros(2, 5), actions, classes).tolist() == pytest.approx(
        [math.log(5)] * 2
    )
    with pytest.raises(ValueError, match="logits must have 8 columns, got 5"):
        multi_task_losses(torch.zeros(2, 5), labels, eight)


def test_an_mlp_has_no_activation_behind_its_last_layer() -> None:
    mlp = MLP(3, (4, 2), "relu")
    x = torch.randn(5, 3)
    a, b = mlp.layers
    assert torch.equal(mlp(x), b(torch.relu(a(x))))
    with pytest.raises(ValueError, match="activation must be one of"):
        MLP(3, (4,), "tanh")


def batch(**changes: object) -> Batch:
    """Two users: contexts, 2 items with actions and a candidate; 1 item and a candidate."""
    features = {"city": torch.tensor([1, 2]), "item": torch.tensor([5, BIG, 7, 9, 5]),
                "action": torch.tensor([1, 0, 1])}  # fmt: skip
    # Rows: city 0 1 | items 2..6 | actions 7 8 9.
    order = torch.tensor([0, 2, 7, 3, 8, 4, 1, 5, 9, 6])
    given: dict[str, object] = {
        "features": features, "order": order, "cu": prefix_sums([6, 4]), "max_len": 6,
        "contexts": torch.tensor([1, 1], dtype=torch.int32),
        "targets": torch.tensor([1, 1], dtype=torch.int32), "cu_targets": prefix_sums([1, 1]),
        "max_targets": 1, "target_rows": torch.tensor([5, 9]), "read_rows": None,
        "labels": torch.tensor([1, 0]), "groups": torch.tensor([0, 1]),
        "slots": torch.tensor([0] * 6 + [1] * 4), "positions": torch.tensor([*range(6), *range(4)]),
        "times": None, "next_times": None, "seen": None, "count": 2, "pairs": 0, "sequences": 2,
    }  # fmt: skip
    return Batch(**{**given, **changes})  # type: ignore[arg-type]


def embeddings(dims: dict[str, int]) -> Embeddings:
    tables = [TableConfig(name, (name,), 100, dim, dynamic=name == "item")
              for name, dim in dims.items()]  # fmt: skip
    collection = collection_of(
        [t for t in tables if t.dynamic], TableOptimizer("adam", 0.002), torch.device("cpu"), 3
    )
    return Embeddings(tables, collection, torch.float32)


@pytest.mark.parametrize("dims", [(12, 12, 12), (6, 12, 4)])
def test_a_candidate_s_score_hangs_on_its_history_alone(dims: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    given = config(dtype=torch.float32)
    tables = embeddings(dict(zip(("city", "item", "action"), dims, strict=True)))
    model = RankingGR(given, RankingConfig((32, 1)), tables)
    tables.begin_step(0)
    loss = model(batch(), 3)  # items get their rows
    loss.backward()
    model.eval()
    whole = model.logits(batch())

    def changed(feature: str, place: int) -> list[bool]:
        ids = batch().features[feature].clone()
        ids[place] = (ids[place] + 1) % 3 if feature != "item" else 7
        other = model.logits(batch(features={**batch().features, feature: ids}))
        return (other != whole)[:, 0].tolist()

    assert changed("city", 0) == [True, False] and changed("item", 0) == [True, False]
    assert changed("action", 1) == [True, False] and changed("action", 2) == [False, True]
    assert changed("item", 3) == [False, True]


def test_a_step_of_retrieval_changes_the_rows_of_its_items() -> None:
    torch.manual_seed(0)
    tables = embeddings({"item": 12})
    catalogue = torch.tensor([5, 7, 9, BIG, BIG + 1])
    model = RetrievalGR(config(dtype=torch.float32), RetrievalConfig(sampling="full"), tables,
                        catalogue)  # fmt: skip
    given = batch(
        features={"item": torch.tensor([5, BIG, 7, 9])}, order=torch.arange(4),
        cu=prefix_sums([3, 1]), max_len=3, contexts=None, targets=None, cu_targets=None,
        target_rows=None,
        read_rows=torch.arange(4), labels=torch.tensor([BIG, 7, BIG + 1, 5]),
        slots=torch.tensor([0, 0, 0, 1]), positions=torch.tensor([0, 1, 2, 0]), count=4,
    )  # fmt: skip
    tables.begin_step(0)
    first = model(given, 1)
    first.backward()
    model.eval()
    before = model.items(catalogue).clone()
    model.train()
    for step in range(1, 12):
        tables.begin_step(step)
        loss = model(given, 1)
        loss.backward()
    assert loss < first
    model.eval()
    assert ((model.items(catalogue) - before).abs().sum(1) > 0).all()
    assert model.queries(given).shape == (4, 12)
    assert torch.allclose(model.queries(given).norm(dim=1), torch.ones(4), atol=1e-6)


def test_retrieval_wants_items_as_wide_as_tokens() -> None:
    with pytest.raises(ValueError, match=r"item_embedding_dim must be hidden_size, 12, .* got 6"):
        RetrievalGR(config(), RetrievalConfig(), embeddings({"item": 6}), torch.arange(3))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(RetrievalConfig, "temperature", 0.0), (RetrievalConfig, "sampling", "all"),
     (RetrievalConfig, "num_negatives", 0), (RetrievalConfig, "eval_metrics", ("HR",)),
     (RankingConfig, "num_tasks", 3), (RankingConfig, "prediction_head_act_type", "tanh"),
     (RankingConfig, "eval_metrics", ("NDCG@10",)), (RankingConfig, "prediction_head_arch", ())],
)  # fmt: skip
def test_a_wrong_task_is_named(kind: type, field: str, value: object) -> None:
    given = {"prediction_head_arch": (4, 8)} if kind is RankingConfig else {}
    with pytest.raises(ValueError, match=field):
        kind(**{**given, field: value})


def test_rows_of_static_tables_learn_as_each_table_alone() -> None:
    torch.manual_seed(1)
    sizes = {"a": (5, 8), "b": (1, 8), "c": (7, 4), "d": (300, 8)}
    tables = [TableConfig(name, (name,), *size, dynamic=False) for name, size in sizes.items()]
    embeddings = Embeddings(tables, None, torch.float32)
    ids = {name: torch.randint(0, rows, (40,)) for name, (rows, _) in sizes.items()}
    found = embeddings(ids)
    assert list(found) == list(sizes)
    weights = {name: torch.randn_like(rows) for name, rows in found.items()}
    sum((found[name] * w).sum() for name, w in weights.items()).backward()
    for name, w in weights.items():
        alone = embeddings.static[name].weight.detach().clone().requires_grad_()
        rows = torch.nn.functional.embedding(ids[name], alone)
        assert torch.equal(rows, found[name])
        (rows * w).sum().backward()
        assert torch.equal(alone.grad, embeddings.static[name].weight.grad)
