"""Time and memory of decoding with a compressed KV cache, beside the same model's dense one.

    python examples/mustafar/mem_spd_test.py --random --batch 8 --context 8192
    python examples/mustafar/mem_spd_test.py --model FOLDER --batch 32

Needs ``transformers``. ``--random`` is a model of Llama-3-8B's shape with random weights
(``--layers`` makes it smaller): its times mean something, its words do not. Prompts are random
tokens. After the prompt every model makes ``--new`` tokens, one step at a time: on a GPU the step
is one CUDA graph, for the dense model over transformers' static cache. ``--largest`` also tries how
many sequences of a context fit on the GPU. Results go to ``--out`` as well, as JSON.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mustafar import MustafarCache
from mustafar.models.attention import MustafarModelCache
from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
SHAPE |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
NUMBERS = {"layers": 32, "batch": 32, "context": 300, "new": 600, "repeats": 3, "group_size": 32}
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if CUDA else ("cpu", torch.float32)


def model_of(kind: type, options: argparse.Namespace) -> Any:
    extra = {"residual_length": options.group_size}
    if options.model:
        return kind.from_pretrained(options.model, dtype=DTYPE, **extra).to(DEVICE).eval()
    config = LlamaConfig(**SHAPE, num_hidden_layers=options.layers, **extra, pad_token_id=0)
    with torch.device("meta"):
        made = kind(config).to(DTYPE)
    made = made.to_empty(device=DEVICE).eval()
    for name, parameter in made.named_parameters():
        parameter.data.fill_(1) if "norm" in name else parameter.data.normal_(0, 0.02)
    made.model.rotary_emb = type(made.model.rotary_emb)(config).to(DEVICE)
    return made


def nbytes(cache: Any) -> int:
    if isinstance(cache, MustafarModelCache):
        return cache.nbytes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


class Step:
    """A decode step: the last tokens in, the next ones out, all in place."""

    def __init__(self, model: Any, cache: Any, last: Tensor, length: int, capacity: int) -> None:
        self.model, self.cache, self.ids = model, cache, last.clone()
        self.position = torch.tensor([[length]], device=last.device)
        self.slots = torch.arange(capacity, device=last.device)
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else None
        self.name = name or "past_key_values"

    def __call__(self) -> None:
        mask = (self.slots <= self.position)[None, None]
        out = self.model(
            self.ids, attention_mask=mask, position_ids=self.position, use_cache=True,
            cache_position=self.position[0], **{self.name: self.cache},
        )  # fmt: skip
        self.ids.copy_(out.logits[:, -1:].argmax(-1))
        self.position += 1


def captured(step: Step) -> Callable[[], object]:
    """Two steps to load the kernels, then the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        step()
        step()
        with torch.cuda.graph(graph, stream=stream):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


def seconds(call: Callable[[], object]) -> float:
    if CUDA:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


@torch.no_grad()
def measure(model: Any, sparsity: float | None, options: argparse.Namespace) -> dict[str, Any]:
    """One way to keep keys and values; ``sparsity`` None: dense, transformers' own."""
    capacity = options.context + options.repeats * options.new + 4
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(
        1, model.config.vocab_size, (options.batch, options.context), generator=draw
    )
    ids = ids.to(DEVICE)
    if sparsity is None:
        cache: Any = StaticCache(config=model.config, max_cache_len=capacity)
    else:
        model.config.k_sparsity, model.config.v_sparsity = sparsity, sparsity
        cache = model.make_cache(capacity)
    step = Step(model, cache, ids[:, -1:], options.context, capacity)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    positions = torch.arange(options.context, device=DEVICE)

    def prefill() -> None:
        out = model(
            ids, position_ids=positions[None], cache_position=positions, use_cache=True,
            logits_to_keep=1, **{step.name: cache},
        )  # fmt: skip
        step.ids.copy_(out.logits[:, -1:].argmax(-1))

    result = {"prefill_ms": 1e3 * seconds(prefill)}
    run = captured(step) if CUDA else step

    def steps() -> None:
        if CUDA and sparsity is not None:
            cache.advance(options.new)  # what replays add
        for _ in range(options.new):
            run()

    best = min(seconds(steps) for _ in range(options.repeats))
    result |= {"step_ms": 1e3 * best / options.new, "tokens/s": options.batch * options.new / best}
    result["cache_GB"] = nbytes(cache) / 1e9
    if CUDA:
        result["peak_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def fits(model: Any, batch: int, sparsity: float | None, context: int, keep: list[Any]) -> bool:
    """Whether a cache of so many sequences can be had, and a step be made over it."""
    config = model.config
    heads, head_dim = config.num_key_value_heads, config.head_dim
    try:
        if sparsity is None:
            cache: Any = StaticCache(config=config, max_cache_len=context)
            cache.early_initialization(batch, heads, head_dim, DTYPE, DEVICE)
        else:
            cache = model.make_cache(context)
            for _ in range(config.num_hidden_layers):
                layer = MustafarCache(
                    batch, heads, head_dim, context, k_sparsity=sparsity, v_sparsity=sparsity
                )
                for tensor in layer.tensors:
                    if tensor is not None:
                        tensor.zero_()
                cache.caches.append(layer)
        Step(model, cache, torch.ones(batch, 1, dtype=torch.long, device=DEVICE), 0, context)()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return False
    keep.append(cache)
    return True


@torch.no_grad()
def largest(model: Any, sparsity: float | None, context: int) -> int:
    """How many sequences fit: what free memory would hold, less by a twentieth until they do."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    keep: list[Any] = []
    fits(model, 1, sparsity, context, keep)
    one = nbytes(keep.pop())
    free = torch.cuda.get_device_properties(0).total_memory - before
    count = int(free / one)
    while not fits(model, count, sparsity, context, []):
        torch.cuda.empty_cache()
        count -= max(1, count // 20)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a folder with a LLaMA model")
    what.add_argument("--random", action="store_true", help="random weights")
    for name, value in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.7], help="of keys, values")
    parser.add_argument("--largest", type=int, metavar="CONTEXT", help="sequences that fit")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the results")
    options = parser.parse_args()
    results = {}
    for kind in (LlamaForCausalLM_MUSTAFAR, LlamaForCausalLM):
        model = model_of(kind, options)
        ways = options.sparsity if kind is LlamaForCausalLM_MUSTAFAR else [None]
        for sparsity in ways:
            name = "dense" if sparsity is None else f"mustafar {sparsity}"
            results[name] = measure(model, sparsity, options)
            if options.largest and CUDA:
                torch.cuda.empty_cache()
                results[name]["largest_batch"] = largest(model, sparsity, options.largest)
            print(name, {k: round(x, 2) for k, x in results[name].items()}, flush=True)
        del model
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "mem_spd_test.json"
    target.write_text(json.dumps({"options": vars(options), "results": results}, default=str))
    print(target)


if __name__ == "__main__":
    main()
