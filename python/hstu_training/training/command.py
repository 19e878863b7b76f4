"""The command line of both training programs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hstu_training.modules.hstu_attention import check_a100_gpu


def _arguments(task: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Trains a {task} model described by a gin file.")
    parser.add_argument(
        "--gin-config-file", "--gin_config_file", required=True, metavar="FILE", type=Path
    )
    parser.add_argument(
        "--gin-bindings", action="append", default=[], metavar="CLASS.FIELD=VALUE",
        help="a setting that comes after the file's; can be given more than once",
    )  # fmt: skip
    parser.add_argument("--device", choices=["cuda", "cpu"], help="cpu: without the GPU check")
    parser.add_argument(
        "--gpu-check", choices=["a100", "any"], default="a100",
        help="any: every GPU that hstu_attn serves",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="a folder; default: outputs/<gin file>")
    return parser


def _device_of(path: Path) -> str:
    """TrainerArgs.device of a gin file, before anything of it is believed."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.findall(r"""^TrainerArgs\.device\s*=\s*["'](cpu|cuda)["']""", text, re.MULTILINE)
    return found[-1] if found else "cuda"


def run(task: str, arguments: Sequence[str] | None = None) -> int:
    """Trains "ranking" or "retrieval".

    Returns:
        the exit status: 0; 1 where something is wrong, which is printed.

    Raises:
        RuntimeError: not the GPU that is asked for.
    """
    parser = _arguments(task)
    given = parser.parse_args(arguments)
    device = given.device or _device_of(given.gin_config_file)
    if device != "cpu":  # the first thing of all
        check_a100_gpu(given.gpu_check)
    import torch

    from hstu_training.data.columns import DataError
    from hstu_training.training import gin_file
    from hstu_training.training.build import build
    from hstu_training.training.checkpoint import CheckpointError
    from hstu_training.training.processes import Processes
    from hstu_training.training.settings import Settings
    from hstu_training.training.trainer import NotFinite, Trainer

    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # batches are small: threads wait for one another
    processes = None
    try:
        gin_file.parse(given.gin_config_file, given.gin_bindings)
        settings = Settings.read(task == "ranking")
        processes = Processes(device)
        built = build(settings, processes)
        output = given.output or Path("outputs") / given.gin_config_file.stem
        return Trainer(built, output).run()
    except (gin_file.ConfigError, DataError, CheckpointError, NotFinite) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        if processes is not None:
            processes.end()
