"""Scores what ``pred_long_bench.py`` wrote: 100 times the mean over a task's samples.

    python examples/mustafar/eval_long_bench.py --model <the folder's name> [--e] [--out pred]

Writes ``result.json`` beside the predictions: a score for each task; with ``--e`` one for each
range of lengths. The metrics' libraries come with ``pip install mustafar[longbench]``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path

from long_bench_metrics import sample_score

BENCH = json.loads(Path(__file__).with_name("long_bench.json").read_text())
RANGES = ((4000, "0-4k"), (8000, "4-8k"), (float("inf"), "8k+"))


def scores(file: Path, task: str, by_length: bool) -> float | dict[str, float]:
    found = defaultdict(list)
    with file.open() as lines:
        for line in map(json.loads, lines):
            length = next(name for most, name in RANGES if (line["length"] or 0) < most)
            score = sample_score(
                BENCH["tasks"][task]["metric"], line["pred"], line["answers"],
                line["all_classes"], task in BENCH["first_line_only"],
            )  # fmt: skip
            found[length if by_length else ""].append(score)
    means = {name: round(100 * sum(all_) / len(all_), 2) for name, all_ in found.items()}
    return means if by_length else means.get("", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="the folder's name")
    parser.add_argument("--e", action="store_true", help="LongBench-E")
    parser.add_argument("--out", type=Path, help="default: pred, or pred_e")
    options = parser.parse_args()
    folder = (options.out or Path("pred_e" if options.e else "pred")) / options.model
    files = sorted(f for f in folder.glob("*.jsonl") if f.stem in BENCH["tasks"])
    if not files:
        parser.error(f"--model: {folder} has no predictions, <task>.jsonl")
    results = {file.stem: scores(file, file.stem, options.e) for file in files}
    text = json.dumps(results, indent=2, ensure_ascii=False)
    unfinished = folder / f".result.{os.getpid()}"
    with unfinished.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(folder / "result.json")
    print(text)


if __name__ == "__main__":
    main()
