"""Time and memory of ``generate`` with a compressed KV cache, beside the same model's dense one.

    python examples/mustafar/mem_spd_test.py --random --batch 8 --context 8192
    python examples/mustafar/mem_spd_test.py --model FOLDER --batch 32

Needs ``transformers``. ``--random`` is a model of Llama-3-8B's shape with random weights
(``--layers`` makes it smaller), given random tokens: its times mean something, its words do not.
"""

from __future__ import annotations

import argparse
import time

import torch
from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
SHAPE |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}


def model(kind: type, options: argparse.Namespace) -> LlamaForCausalLM:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    sparsity = {"k_sparsity": options.k_sparsity, "v_sparsity": options.v_sparsity}
    if options.model:
        return kind.from_pretrained(options.model, dtype=dtype, **sparsity).to(device).eval()
    config = LlamaConfig(**SHAPE, num_hidden_layers=options.layers, **sparsity, pad_token_id=0)
    with torch.device("meta"):
        made = kind(config).to(dtype)
    made = made.to_empty(device=device).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.constant_(parameter, 1.0) if "norm" in name else parameter.data.normal_(
            0, 0.02
        )
    made.model.rotary_emb = type(made.model.rotary_emb)(config).to(device)
    return made


@torch.no_grad()
def measure(name: str, kind: type, options: argparse.Namespace) -> None:
    made = model(kind, options)
    ids = torch.randint(1, made.config.vocab_size, (options.batch, options.context))
    ids, cuda = ids.to(made.device), made.device.type == "cuda"
    times = []
    for _ in range(1 + options.repeats):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        begin = time.perf_counter()
        made.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.new,
            min_new_tokens=options.new, do_sample=False, use_cache=True,
        )  # fmt: skip
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    seconds = min(times[1:])
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else ""
    rate = options.batch * options.new / seconds
    print(f"{name:<10} {1e3 * seconds:9.1f} ms, {rate:8.1f} tokens/s{peak}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a folder with a LLaMA model")
    what.add_argument("--random", action="store_true", help="random weights")
    for name, value in {
        "layers": 32,
        "batch": 32,
        "context": 300,
        "new": 600,
        "repeats": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("k_sparsity", "v_sparsity"):
        parser.add_argument(f"--{name}", type=float, default=0.7)
    options = parser.parse_args()
    measure("mustafar", LlamaForCausalLM_MUSTAFAR, options)
    measure("dense", LlamaForCausalLM, options)


if __name__ == "__main__":
    main()
