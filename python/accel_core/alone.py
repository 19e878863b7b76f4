"""For packages whose import name other people's distributions have, too."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def _of(distribution: metadata.Distribution) -> set[Path]:
    return {Path(str(distribution.locate_file(file))) for file in distribution.files or []}


def refuse_others(init: str, distribution: str) -> None:
    """Raises ImportError if the package's folder holds a file that its distribution did not bring.

    pip installs two distributions with one import name over each other, and nobody knows whose code
    runs. Where the installer kept no list of files, nothing is refused.

    Args:
        init: ``__file__`` of the package's ``__init__.py``.
        distribution: the name as pip knows it.
    """
    folder = Path(init).parent
    try:
        ours = _of(metadata.distribution(distribution))
    except metadata.PackageNotFoundError:
        return
    found = {path for path in folder.rglob("*.*") if path.parent.name != "__pycache__"}
    if not ours & found or not (foreign := sorted(found - ours)):
        return  # whole, or a copy beside the installed one
    owners = [d.name for d in metadata.distributions() if foreign[0] in _of(d)]
    whose = owners[0] if owners else "another distribution"
    raise ImportError(
        f"{folder.name}: {foreign[0]} is not of {distribution} but of {whose}, which has this "
        "import name, too: uninstall both and install one"
    )
