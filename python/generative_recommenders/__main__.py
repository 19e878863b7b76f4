"""``python -m generative_recommenders``: what is installed, and which kernel kinds it can run."""

from __future__ import annotations

from importlib.util import find_spec

from generative_recommenders import __version__
from generative_recommenders._core.report import line, torch_lines
from generative_recommenders.common import has_compiled_kernels


def compiled() -> str:
    """What TRITON_CC can run."""
    if not has_compiled_kernels():
        return "cannot run: this wheel has no compiled kernels"
    from generative_recommenders.ops.compiled import NAMES, build_info

    return f"can run: {len(NAMES)} kernels by Triton {build_info()['triton']}"


def main() -> None:
    print(line("package", f"generative_recommenders {__version__}"))
    for kind, module in (("PYTORCH", "torch"), ("TRITON", "triton"), ("CUDA", "hstu_attn")):
        there = "can run" if find_spec(module) else f"cannot run: {module} is not installed"
        print(line(kind, there))
    print(line("TRITON_CC", compiled()))
    for text in torch_lines(lambda name, capability: f"{name}, compute capability {capability}"):
        print(text)


if __name__ == "__main__":
    main()
