"""``python -m mustafar``: the imports of older scripts, versions, GPUs, and a self-test."""

from __future__ import annotations

import torch

from mustafar import MustafarCache, __version__, decode_attention, ref
from mustafar._core.report import line, served_by, torch_lines
from mustafar.ops import LIBRARY, build_info


def gpu_line(name: str, capability: tuple[int, int], archs: list[str]) -> str:
    """One line about a GPU: whether this build serves it."""
    text = f"{name}, compute capability {capability[0]}.{capability[1]}: "
    arch = served_by(capability, archs)
    if arch is None:
        return text + f"NOT SERVED: the build has {', '.join(archs)}; 8.0 or newer is needed"
    return text + f"served ({arch})"


def self_test(device: str) -> float:
    """The error of a decode of 300 pruned tokens, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float16 if device == "cuda" else torch.float32
    k, v, q = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in ((2, 2, 300, 64), (2, 2, 300, 64), (2, 8, 64))
    )
    cache = MustafarCache(2, 2, 64, 512, block=64, dtype=dtype, device=device)
    cache.prefill(k, v)
    exact = ref.decode(q.double(), cache.tensors, 64**-0.5)
    error = (decode_attention(q, cache).double() - exact).abs().max() / exact.abs().max()
    return float(error)


def main() -> int:
    import mustafar_package  # noqa: F401

    print("✓ mustafar_package imported successfully")
    from mustafar.compression import convert_key_batched, convert_value_batched  # noqa: F401

    print("✓ compression functions imported successfully")
    print("✓ All imports successful")
    info = build_info()
    archs = str(info["archs"]).split(",")
    print(line("mustafar", __version__))
    print(line("library", str(LIBRARY)))
    print(line("", f"version {info['version']}, CUDA {info['cuda']}, {info['archs']}"))
    for text in torch_lines(lambda name, capability: gpu_line(name, capability, archs)):
        print(text)
    wrong = False
    for device in ("cpu", *["cuda"] * torch.cuda.is_available()):
        error = self_test(device)
        wrong = wrong or not error < 2e-3
        print(line("self-test", f"{device}: {'FAILED, ' * wrong}relative error {error:.1e}"))
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
