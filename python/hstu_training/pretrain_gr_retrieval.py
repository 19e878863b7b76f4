"""Trains a retrieval model.

torchrun -m hstu_training.pretrain_gr_retrieval --gin-config-file=FILE
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hstu_training.training.command import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return run("retrieval", arguments)


if __name__ == "__main__":
    sys.exit(main())
