"""Loading a package's op library, a shared object on the LibTorch stable ABI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch


def load(
    package: str, library: Path, minimum_torch: tuple[int, int], wheel: str | None = None
) -> None:
    """Loads ``library``, which defines ``torch.ops.<package>``.

    ``wheel`` is the distribution that brings it, where that has another name than the package.

    Raises:
        ImportError: an older PyTorch than ``minimum_torch``, or a library that is missing or
            broken; one sentence that says what to install.
    """
    wheel = wheel or package.replace("_", "-")
    release = torch.__version__.split("+")[0].split(".")
    if (int(release[0]), int(release[1])) < minimum_torch:
        raise ImportError(
            f"{package} needs PyTorch >= {minimum_torch[0]}.{minimum_torch[1]}, but this is "
            f"{torch.__version__}: install a newer PyTorch"
        )
    if not library.is_file():
        raise ImportError(
            f"{package}: the op library {library.name} is missing from {library.parent}: install "
            f"the {wheel} wheel (a source tree alone has no library), or build it with Bazel"
        )
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(
            f"{package}: the op library {library} cannot be loaded ({error}): reinstall the "
            f"{wheel} wheel made for this platform"
        ) from error


def build_info(package: str) -> dict[str, Any]:
    """What the loaded library is: version, archs, cuda, enabled and disabled features."""
    return cast(dict[str, Any], json.loads(getattr(torch.ops, package).build_info()))
