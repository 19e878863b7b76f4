"""The LongBench programs of examples/mustafar: metrics worked out by hand, and a run of both."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.common.processes import python

EXAMPLES = Path("examples/mustafar").resolve()
RULES = json.loads((EXAMPLES / "long_bench.json").read_text())


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METRICS = load("long_bench_metrics")


@pytest.mark.parametrize(
    ("metric", "prediction", "answer", "score"),
    [
        # Words: "cat sat" and "cat sat down": 2 shared of 2 and 3.
        ("qa_f1", "The cat sat.", "a cat sat down", 0.8),
        ("qa_f1", "dog", "cat", 0.0),
        ("qa_f1", "cat cat", "cat", 2 / 3),
        ("retrieval", "Paragraph 3, or 4", "Paragraph 3", 0.5),
        ("retrieval", "none", "Paragraph 3", 0.0),
        ("retrieval_zh", "段落7", "段落7", 1.0),
        ("count", "12 or 12 or 5", "12", 2 / 3),
        # Longest common subsequence 2: precision 2/2, recall 2/4.
        ("rouge", "the cat", "the cat sat down", 2 / 3),
        ("rouge", "", "the cat", 0.0),
        # 12 characters in all, "abcd" and "abed": 3 of 4 stay.
        ("code_sim", "# a comment\nabcd\nmore", "abed", 0.75),
        ("code_sim", "```\nx = 1", "x = 1", 1.0),
    ],
)
def test_a_metric_is_what_its_definition_says(
    metric: str, prediction: str, answer: str, score: float
) -> None:
    assert METRICS.METRICS[metric](prediction, answer) == pytest.approx(score, abs=1e-6)


def test_classes_that_are_parts_of_the_answer_do_not_count_against_it() -> None:
    classes = ["city", "other city", "state"]
    assert METRICS.classification("other city", "other city", classes) == 1
    assert METRICS.classification("state, other city", "other city", classes) == 0.5
    assert METRICS.classification("state", "city", classes) == 0


def test_chinese_words_are_those_of_jieba() -> None:
    pytest.importorskip("jieba", reason="needs jieba, which has no wheel to pin")
    assert METRICS.qa_f1_zh("北京。", "北京") == 1
    assert METRICS.qa_f1_zh("我爱北京", "北京") == pytest.approx(0.5)
    assert METRICS.rouge_zh("我 爱 北京", "我 爱 北京") == pytest.approx(1, abs=1e-6)


def test_the_best_answer_counts_and_of_some_tasks_only_the_first_line() -> None:
    score = METRICS.sample_score
    assert score("qa_f1", "cat\ndog", ["bird", "cat"], None, True) == 1
    assert score("qa_f1", "cat\ndog", ["bird", "cat"], None, False) == pytest.approx(2 / 3)


def test_every_task_has_a_prompt_a_length_and_a_metric() -> None:
    assert len(RULES["tasks"]) == 21 and len(RULES["english"]) == 16
    assert len(RULES["tokens_of_model"]) == 21
    for rule in RULES["tasks"].values():
        assert rule["metric"] in METRICS.METRICS and "{context}" in rule["prompt"]
        assert rule["new"] in (32, 64, 128, 512)
    for name in ("english", "without_e", "first_line_only", "without_chat"):
        assert set(RULES[name]) <= set(RULES["tasks"])


def run(script: str, *arguments: str) -> str:
    done = python(EXAMPLES / script, *arguments, first=EXAMPLES)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_predictions_are_made_and_scored_without_a_model_or_data(tmp_path: Path) -> None:
    common = ("--out", str(tmp_path))
    tasks = ("--tasks", "qasper", "lcc", "--samples", "1", "--new", "3")
    printed = run("pred_long_bench.py", *common, *tasks)
    assert "random weights" in printed
    name = "random_4096_K_0.5_V_0.5"
    (line,) = (tmp_path / name / "qasper.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"pred", "answers", "all_classes", "length"}
    run("eval_long_bench.py", *common, "--model", name)
    result = json.loads((tmp_path / name / "result.json").read_text())
    assert set(result) == {"qasper", "lcc"} and all(0 <= s <= 100 for s in result.values())
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
        "lcc.jsonl", "qasper.jsonl", "result.json",
    ]  # fmt: skip
