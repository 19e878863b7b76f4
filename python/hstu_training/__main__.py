"""``python -m hstu_training``: what is installed, and what is missing to train."""

from __future__ import annotations

from importlib.util import find_spec

from hstu_training import __version__
from hstu_training._core.report import line, torch_lines

_NEEDS = {"trains": ("torch", "hstu_attn", "dynamicemb", "generative_recommenders", "gin"),
          "plots": ("matplotlib",), "TensorBoard": ("tensorboard",),
          "TorchRec": ("torchrec",)}  # fmt: skip


def main() -> None:
    print(line("package", f"hstu_training {__version__}"))
    for what, modules in _NEEDS.items():
        missing = [module for module in modules if not find_spec(module)]
        print(line(what, f"no: {', '.join(missing)} not installed" if missing else "yes"))
    for text in torch_lines(lambda name, capability: f"{name}, compute capability {capability}"):
        print(text)


if __name__ == "__main__":
    main()
