"""``python -m causal_conv1d``: what is installed, which GPUs it serves, and whether it computes.

``--objects`` lists the kernels in the library's code objects for AMD GPUs in place of that.
"""

from __future__ import annotations

import argparse

import torch

from causal_conv1d import DISTRIBUTION, __version__, code_objects
from causal_conv1d._core.report import NO_GPU, line, served_by, torch_lines
from causal_conv1d.causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_ref
from causal_conv1d.ops import LIBRARY, build_info


def gpu_line(name: str, capability: tuple[int, int], archs: list[str]) -> str:
    """One line about a GPU: whether this build serves it."""
    arch = served_by(capability, archs)
    text = f"{name}, compute capability {capability[0]}.{capability[1]}: "
    if arch is None:
        return text + f"NOT SERVED: the build has {', '.join(archs)}"
    return text + f"served ({arch})"


def self_test(device: str) -> float:
    """The largest error of a small convolution on ``device``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 33, 300, generator=generator)
    weight, bias = torch.randn(33, 4, generator=generator), torch.randn(33, generator=generator)
    there = x.to(device), weight.to(device), bias.to(device)
    out = causal_conv1d_fn(*there, activation="silu")
    right = causal_conv1d_ref(x.double(), weight.double(), bias.double(), activation="silu")
    return float((out.cpu() - right).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser("python -m causal_conv1d")
    parser.add_argument("--objects", action="store_true", help="list the kernels for AMD GPUs")
    if parser.parse_args().objects:
        print(code_objects.listing(code_objects.of_library(LIBRARY)))
        return
    info = build_info()
    archs = info["archs"].split(",")
    print(line(DISTRIBUTION, f" {__version__}, imported as causal_conv1d"))
    print(line("library", str(LIBRARY)))
    print(line("", f"version {info['version']}, CUDA {info['cuda']}, {info['archs']}"))
    without = NO_GPU + "; CPU tensors use the reference"
    for text in torch_lines(lambda name, capability: gpu_line(name, capability, archs), without):
        print(text)
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        error = self_test(device)
        print(line("self-test", f"{device}: {'right' if error < 1e-4 else 'WRONG'}, {error:.1e}"))
        if error >= 1e-4:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
