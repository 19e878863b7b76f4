"""``python -m hstu_attn``: what is installed, what is in the build, which GPUs it serves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hstu_attn import __version__
from hstu_attn.ops import LIBRARY, build_info


def served_by(capability: tuple[int, int], archs: Sequence[str]) -> str | None:
    """Which of ``archs`` runs on a GPU of this compute capability, or None.

    Machine code ``sm_XY`` runs on GPUs with the same major and at least that minor number;
    ``compute_XY`` is compiled by the driver for every GPU that is not older.
    """
    best: tuple[int, int] | None = None
    for arch in archs:
        kind, _, number = arch.partition("_")
        if not number.isdigit():
            continue
        version = (int(number[:-1]), int(number[-1]))
        if kind == "sm" and version[0] == capability[0] and version <= capability:
            best = version if best is None else max(best, version)
    if best is not None:
        return f"sm_{best[0]}{best[1]}"
    for arch in archs:
        kind, _, number = arch.partition("_")
        if kind != "compute" or not number.isdigit():
            continue
        if (int(number[:-1]), int(number[-1])) <= capability:
            return arch
    return None


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
    print(f"hstu_attn  {__version__}")
    print(f"library    {LIBRARY}")
    print(f"           version {info['version']}, CUDA {info['cuda']}, {info['archs']}")
    print(f"features   in the build: {', '.join(info['enabled']) or 'none'}")
    print(f"           left out:     {', '.join(info['disabled']) or 'none'}")
    print(f"torch      {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    if torch.version.cuda is None:
        print("GPU        this PyTorch has no CUDA support; CPU tensors use the reference")
    elif not torch.cuda.is_available():
        print("GPU        none is visible to PyTorch; CPU tensors use the reference")
    else:
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            capability = torch.cuda.get_device_capability(index)
            print(f"GPU {index}      {gpu_line(name, capability, info)}")


if __name__ == "__main__":
    main()
