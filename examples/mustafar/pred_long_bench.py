"""Answers LongBench's questions with a compressed KV cache, one JSON line a sample.

    python examples/mustafar/pred_long_bench.py --model FOLDER --data FOLDER/data
    python examples/mustafar/pred_long_bench.py             # random weights, made-up samples

Needs ``transformers``. ``--data`` has LongBench's ``<task>.jsonl`` (``<task>_e.jsonl`` with
``--e``). Without a model or data both are made up: that shows that everything runs, and its scores
say nothing. Writes ``--out``/<model>_<tokens>_K_<sparsity>_V_<sparsity>/<task>.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR
from mustafar.models.mistral_mustafar_kernel import MistralForCausalLM_MUSTAFAR
from tqdm import tqdm
from transformers import AutoTokenizer

BENCH = json.loads(Path(__file__).with_name("long_bench.json").read_text())
MODES = {"mustafar": LlamaForCausalLM_MUSTAFAR, "mustafar-mistral": MistralForCausalLM_MUSTAFAR}


class Letters:
    """The tokenizer of the model without weights: a token is a byte."""

    eos_token_id = 0
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1 + b for b in text.encode()]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(i - 1 for i in ids if i > 0).decode(errors="replace")


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    rule = {name: getattr(options, name) for name in ("k_sparsity", "v_sparsity", "group_size")}
    rule["residual_length"] = options.residual_length
    kind = MODES[options.mode]
    if options.model:
        model = kind.from_pretrained(options.model, dtype=dtype, **rule)
        return model.to(device).eval(), AutoTokenizer.from_pretrained(options.model, use_fast=False)
    print("no --model: random weights; scores will say nothing")
    config = kind.config_class(
        vocab_size=257, hidden_size=128, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=0, **rule,
    )  # fmt: skip
    return kind(config).to(device, dtype).eval(), Letters()


def samples(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.data:
        file = Path(options.data) / f"{task}{'_e' if options.e else ''}.jsonl"
        with file.open() as lines:
            found = [json.loads(line) for line in lines]
    else:
        draw = random.Random(task)
        words = [" ".join(draw.choices("apple bear cloud door".split(), k=120)) for _ in range(3)]
        found = [
            {"input": "Which word is first?", "context": text, "answers": [text.split()[0]],
             "all_classes": None, "length": 120} for text in words
        ]  # fmt: skip
    return found[: options.samples] if options.samples else found


def shortened(ids: list[int], most: int) -> list[int]:
    """The first and the last half of what may be there."""
    return ids if len(ids) <= most else ids[: most // 2] + ids[len(ids) - most // 2 :]


def wants_chat(name: str, task: str) -> bool:
    chat = ("llama-3" in name.lower() and "instruct" in name.lower()) or "longchat" in name
    return (chat or "mistral-v0.2-instruct" in name) and task not in BENCH["without_chat"]


def answers(
    model: Any, tokenizer: Any, task: str, most: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    rule = BENCH["tasks"][task]
    stop = [tokenizer.eos_token_id]
    if task == "samsum":
        stop.append(tokenizer.encode("\n", add_special_tokens=False)[-1])
    for sample in tqdm(samples(task, options), desc=task):
        text = rule["prompt"].format(**sample)
        ids = shortened(tokenizer.encode(text), most)
        if wants_chat(options.name, task) and tokenizer.chat_template:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer.encode(text, add_special_tokens=False)
        prompt = torch.tensor([ids], device=model.device)
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=1,
            max_new_tokens=min(rule["new"], options.new or rule["new"]), eos_token_id=stop,
        )  # fmt: skip
        new = out[0, prompt.shape[1] :].tolist()
        pred = tokenizer.decode(new, skip_special_tokens=True)
        kept = {name: sample.get(name) for name in ("answers", "all_classes", "length")}
        yield {"pred": pred} | kept


def write_lines(file: Path, lines: Iterator[dict[str, Any]]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("w") as out:
            for line in lines:
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a folder with a model; its name decides the length")
    parser.add_argument("--data", help="a folder with LongBench's .jsonl files")
    parser.add_argument("--tasks", nargs="+", choices=sorted(BENCH["tasks"]), metavar="TASK")
    parser.add_argument("--mode", choices=sorted(MODES), default="mustafar")
    for name in ("k_sparsity", "v_sparsity"):
        parser.add_argument(f"--{name}", type=float, default=0.5)
    for name in ("group_size", "residual_length"):
        parser.add_argument(f"--{name}", type=int, default=32)
    parser.add_argument("--e", action="store_true", help="LongBench-E")
    parser.add_argument("--samples", type=int, help="the first ones of each task alone")
    parser.add_argument("--new", type=int, help="no more new tokens than these")
    parser.add_argument("--out", type=Path, help="default: pred, or pred_e")
    options = parser.parse_args()
    torch.manual_seed(42)
    options.name = Path(options.model).name if options.model else "random"
    most = BENCH["tokens_of_model"].get(options.name, BENCH["tokens_without_name"])
    model, tokenizer = load(options)
    tasks = options.tasks or [
        t for t in BENCH["english"] if not (options.e and t in BENCH["without_e"])
    ]
    out = options.out or Path("pred_e" if options.e else "pred")
    out /= f"{options.name}_{most}_K_{options.k_sparsity}_V_{options.v_sparsity}"
    for task in tasks:
        write_lines(out / f"{task}.jsonl", answers(model, tokenizer, task, most, options))
    print(out)


if __name__ == "__main__":
    with torch.no_grad():
        main()
