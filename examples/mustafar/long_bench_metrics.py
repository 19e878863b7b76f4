"""The metrics of LongBench: how near a prediction is to an answer, from 0 to 1.

``rouge``, ``rapidfuzz`` and ``jieba`` come with ``pip install mustafar[longbench]``; each is
imported by the metrics that need it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

Classes = Sequence[str] | None


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _words_zh(text: str) -> list[str]:
    import jieba

    def is_part(c: str) -> bool:
        return not (c.isspace() or unicodedata.category(c)[0] in "PS")

    def plain(word: str) -> str:
        return "".join(filter(is_part, word.lower()))

    return [word for word in map(plain, jieba.cut(text, cut_all=False)) if word]


def _f1(got: list[str], wanted: list[str]) -> float:
    same = sum((Counter(got) & Counter(wanted)).values())
    return 2 * same / (len(got) + len(wanted)) if same else 0.0


def qa_f1(prediction: str, answer: str, classes: Classes = None) -> float:
    """F1 of the words, as multisets, without case, punctuation and articles."""
    return _f1(_words(prediction), _words(answer))


def qa_f1_zh(prediction: str, answer: str, classes: Classes = None) -> float:
    """The same of jieba's words."""
    return _f1(_words_zh(prediction), _words_zh(answer))


def rouge(prediction: str, answer: str, classes: Classes = None) -> float:
    """ROUGE-L's F; 0 where one of both is empty."""
    from rouge import Rouge

    try:
        scores = Rouge().get_scores([prediction], [answer], avg=True)
    except (ValueError, RecursionError):
        return 0.0
    return float(scores["rouge-l"]["f"])


def rouge_zh(prediction: str, answer: str, classes: Classes = None) -> float:
    """The same of jieba's words."""
    import jieba

    return rouge(" ".join(jieba.cut(prediction)), " ".join(jieba.cut(answer)))


def classification(prediction: str, answer: str, classes: Classes = None) -> float:
    """1 / n if the answer is one of the n classes that the prediction names, without those that are
    parts of the answer."""
    found = [name for name in classes or () if name in prediction]
    found = [name for name in found if name == answer or name not in answer]
    return 1 / len(found) if answer in found else 0.0


def _share(prediction: str, number: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def _retrieval(pattern: str) -> Callable[[str, str, Classes], float]:
    def score(prediction: str, answer: str, classes: Classes = None) -> float:
        """The share of the prediction's numbers that are the answer's."""
        return _share(prediction, re.findall(pattern, answer)[0])

    return score


def count(prediction: str, answer: str, classes: Classes = None) -> float:
    """The share of the prediction's numbers that are the answer."""
    return _share(prediction, answer.strip())


def code_sim(prediction: str, answer: str, classes: Classes = None) -> float:
    """Likeness of the answer and the first line that is no comment and no fence."""
    from rapidfuzz import fuzz

    lines = prediction.lstrip("\n").split("\n")
    code = [line for line in lines if not any(mark in line for mark in ("`", "#", "//"))]
    return float(fuzz.ratio(code[0] if code else "", answer)) / 100


METRICS: dict[str, Callable[[str, str, Classes], float]] = {
    "qa_f1": qa_f1,
    "qa_f1_zh": qa_f1_zh,
    "rouge": rouge,
    "rouge_zh": rouge_zh,
    "classification": classification,
    "retrieval": _retrieval(r"Paragraph (\d+)"),
    "retrieval_zh": _retrieval(r"段落(\d+)"),
    "count": count,
    "code_sim": code_sim,
}


def sample_score(
    metric: str, prediction: str, answers: Sequence[str], classes: Classes, first_line: bool
) -> float:
    """The best over the answers; of some tasks only the first line of a prediction counts."""
    if first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    return max((METRICS[metric](prediction, answer, classes) for answer in answers), default=0.0)
