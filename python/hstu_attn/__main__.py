"""``python -m hstu_attn``: what is installed, what is in the build, which GPUs it serves."""

from __future__ import annotations

import torch

from hstu_attn import __version__
from hstu_attn._core.report import NO_GPU, line, served_by, torch_lines
from hstu_attn.ops import LIBRARY, build_info


def gpu_line(name: str, capability: tuple[int, int], info: dict[str, object]) -> str:
    """One line about a GPU: whether this build serves it, and what to do if not."""
    archs = str(info["archs"]).split(",")
    text = f"{name}, compute capability {capability[0]}.{capability[1]}: "
    arch = served_by(capability, archs)
    if arch is None:
        return text + (
            f"NOT SERVED: the build has {', '.join(archs)}; use a GPU of compute capability 8.0 or "
            "newer, or build with this architecture"
        )
    disabled = info["disabled"]
    assert isinstance(disabled, list)
    small_shared_memory = capability in ((8, 6), (8, 9)) or capability[0] == 12
    if small_shared_memory and "86OR89" in disabled:
        return text + "NOT SERVED: kernels for it were left out (HSTU_DISABLE_86OR89)"
    how = "compiled by the driver at first use" if arch.startswith("compute") else "machine code"
    return text + f"served ({arch}, {how})"


def main() -> None:
    info = build_info()
    without = "this PyTorch has no CUDA support" if torch.version.cuda is None else NO_GPU
    print(line("hstu_attn", __version__))
    print(line("library", str(LIBRARY)))
    print(line("", f"version {info['version']}, CUDA {info['cuda']}, {info['archs']}"))
    print(line("features", f"in the build: {', '.join(info['enabled']) or 'none'}"))
    print(line("", f"left out:     {', '.join(info['disabled']) or 'none'}"))
    for text in torch_lines(
        lambda name, capability: gpu_line(name, capability, info),
        without + "; CPU tensors use the reference",
    ):
        print(text)


if __name__ == "__main__":
    main()
