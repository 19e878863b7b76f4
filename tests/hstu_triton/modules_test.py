"""Each module against its formula, written out in plain float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from generative_recommenders.common import HammerKernel, HammerModule, complete_cumsum
from generative_recommenders.modules import contextualize_mlps as mlps
from generative_recommenders.modules import postprocessors
from generative_recommenders.modules.action_encoder import ActionEncoder
from generative_recommenders.modules.content_encoder import ContentEncoder
from generative_recommenders.modules.contextual_interleave_preprocessor import (
    ContextualInterleavePreprocessor,
)
from generative_recommenders.modules.hstu_transducer import HSTUTransducer
from generative_recommenders.modules.multitask_module import (
    DefaultMultitaskModule,
    MultitaskTaskType,
    TaskConfig,
)
from generative_recommenders.modules.positional_encoder import HSTUPositionalEncoder
from generative_recommenders.modules.preprocessors import (
    ContextualPreprocessor,
    InputPreprocessor,
    Sequences,
    get_contextual_input_embeddings,
)
from generative_recommenders.modules.stu import STULayer, STULayerConfig, STUStack
from torch import Tensor, nn

from tests.hstu_triton import cases, plain

HISTORY, TARGETS = [5, 0, 7], [2, 1, 0]
LENGTHS = [h + t for h, t in zip(HISTORY, TARGETS, strict=True)]
ROWS = sum(LENGTHS)
HISTORY_ROWS = torch.cat([torch.arange(h) + sum(LENGTHS[:b]) for b, h in enumerate(HISTORY)])
TARGET_ROWS = torch.tensor([i for i in range(ROWS) if i not in HISTORY_ROWS.tolist()])
OFFSETS = [complete_cumsum(torch.tensor(n)) for n in (HISTORY, TARGETS)]
BITS = [1, 4, 8]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return cases.drawn(*shape, dtype=torch.float64, seed=seed).cpu()


def ready(module: Any) -> Any:
    """In float64, on PYTORCH, with no parameter at a trivial value."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    module.set_hammer_kernel(HammerKernel.PYTORCH)
    return module.double()


def payloads() -> dict[str, Tensor]:
    lengths = torch.tensor([2, 0, 3])
    return {
        "action": torch.tensor([1, 5, 0, 8, 13, 4, 4, 0, 2, 9, 1, 12]),
        "watch": torch.arange(12) * 10,
        "extra": numbers(ROWS, 6, seed=4),
        "enrich": numbers(3, 2, seed=5),
        "user": numbers(5, 6, seed=6),
        "user_offsets": complete_cumsum(lengths),
    }


def action_rows(encoder: ActionEncoder, bits: list[int], actions: list[int]) -> Tensor:
    rows = encoder._target_row.repeat(ROWS, 1)
    for row, action in zip(HISTORY_ROWS.tolist(), actions, strict=True):
        parts = [encoder._table[j] * bool(action & bit) for j, bit in enumerate(bits)]
        rows[row] = torch.cat(parts)
    return rows


@pytest.mark.parametrize("watched", [False, True])
def test_actions_are_a_row_for_each_bit(watched: bool) -> None:
    more = {"watchtime_to_action_thresholds_and_weights": [(35, 16), (80, 2)]} if watched else {}
    encoder = ready(ActionEncoder(4, "action", BITS, "watch", **more))
    given = payloads()
    bits, actions = list(BITS), given["action"].tolist()
    if watched:
        bits += [16, 2]
        for i, watch in enumerate(given["watch"].tolist()):
            actions[i] |= (16 if watch >= 35 else 0) | (2 if watch >= 80 else 0)
    assert encoder.output_embedding_dim == 4 * len(bits)
    got = encoder(7, 2, *OFFSETS, numbers(ROWS, 6), given)
    torch.testing.assert_close(got, action_rows(encoder, bits, actions))
    got.sum().backward()
    assert encoder._table.grad.abs().sum() > 0
    assert (encoder._target_row.grad == 3).all()


def test_contents_are_features_side_by_side() -> None:
    encoder = ready(ContentEncoder(6, {"extra": 6}, {"enrich": 2}))
    x, given = numbers(ROWS, 6), payloads()
    got = encoder(7, 2, *OFFSETS, x, given)
    enrich = encoder._history_rows["enrich"].repeat(ROWS, 1)
    enrich[TARGET_ROWS] = given["enrich"]
    torch.testing.assert_close(got, torch.cat([x, given["extra"], enrich], 1))
    assert encoder.output_embedding_dim == 14
    assert torch.equal(ready(ContentEncoder(6))(7, 2, *OFFSETS, x, given), x)


def test_a_contextualized_mlp_is_a_matrix_for_each_sequence() -> None:
    x, context = numbers(ROWS, 6), numbers(3, 10, seed=1)
    offsets = complete_cumsum(torch.tensor(LENGTHS))
    simple = ready(mlps.SimpleContextualizedMLP(6, 4, 5))
    torch.testing.assert_close(simple(x, offsets, 7, None), plain.mlp(simple._mlp, x))
    module = ready(mlps.ParameterizedContextualizedMLP(10, 6, 4, 5))
    s = F.linear(context, module._context.weight, module._context.bias)
    raw = s @ module._matrix.weight.t() + module._matrix.bias
    matrices = plain.norm(raw, module._matrix_norm.weight, module._matrix_norm.bias, 1e-5)
    bias = plain.mlp(module._bias, s)
    expected = [
        rows @ a.reshape(6, 4) + b
        for rows, a, b in zip(plain.sequences(x, LENGTHS), matrices, bias, strict=True)
    ]
    torch.testing.assert_close(module(x, offsets, 7, context), torch.cat(expected))
    with pytest.raises(ValueError, match="contextual_embeddings must be a tensor, got NoneType"):
        module(x, offsets, 7, None)


def context_of(given: dict[str, Tensor], least: int) -> Tensor:
    """Two places of the feature, zeros where a sequence has less or is shorter than ``least``."""
    out = torch.zeros(3, 2, 6, dtype=torch.float64)
    if LENGTHS[0] >= least:
        out[0] = given["user"][:2]
    out[2] = given["user"][2:4] if LENGTHS[2] >= least else 0.0
    return out.flatten(1)


@pytest.mark.parametrize("least", [0, 7, 8])
def test_contextual_features_are_padded_or_left_out(least: int) -> None:
    given = payloads()
    got = get_contextual_input_embeddings(
        torch.tensor(LENGTHS), given, {"user": 2}, {"user": least} if least else {}, torch.float64
    )
    torch.testing.assert_close(got, context_of(given, least))


def in_front(contextual: Tensor, rows: list[Tensor]) -> Tensor:
    return torch.cat([t for pair in zip(contextual, rows, strict=True) for t in pair])


def prepared(module: InputPreprocessor, x: Tensor, given: dict[str, Tensor]) -> Any:
    times = torch.arange(1_700_000_001, 1_700_000_001 + ROWS)  # float32 cannot hold them
    sizes = (torch.tensor(LENGTHS), times, x, torch.tensor(TARGETS))
    return module(7, 2, sum(HISTORY), sum(TARGETS), *sizes, given)


@pytest.mark.parametrize("contexts", [False, True])
def test_the_preprocessor_adds_its_parts(contexts: bool) -> None:
    module = ready(
        ContextualPreprocessor(
            6, 5, 8, {"user": 2} if contexts else {}, {}, 4, "action", BITS, ["extra"],
            is_inference=False,
        )
    )  # fmt: skip
    x, given = numbers(ROWS, 6), payloads()
    actions = action_rows(module._action_encoder, BITS, given["action"].tolist())
    expected = plain.mlp(module._content_mlp, x) + plain.mlp(module._action_mlp, actions)
    expected = expected + plain.mlp(module._additional_mlp, given["extra"])
    got = prepared(module, x, given)
    lengths, first = list(LENGTHS), 1_700_000_001
    times = torch.arange(first, first + ROWS)
    if contexts:
        rows = module._contextual_rows
        made = plain.contextual(rows._weights, rows._bias, context_of(given, 0))
        expected = in_front(made, plain.sequences(expected, LENGTHS))
        times = in_front(torch.zeros(3, 2).long(), plain.sequences(times, LENGTHS))
        lengths = [n + 2 for n in LENGTHS]
    torch.testing.assert_close(got.embeddings, expected)
    assert torch.equal(got.timestamps, times)
    assert (got.lengths.tolist(), got.num_targets.tolist()) == (lengths, TARGETS)
    assert got.offsets.tolist() == complete_cumsum(torch.tensor(lengths)).tolist()
    extra = 2 * contexts
    assert got[:3] == (9 + extra, sum(HISTORY) + 3 * extra, 3)
    assert not module.interleave_targets()


@pytest.mark.parametrize("mode", ["added", "training", "evaluation", "inference"])
def test_contents_and_actions_take_turns(mode: str) -> None:
    inference = mode == "inference"

    def mlp(in_dim: int, out_dim: int, contextual: int, is_inference: bool) -> Any:
        return mlps.ParameterizedContextualizedMLP(contextual, in_dim, out_dim, 5, is_inference)

    module = ready(
        ContextualInterleavePreprocessor(
            6, 8, {"user": 2}, {},
            ContentEncoder(6, {"extra": 6}, is_inference=inference), mlp,
            ActionEncoder(4, "action", BITS, is_inference=inference), mlp,
            enable_interleaving=mode != "added", is_inference=inference,
        )
    )  # fmt: skip
    module.train(mode in ("added", "training"))
    x, given = numbers(ROWS, 6), payloads()
    context, offsets = context_of(given, 0), complete_cumsum(torch.tensor(LENGTHS))
    content, action = (
        plain.sequences(mlp(rows, offsets, 9, context), LENGTHS)
        for mlp, rows in (
            (module._content_mlp, torch.cat([x, given["extra"]], 1)),
            (
                module._action_mlp,
                action_rows(module._action_encoder, BITS, given["action"].tolist()),
            ),
        )
    )
    sequences, times, at = [], [], 1_700_000_001
    for c, a, history in zip(content, action, HISTORY, strict=True):
        stamps = torch.arange(at, at + len(c))
        at += len(c)
        both = torch.stack([c, a], 1).flatten(0, 1)
        twice = stamps.repeat_interleave(2)
        if mode == "added":
            both, twice = c + a, stamps
        elif mode != "training":
            both = torch.cat([both[: 2 * history], c[history:]])
            twice = torch.cat([twice[: 2 * history], stamps[history:]])
        sequences.append(both)
        times.append(twice)
    rows = module._contextual_rows
    made = plain.contextual(rows._weights, rows._bias, context)
    got = prepared(module, x, given)
    torch.testing.assert_close(got.embeddings, in_front(made, sequences))
    assert torch.equal(got.timestamps, in_front(torch.zeros(3, 2).long(), times))
    assert got.lengths.tolist() == [len(t) + 2 for t in sequences]
    double = 2 if mode == "training" else 1
    assert got.num_targets.tolist() == [double * t for t in TARGETS]
    histories = sum(HISTORY) * (1 if mode == "added" else 2) + 6
    assert (got.total_uih_len, got.total_targets) == (histories, double * 3)
    assert got.total_uih_len + got.total_targets == len(got.embeddings)
    assert module.interleave_targets() == (mode == "training")


def test_the_positional_encoder_adds_place_and_age() -> None:
    module = ready(HSTUPositionalEncoder(6, 4, 8, 2, is_inference=False))
    assert module._timestamp_embeddings_weight.shape == (5, 8)
    x, times = numbers(ROWS, 8), torch.arange(ROWS) * 300
    lengths, targets = torch.tensor(LENGTHS), torch.tensor(TARGETS)
    got = module(7, lengths, complete_cumsum(lengths), times, x, targets)
    tables = (module._position_embeddings_weight, module._timestamp_embeddings_weight)
    expected = [
        plain.position(rows, at, t, 2, *tables)
        for rows, at, t in zip(
            plain.sequences(x, LENGTHS), plain.sequences(times, LENGTHS), TARGETS, strict=True
        )
    ]
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-6, atol=1e-6)


def test_postprocessors_are_their_formulas() -> None:
    x = numbers(5, 6)
    x[2] = 0.0
    times = torch.tensor([0, 3_599, 1_700_000_000, 1_700_003_600, 86_400 * 9])
    got = postprocessors.L2NormPostprocessor()(x, times, {})
    expected = torch.stack([row / max(float(row.norm()), 1e-6) for row in x])
    torch.testing.assert_close(got, expected)
    layer = ready(postprocessors.LayerNormPostprocessor(6))
    expected = plain.norm(x, layer._norm.weight, layer._norm.bias, 1e-5)
    torch.testing.assert_close(layer(x, times, {}), expected)
    module = ready(postprocessors.TimestampLayerNormPostprocessor(6, [(3600, 24), (86400, 7)]))
    rows = []
    for row, t in zip(x.tolist(), times.tolist(), strict=True):
        angles = [
            2 * 3.14 * (t // unit % units) / units for unit, units in ((3600, 24), (86400, 7))
        ]
        rows.append(row + [f(a) for a in angles for f in (math.cos, math.sin)])
    wide = torch.tensor(rows, dtype=torch.float64) @ module._linear.weight.t() + module._linear.bias
    expected = plain.norm(wide, module._norm.weight, module._norm.bias, 1e-5)
    torch.testing.assert_close(module(x, times, {}), expected, rtol=1e-6, atol=1e-6)


class Doubled(InputPreprocessor):
    """Each target twice, as a preprocessor that interleaves has it."""

    def forward(self, max_uih_len: int, max_targets: int, total_uih_len: int, total_targets: int,
                seq_lengths: Tensor, seq_timestamps: Tensor, seq_embeddings: Tensor,
                num_targets: Tensor, seq_payloads: dict[str, Tensor]) -> Any:  # fmt: skip
        lengths = seq_lengths + num_targets
        twice = [1 if i in HISTORY_ROWS.tolist() else 2 for i in range(ROWS)]
        at = torch.repeat_interleave(torch.arange(ROWS), torch.tensor(twice))
        return Sequences(
            max_uih_len + 2 * max_targets, total_uih_len, 2 * total_targets, lengths,
            complete_cumsum(lengths), seq_timestamps[at], seq_embeddings[at], 2 * num_targets,
            seq_payloads,
        )  # fmt: skip

    def interleave_targets(self) -> bool:
        return True


def transducer(preprocessor: InputPreprocessor | None = None, **options: Any) -> HSTUTransducer:
    torch.manual_seed(0)
    layers = [STULayer(STULayerConfig(8, 2, 4, 4, 0.0)) for _ in range(2)]
    made = preprocessor or ContextualPreprocessor(6, 5, 8, {}, {}, is_inference=False)
    encoder = HSTUPositionalEncoder(6, 4, 8, 0, is_inference=False)
    module = HSTUTransducer(
        STUStack(layers), made, positional_encoder=encoder, is_inference=False, **options
    )
    module = ready(module)
    module.set_training_dtype(torch.float64)
    return module


def candidates(module: HSTUTransducer, x: Tensor) -> Any:
    times = torch.arange(ROWS) * 300
    rest = (torch.tensor(LENGTHS), x, times, torch.tensor(TARGETS), payloads())
    return module(7, 2, sum(HISTORY), sum(TARGETS), *rest)


def stacked(module: HSTUTransducer, x: Tensor, lengths: list[int], targets: list[int],
            times: list[Tensor]) -> Tensor:  # fmt: skip
    encoder = module._positional_encoder
    tables = (encoder._position_embeddings_weight, encoder._timestamp_embeddings_weight)
    rows = [
        plain.position(part, at, t, 0, *tables)
        for part, at, t in zip(plain.sequences(x, lengths), times, targets, strict=True)
    ]
    x = torch.cat(rows)
    for layer in module._stu_module._stu_layers:
        x = plain.stu_layer(layer, x, lengths, targets, max(lengths_of(module)))
    return x


def lengths_of(module: HSTUTransducer) -> list[int]:
    """What scores are divided by: the longest history and the most targets, together."""
    return [7 + 2 * (2 if module._input_preprocessor.interleave_targets() else 1)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("listwise", [False, True])
def test_the_transducer_gives_a_row_for_each_target(full: bool, listwise: bool) -> None:
    module = transducer(return_full_embeddings=full, listwise=listwise)
    x = numbers(ROWS, 6)
    rows = plain.mlp(module._input_preprocessor._content_mlp, x)
    times = plain.sequences(torch.arange(ROWS) * 300, LENGTHS)
    whole = stacked(module, rows, LENGTHS, [0] * 3 if listwise else TARGETS, times)
    whole = whole / whole.norm(dim=1, keepdim=True)
    got, every = candidates(module, x)
    torch.testing.assert_close(got, whole[TARGET_ROWS], rtol=1e-5, atol=1e-5)
    assert (every is None) != full
    if full:
        torch.testing.assert_close(every, whole, rtol=1e-5, atol=1e-5)


def test_of_interleaved_targets_the_first_row_counts() -> None:
    module = transducer(Doubled(is_inference=False))
    x = numbers(ROWS, 8)
    got, _ = candidates(module, x)
    doubled, times, at = [], [], 0
    for h, t in zip(HISTORY, TARGETS, strict=True):
        index = torch.tensor(
            [*range(at, at + h), *(i for i in range(at + h, at + h + t) for _ in "ab")]
        )
        doubled.append(x[index.long()])
        times.append(index.long() * 300)
        at += h + t
    lengths = [len(t) for t in doubled]
    whole = stacked(module, torch.cat(doubled), lengths, [2 * t for t in TARGETS], times)
    firsts = [rows[h::2] for rows, h in zip(plain.sequences(whole, lengths), HISTORY, strict=True)]
    expected = torch.cat(firsts)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_training_runs_in_the_training_dtype_and_evaluation_does_not() -> None:
    module = transducer()
    seen: list[torch.dtype] = []
    module._stu_module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    module.float().set_training_dtype(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = candidates(module, numbers(ROWS, 6).float())
    candidates(module.eval(), numbers(ROWS, 6).float())
    assert seen == [torch.bfloat16, torch.float32] and out.dtype is torch.float32


def test_linear_layers_outside_the_layers_are_drawn_xavier_normal() -> None:
    torch.manual_seed(0)
    made = ContextualPreprocessor(600, 500, 8, {}, {}, is_inference=False)
    layer = STULayer(STULayerConfig(8, 2, 4, 4))
    before = layer._uvqk_weight.clone()
    HSTUTransducer(STUStack([layer]), made, is_inference=False)
    weight = next(m for m in made.modules() if isinstance(m, nn.Linear)).weight
    assert abs(float(weight.detach().std()) - math.sqrt(2 / 1100)) < 5e-4
    assert float(weight.detach().abs().max()) > math.sqrt(6 / 1100)  # beyond any uniform one
    assert torch.equal(layer._uvqk_weight, before)
    with pytest.raises(ValueError, match="input_preprocessor must have is_inference = True"):
        HSTUTransducer(STUStack([layer]), made, is_inference=True)


def tasks(inference: bool = False) -> DefaultMultitaskModule:
    binary, regression = MultitaskTaskType.BINARY_CLASSIFICATION, MultitaskTaskType.REGRESSION
    configs = [
        TaskConfig("a", 1, binary),
        TaskConfig("b", 2, binary),
        TaskConfig("c", 0, regression),
    ]
    return ready(DefaultMultitaskModule(configs, 6, nn.Linear, 0.3, inference))


def test_predictions_and_losses_are_those_of_the_formula() -> None:
    module = tasks()
    user, item = numbers(4, 6), numbers(4, 6, seed=1)
    labels = {"a": torch.tensor([0, 1, 1, 0]), "b": torch.ones(4), "c": torch.arange(4)}
    weights = {"b": torch.tensor([0.0, 0.0, 0.5, 0.0]), "c": torch.tensor([1.0, 2.0, 0.0, 3.0])}
    got, got_labels, got_weights, losses = module(user, item, labels, weights)
    logits = ((user * item) @ module._head.weight.t() + module._head.bias).t().tolist()
    for i, name in enumerate("abc"):
        w, y = weights.get(name, torch.ones(4)).tolist(), labels[name].tolist()
        p = [1 / (1 + math.exp(-z)) if i < 2 else z for z in logits[i]]
        torch.testing.assert_close(got[i].tolist(), p)
        each = [
            (z - t) ** 2 if i == 2 else -(t * math.log(q) + (1 - t) * math.log(1 - q))
            for z, q, t in zip(logits[i], p, y, strict=True)
        ]
        loss = 0.3 * sum(a * b for a, b in zip(w, each, strict=True)) / max(sum(w), 1.0)
        assert abs(losses[i].item() - loss) < 1e-5 * max(1.0, loss)
        assert got_labels[i].tolist() == y and got_weights[i].tolist() == w
    module = tasks(inference=True)
    assert module(user, item, {}, {})[1:] == (None, None, None)


def test_tasks_that_are_none_or_not_in_order_are_named() -> None:
    binary, regression = MultitaskTaskType.BINARY_CLASSIFICATION, MultitaskTaskType.REGRESSION
    wrong = [TaskConfig("c", 0, regression), TaskConfig("a", 1, binary)]
    for configs, message in (
        ([], "task_configs must hold at least one task"),
        (wrong, r"sorted by task_type, got \['REGRESSION', 'BINARY_CLASSIFICATION'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            DefaultMultitaskModule(configs, 6, nn.Linear, 0.3, False)


def test_every_module_is_a_hammer_module() -> None:
    module = transducer()
    module.set_hammer_kernel(HammerKernel.TRITON)
    kernels = {m.hammer_kernel() for m in module.modules() if isinstance(m, HammerModule)}
    assert kernels == {HammerKernel.TRITON}
