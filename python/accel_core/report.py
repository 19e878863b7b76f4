"""What ``python -m <package>`` says about PyTorch and the GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

NAME_WIDTH = 10
NO_GPU = "none is visible to PyTorch"


def line(name: str, text: str) -> str:
    return f"{name:<{NAME_WIDTH}} {text}"


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


def torch_lines(gpu: Callable[[str, tuple[int, int]], str], without: str = NO_GPU) -> list[str]:
    """PyTorch and each of its GPUs; ``gpu(name, capability)`` describes one."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken torch is what the report is for
        return [line("torch", f"does not import: {type(error).__name__}: {error}")]
    lines = [line("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")]
    if not torch.cuda.is_available():
        return [*lines, line("GPU", without)]
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        capability = torch.cuda.get_device_capability(index)
        lines.append(line(f"GPU {index}", gpu(name, capability)))
    return lines
